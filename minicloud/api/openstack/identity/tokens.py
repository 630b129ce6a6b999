"""Tokens: given for a password or another token, checked, given back."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from minicloud import errors, wsgi
from minicloud.api.openstack import wire
from minicloud.api.openstack.identity import catalog
from minicloud.api.openstack.identity.service import DOMAIN, DOMAIN_ID, DOMAIN_NAME, roles, route
from minicloud.auth import database, tokens
from minicloud.auth.database import Account, Scope
from minicloud.cloud import tokens as given_back
from minicloud.context import Context

_DOMAIN = {
    "type": "object",
    "properties": {"id": wire.TEXT, "name": wire.TEXT},
}
_CALLED = {
    "type": "object",
    "properties": {"id": wire.TEXT, "name": wire.TEXT, "domain": _DOMAIN},
}
LOGIN = wire.wrapped(
    "auth",
    {
        "type": "object",
        "properties": {
            "identity": {
                "type": "object",
                "properties": {
                    "methods": {"type": "array", "items": wire.TEXT, "minItems": 1},
                    "password": wire.wrapped(
                        "user",
                        {
                            **_CALLED,
                            "properties": {
                                **_CALLED["properties"],  # type: ignore[dict-item]
                                "password": {"type": "string"},
                            },
                            "required": ["password"],
                        },
                    ),
                    "token": wire.wrapped("id", {"type": "string"}),
                },
                "required": ["methods"],
            },
            "scope": {
                "anyOf": [
                    {"enum": ["unscoped"]},
                    {
                        "type": "object",
                        "properties": {"project": _CALLED},
                    },
                ]
            },
        },
        "required": ["identity"],
    },
)


@route("POST", "/auth/tokens", schema=LOGIN, public=True)
def log_in(ctx: Context, req: wire.Request) -> wsgi.Response:
    identity = req.body["auth"]["identity"]
    scope = _scope(req.body["auth"].get("scope"))
    if identity["methods"] == ["password"] and "password" in identity:
        account = _by_password(identity["password"]["user"], scope)
        token = tokens.fresh(account.user_id, account.project_id, account.epoch, ("password",))
    elif identity["methods"] == ["token"] and "token" in identity:
        before, holder = database.by_token(identity["token"]["id"])
        account = database.elsewhere(holder.user_id, scope)
        methods = tuple(sorted({*before.methods, "token"}))
        token = tokens.fresh(
            account.user_id, account.project_id, account.epoch, methods, before.expires_at
        )
    else:
        raise errors.NotBuilt(what="A way to authenticate other than password or token")
    req.raw.ctx = account.acting(ctx)  # for the log
    body = {"token": _view(token, account, "nocatalog" not in req.query)}
    return _answer(body, 201, tokens.sealed(token))


def _by_password(user: Mapping[str, Any], scope: Scope) -> Account:
    if not user.get("id") and (not user.get("name") or not user.get("domain")):
        raise errors.InvalidBody(
            where="auth/identity/password/user", reason="a user has an id, or a name and a domain"
        )
    if not _here(user):
        raise errors.WrongPassword
    return database.by_password(
        user["password"], scope, user_id=user.get("id"), name=user.get("name")
    )


def _scope(given: Any) -> Scope:
    if given is None or given == "unscoped":
        return Scope()
    project = given.get("project")
    if project is None:
        raise errors.NotBuilt(what="A scope other than a project")
    if not project.get("id") and not project.get("name"):
        raise errors.InvalidBody(
            where="auth/scope/project", reason="a project has an id, or a name and a domain"
        )
    if not _here(project):
        raise errors.WrongPassword
    return Scope(project.get("id"), project.get("name"))


def _here(thing: Mapping[str, Any]) -> bool:
    """In the one domain there is."""
    domain = thing.get("domain") or DOMAIN
    return domain.get("id", DOMAIN_ID) == DOMAIN_ID and (
        domain.get("name", DOMAIN_NAME).lower() == DOMAIN_NAME.lower()
    )


@route("GET", "/auth/tokens")
def validate(ctx: Context, req: wire.Request) -> wsgi.Response:
    """A token of one's own, or for admins of anybody's."""
    text, token, account = _subject(ctx, req)
    return _answer({"token": _view(token, account, "nocatalog" not in req.query)}, 200, text)


@route("DELETE", "/auth/tokens", status=204)
def revoke(ctx: Context, req: wire.Request) -> None:
    given_back.revoke(ctx, _subject(ctx, req)[1])


def _subject(ctx: Context, req: wire.Request) -> tuple[str, tokens.Token, Account]:
    """The token that is asked about; NotFound, also for a stranger's."""
    text = req.raw.headers.get("x-subject-token", "")
    missing = errors.NotFound(kind="The token", id="in X-Subject-Token")
    try:
        token, account = database.by_token(text)
    except errors.InvalidToken:
        raise missing from None
    if account.user_id != ctx.user_id and not ctx.is_admin:
        raise missing
    return text, token, account


def _answer(body: dict[str, Any], status: int, token: str) -> wsgi.Response:
    answer = wsgi.Response(json=body, status=status, vary=["X-Auth-Token"])
    answer.headers["X-Subject-Token"] = token
    return answer


def _view(token: tokens.Token, account: Account, with_catalog: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "methods": list(token.methods),
        "user": {
            "domain": DOMAIN,
            "id": account.user_id,
            "name": account.user,
            "password_expires_at": None,
        },
        "audit_ids": [token.id],
        "expires_at": _time(token.expires_at),
        "issued_at": _time(token.issued_at),
    }
    if account.project_id:
        found |= {
            "project": {"domain": DOMAIN, "id": account.project_id, "name": account.project},
            "is_domain": False,
            "roles": roles(account.is_admin),
        }
        if with_catalog:
            found["catalog"] = catalog.entries()
    return found


def _time(at: float) -> str | None:
    return wire.time(datetime.datetime.fromtimestamp(at, datetime.UTC), micro=True)
