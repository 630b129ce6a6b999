"""Users, their keys and their projects, as the database has them."""

from __future__ import annotations

import dataclasses
from typing import Any

from minicloud import errors
from minicloud.auth import passwords, secrets, tokens
from minicloud.context import Context
from minicloud.db import models, users
from minicloud.db.session import Tx, reading


@dataclasses.dataclass(frozen=True)
class Actor:
    """A user acting in a project."""

    user_id: str
    user: str
    project_id: str
    project: str
    is_admin: bool

    def acting(self, ctx: Context) -> Context:
        """`ctx` as this user's in this project; without one nobody has a role."""
        return dataclasses.replace(
            ctx,
            user_id=self.user_id,
            user=self.user,
            project_id=self.project_id,
            project=self.project,
            roles=("admin",) if self.is_admin and self.project_id else (),
        )


@dataclasses.dataclass(frozen=True)
class Identity(Actor):
    """`secret` is in clear and never logged."""

    secret: str = dataclasses.field(repr=False)


def by_access_key(access_key: str, project: str | None) -> Identity | None:
    """Who has this access key, in the project of that name; None when there is no such user,
    no such project, or the user is neither its member nor an admin.

    Without a name the project is the user's own, called like the user, if there is one, else the
    oldest the user is a member of.  One statement.  Unavailable when the secret cannot be read.
    """
    found = _find(access_key, project)
    if found is None:
        return None
    return Identity(
        user_id=found.id,
        user=found.name,
        project_id=found.project_id,
        project=found.project,
        is_admin=found.is_admin,
        secret=secrets.decrypt(found.secret),
    )


@reading
def _find(tx: Tx, access_key: str, project: str | None) -> Any:
    return users.acting(tx, access_key, project)


# --- users by password and by token -----------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Account(Actor):
    """One who said who they are; without a project the two words of it are ""."""

    epoch: int


@dataclasses.dataclass(frozen=True)
class Scope:
    """The project somebody wants to act in, by id or by name; by neither: none."""

    project_id: str | None = None
    project: str | None = None


def by_password(
    password: str, scope: Scope, *, user_id: str | None = None, name: str | None = None
) -> Account:
    """Who has this id, else this name, and this password, in the project asked for.

    WrongPassword, after the same time, whatever of it is wrong.
    """
    found, kept = _by_name(user_id, name, scope)
    if not passwords.fits(password, kept) or found is None:
        raise errors.WrongPassword
    return found


@reading
def _by_name(
    tx: Tx, user_id: str | None, name: str | None, scope: Scope
) -> tuple[Account | None, str | None]:
    user = users.called(tx, user_id, name)
    if user is None:
        return None, None
    return _in_project(tx, user, scope), user.password


def _in_project(tx: Tx, user: models.User, scope: Scope) -> Account | None:
    if scope.project_id is None and scope.project is None:
        return Account(user.id, user.name, "", "", user.is_admin, user.token_epoch)
    its = users.project(tx, user, scope.project_id, scope.project)
    if its is None:
        return None
    return Account(user.id, user.name, its.id, its.name, user.is_admin, user.token_epoch)


def by_token(text: str) -> tuple[tokens.Token, Account]:
    """Whose token this is, now; InvalidToken.  One statement."""
    token = tokens.opened(text)
    found = _holder(token)
    if found is None:
        raise errors.InvalidToken
    return token, found


@reading
def _holder(tx: Tx, token: tokens.Token) -> Account | None:
    found = users.holder(tx, token.id, token.user_id, token.project_id, token.epoch)
    if found is None:
        return None
    user, is_admin, project = found
    return Account(token.user_id, user, token.project_id, project, is_admin, token.epoch)


@reading
def elsewhere(tx: Tx, user_id: str, scope: Scope) -> Account:
    """The user in another project; WrongPassword when that is not one of theirs."""
    user = users.called(tx, user_id, None)
    found = None if user is None else _in_project(tx, user, scope)
    if found is None:
        raise errors.WrongPassword
    return found
