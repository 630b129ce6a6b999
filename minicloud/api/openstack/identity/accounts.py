"""Projects, users, roles and the one domain: for looking; minicloud-manage changes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from minicloud import errors
from minicloud.api.openstack import wire
from minicloud.api.openstack.identity.service import DOMAIN, DOMAIN_ID, ROLES, route
from minicloud.cloud import projects, users
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Project, User

PASSWORD = wire.wrapped(
    "user",
    wire.obj(
        {"password": {"type": "string"}, "original_password": {"type": "string"}},
        ("password", "original_password"),
    ),
)


@route("GET", "/projects")
def list_projects(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _listed(req, "projects", projects.find(ctx), _project)


@route("GET", "/auth/projects")
def list_own_projects(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _listed(req, "projects", projects.mine(ctx), _project)


@route("GET", "/projects/{project_id}")
def show_project(ctx: Context, req: wire.Request, project_id: str) -> dict[str, Any]:
    for row in projects.mine(ctx):
        if row.id == project_id:
            return {"project": _project(req, row)}
    raise errors.ProjectNotFound(id=project_id)


@route("GET", "/users")
def list_users(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _listed(req, "users", users.find(ctx), _user)


@route("GET", "/users/{user_id}")
def show_user(ctx: Context, req: wire.Request, user_id: str) -> dict[str, Any]:
    return {"user": _user(req, users.seen(ctx, user_id))}


@route("GET", "/users/{user_id}/projects")
def list_projects_of_user(ctx: Context, req: wire.Request, user_id: str) -> dict[str, Any]:
    rows = projects.mine(ctx) if user_id == ctx.user_id else projects.of_user(ctx, user_id)
    return _listed(req, "projects", rows, _project)


@route("POST", "/users/{user_id}/password", schema=PASSWORD, status=204)
def change_password(ctx: Context, req: wire.Request, user_id: str) -> None:
    given = req.body["user"]
    users.change_password(ctx, user_id, given["original_password"], given["password"])


@route("GET", "/roles")
def list_roles(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _listed(req, "roles", sorted(ROLES), _role)


@route("GET", "/roles/{role_id}")
def show_role(ctx: Context, req: wire.Request, role_id: str) -> dict[str, Any]:
    if role_id not in ROLES.values():
        raise errors.RoleNotFound(id=role_id)
    return {"role": _role(req, role_id)}


@route("GET", "/domains")
@route("GET", "/auth/domains")
def list_domains(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _listed(req, "domains", [DOMAIN], _domain)


@route("GET", "/domains/{domain_id}")
def show_domain(ctx: Context, req: wire.Request, domain_id: str) -> dict[str, Any]:
    if domain_id != DOMAIN_ID:
        raise errors.NotFound(kind="The domain", id=domain_id)
    return {"domain": _domain(req, DOMAIN)}


# --- how they look --------------------------------------------------------------------------


def _listed(
    req: wire.Request,
    plural: str,
    rows: Iterable[Any],
    view: Callable[[wire.Request, Any], dict[str, Any]],
) -> dict[str, Any]:
    """All that fit the query's words; these lists are as long as an operator makes them."""
    shown = [view(req, row) for row in rows]
    for name in ("name", "domain_id"):
        wanted = req.query.get(name)
        if wanted:
            shown = [one for one in shown if (one.get(name) or DOMAIN_ID) == wanted]
    if "enabled" in req.query and not req.flag("enabled"):
        shown = []
    return {
        plural: shown,
        "links": {"self": f"{req.base}/v3/{plural}", "previous": None, "next": None},
    }


def _project(req: wire.Request, row: Project) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "domain_id": DOMAIN_ID,
        "parent_id": DOMAIN_ID,
        "description": "",
        "enabled": True,
        "is_domain": False,
        "tags": [],
        "options": {},
        "links": {"self": f"{req.base}/v3/projects/{row.id}"},
    }


def _user(req: wire.Request, row: User) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "domain_id": DOMAIN_ID,
        "enabled": True,
        "password_expires_at": None,
        "options": {},
        "links": {"self": f"{req.base}/v3/users/{row.id}"},
    }


def _role(req: wire.Request, name: str) -> dict[str, Any]:
    return {
        "id": ROLES[name],
        "name": name,
        "domain_id": None,
        "description": None,
        "options": {},
        "links": {"self": f"{req.base}/v3/roles/{ROLES[name]}"},
    }


def _domain(req: wire.Request, domain: dict[str, str]) -> dict[str, Any]:
    return {
        **domain,
        "description": "",
        "enabled": True,
        "tags": [],
        "options": {},
        "links": {"self": f"{req.base}/v3/domains/{DOMAIN_ID}"},
    }
