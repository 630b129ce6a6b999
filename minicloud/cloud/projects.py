"""Projects: what owns resources, and who belongs to them.  Only admins decide here."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from minicloud import errors, ids
from minicloud.auth import policy, secrets
from minicloud.cloud import names, users
from minicloud.context import Context
from minicloud.db import groups, models, rows
from minicloud.db.session import Tx, done, hold, once, reading, transaction


@dataclasses.dataclass(frozen=True)
class Credentials:
    """All that somebody needs to act as `user` in `project`; the secret is in clear."""

    user: str
    project: str
    user_id: str
    project_id: str
    access_key: str
    secret: str = dataclasses.field(repr=False)


@transaction
def create(tx: Tx, ctx: Context, name: str, manager: str) -> models.Project:
    """A project with its group `default` is there, the user `manager` is its first member.

    UserNotFound; NameTaken when there was a project of that name.
    """
    policy.require(ctx, "projects")
    names.check(name, "name", names.ACCOUNT)
    if once(tx, ctx, "project create", None, [name, manager]) is None:
        user = users.held(tx, manager)
        if _named(tx, name) is not None:
            raise errors.NameTaken(kind="project", name=name)
        id = ids.new()
        rows.insert(tx, models.Project, [{"id": id, "name": name, "manager_id": user.id}])
        rows.insert(tx, models.Membership, [{"project_id": id, "user_id": user.id}])
        groups.create_default(tx, id)
        done(tx, ctx, [id])
    return existing(tx, name)


@reading
def find(tx: Tx, ctx: Context) -> list[models.Project]:
    """All projects, by name."""
    policy.require(ctx, "projects")
    return list(tx.scalars(sa.select(models.Project).order_by(models.Project.name)))


@reading
def get(tx: Tx, ctx: Context, name: str) -> models.Project:
    """The project of that name; ProjectNotFound."""
    policy.require(ctx, "projects")
    return existing(tx, name)


@reading
def members(tx: Tx, ctx: Context, name: str) -> list[models.User]:
    """The users that belong to the project, by name; ProjectNotFound."""
    policy.require(ctx, "projects")
    project = existing(tx, name)
    statement = (
        sa.select(models.User)
        .join(models.Membership, models.Membership.user_id == models.User.id)
        .where(models.Membership.project_id == project.id)
        .order_by(models.User.name)
    )
    return list(tx.scalars(statement))


@reading
def mine(tx: Tx, ctx: Context) -> list[models.Project]:
    """The projects the asker may act in, by name: all of them for an admin."""
    project, member = models.Project, models.Membership
    statement = sa.select(project).order_by(project.name)
    if not ctx.is_admin:
        theirs = sa.select(member.project_id).where(member.user_id == ctx.user_id)
        statement = statement.where(project.id.in_(theirs))
    return list(tx.scalars(statement))


@reading
def of_user(tx: Tx, ctx: Context, user_id: str) -> list[models.Project]:
    """The projects a user belongs to, by name: for admins."""
    policy.require(ctx, "projects")
    project, member = models.Project, models.Membership
    theirs = sa.select(member.project_id).where(member.user_id == user_id)
    statement = sa.select(project).where(project.id.in_(theirs)).order_by(project.name)
    return list(tx.scalars(statement))


@transaction
def add(tx: Tx, ctx: Context, project: str, user: str) -> None:
    """The user belongs to the project; repeating it changes nothing.

    ProjectNotFound, UserNotFound.
    """
    policy.require(ctx, "projects")
    if once(tx, ctx, "project add", None, [project, user]) is not None:
        return
    key = {"project_id": held(tx, project).id, "user_id": users.held(tx, user).id}
    if tx.get(models.Membership, key) is None:
        rows.insert(tx, models.Membership, [key])


@transaction
def remove(tx: Tx, ctx: Context, project: str, user: str) -> None:
    """The user does not belong to the project; repeating it changes nothing.

    ProjectNotFound, UserNotFound; InUse for the project's manager.
    """
    policy.require(ctx, "projects")
    if once(tx, ctx, "project remove", None, [project, user]) is not None:
        return
    row, who = held(tx, project), users.held(tx, user)
    if row.manager_id == who.id:
        raise errors.InUse(kind="user", name=user, reason=f"it manages the project {project}")
    member = models.Membership
    tx.changed(sa.delete(member).where(member.project_id == row.id, member.user_id == who.id))


def credentials(ctx: Context, project: str, user: str) -> Credentials:
    """What the user needs to act in the project.

    ProjectNotFound, UserNotFound; Forbidden when the user does not belong to it.
    """
    its, who = _member(ctx, project, user)
    return Credentials(
        user=who.name,
        project=its.name,
        user_id=who.id,
        project_id=its.id,
        access_key=who.access_key,
        secret=secrets.decrypt(who.secret),
    )


@reading
def _member(tx: Tx, ctx: Context, project: str, user: str) -> tuple[models.Project, models.User]:
    policy.require(ctx, "projects")
    its, who = existing(tx, project), users.existing(tx, user)
    key = {"project_id": its.id, "user_id": who.id}
    if not who.is_admin and tx.get(models.Membership, key) is None:
        raise errors.Forbidden(reason=f"{user} does not belong to the project {project}")
    return its, who


@transaction
def delete(tx: Tx, ctx: Context, name: str) -> None:
    """The project is gone with its groups, key pairs, quotas and memberships.

    ProjectNotFound; InUse, naming them, while it has instances, volumes, images, networks or
    buckets.
    """
    policy.require(ctx, "projects")
    if once(tx, ctx, "project delete", None, [name]) is not None:
        return
    id = held(tx, name).id
    found = _resources(tx, id)
    if found:
        raise errors.InUse(kind="project", name=name, reason=f"it has {'; '.join(found)}")
    groups.forget_project(tx, id)
    for model in (models.Tag, models.KeyPair, models.Quota, models.Membership):
        tx.changed(sa.delete(model).where(model.project_id == id))
    tx.changed(sa.delete(models.Project).where(models.Project.id == id))


def _resources(tx: Tx, id: str) -> list[str]:
    """What keeps a project from being deleted, in words: "2 instances (a, b)"."""
    instance, image, network = models.Instance, models.Image, models.Network
    volume = models.Volume
    kinds: list[tuple[str, Any, Any]] = [
        (
            "instances",
            instance.id,
            sa.and_(instance.project_id == id, instance.state != "terminated"),
        ),
        ("volumes", volume.id, sa.and_(volume.project_id == id, volume.state != "deleted")),
        ("images", image.id, sa.and_(image.project_id == id, image.state != "deleted")),
        ("networks", network.name, network.project_id == id),
        ("buckets", models.Bucket.name, models.Bucket.project_id == id),
    ]
    found = []
    for kind, column, condition in kinds:
        some = list(tx.scalars(sa.select(column).where(condition).order_by(column).limit(4)))
        if some:
            found.append(f"{kind}: {', '.join(some[:3])}{', …' if len(some) > 3 else ''}")
    return found


def held(tx: Tx, name: str) -> models.Project:
    """The project of that name, locked until the transaction ends; ProjectNotFound."""
    found = hold(tx, models.Project, [existing(tx, name).id])
    if not found:
        raise errors.ProjectNotFound(id=name)
    return found[0]


def existing(tx: Tx, name: str) -> models.Project:
    found = _named(tx, name)
    if found is None:
        raise errors.ProjectNotFound(id=name)
    return found


def _named(tx: Tx, name: str) -> models.Project | None:
    return tx.scalars(sa.select(models.Project).where(models.Project.name == name)).one_or_none()
