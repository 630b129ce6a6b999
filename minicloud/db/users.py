"""Queries for users and the projects they act in."""

from __future__ import annotations

import functools
from typing import Any

import sqlalchemy as sa

from minicloud.db import models
from minicloud.db.session import Tx, reading


def _sayable(word: str) -> bool:
    """Nobody is called by another; some databases refuse to compare with it, others find what is
    only like it."""
    return word.isascii() and word.isprintable()


def called(tx: Tx, id: str | None, name: str | None) -> models.User | None:
    """The user of that id, else of that name."""
    user = models.User
    wanted, column = (id, user.id) if id is not None else (name, user.name)
    if wanted is None or not _sayable(wanted):
        return None
    found = tx.scalars(sa.select(user).where(column == wanted)).one_or_none()
    return found if found is not None and wanted in (found.id, found.name) else None


def project(tx: Tx, user: models.User, id: str | None, name: str | None) -> models.Project | None:
    """The project of that id, else of that name, if the user may act in it."""
    its = models.Project
    wanted, column = (id, its.id) if id is not None else (name, its.name)
    if wanted is None or not _sayable(wanted):
        return None
    statement = sa.select(its).where(column == wanted)
    if not user.is_admin:
        member = models.Membership
        mine = sa.select(member.project_id).where(member.user_id == user.id)
        statement = statement.where(its.id.in_(mine))
    return tx.scalars(statement).one_or_none()


_user, _project, _member = models.User, models.Project, models.Membership
_belongs = (
    sa.select(_member.user_id)
    .where(_member.user_id == _user.id, _member.project_id == _project.id)
    .exists()
)
_ACTING = (
    sa.select(
        *(_user.id, _user.name, _user.is_admin, _user.secret),
        *(_project.id.label("project_id"), _project.name.label("project")),
    )
    .where(_user.access_key == sa.bindparam("access_key"))
    .order_by(sa.case((_project.name == _user.name, 0), else_=1), _project.created_at, _project.id)
    .limit(1)
)
_IN_OWN = _ACTING.join(_member, _member.user_id == _user.id).join(
    _project, _project.id == _member.project_id
)
_IN_NAMED = _ACTING.join(
    _project,
    sa.and_(_project.name == sa.bindparam("project"), sa.or_(_belongs, _user.is_admin.is_(True))),
)
_HOLDER = (
    sa.select(_user.name, _user.is_admin, sa.func.coalesce(_project.name, ""))
    .select_from(
        sa.outerjoin(
            _user,
            _project,
            sa.and_(
                _project.id == sa.bindparam("project_id"),
                sa.or_(_user.is_admin.is_(True), _belongs),
            ),
        )
    )
    .where(
        _user.id == sa.bindparam("user_id"),
        _user.token_epoch == sa.bindparam("epoch"),
        sa.or_(sa.bindparam("project_id") == "", _project.id.is_not(None)),
        ~sa.select(models.RevokedToken.id)
        .where(models.RevokedToken.id == sa.bindparam("token_id"))
        .exists(),
    )
)


def acting(tx: Tx, access_key: str, project: str | None) -> Any:
    """Who has the access key, and the project, as columns (id, name, is_admin, secret, project_id,
    project); see `auth.database.by_access_key`."""
    if not _sayable(access_key + (project or "")):
        return None
    if project is None:
        return tx.execute(_IN_OWN, {"access_key": access_key}).first()
    return tx.execute(_IN_NAMED, {"access_key": access_key, "project": project}).first()


def holder(
    tx: Tx, token_id: str, user_id: str, project_id: str, epoch: int
) -> tuple[str, bool, str] | None:
    """Name of the user, whether it is an admin, and name of the project ("" for none); None when
    the token is revoked or the user does not belong there any more."""
    facts = {
        "token_id": token_id,
        "user_id": user_id,
        "project_id": project_id,
        "epoch": epoch,
    }
    found = tx.execute(_HOLDER, facts).first()
    return None if found is None else (found[0], bool(found[1]), found[2])


@functools.lru_cache(maxsize=4096)  # nobody is renamed
def names(user_id: str, project_id: str) -> tuple[str, str]:
    """The names of a user and a project, for people who read logs; "" for one that is gone."""
    return _names(user_id, project_id)


@reading
def _names(tx: Tx, user_id: str, project_id: str) -> tuple[str, str]:
    user = sa.select(models.User.name).where(models.User.id == user_id).scalar_subquery()
    project = sa.select(models.Project.name).where(models.Project.id == project_id)
    found = tx.execute(sa.select(user, project.scalar_subquery())).one()
    return found[0] or "", found[1] or ""
