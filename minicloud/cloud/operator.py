"""What only the operator of a whole cloud does: end everything, and begin anew."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from minicloud import errors, states
from minicloud.auth import policy
from minicloud.cloud import instances, projects, shown, volumes
from minicloud.config import CONF
from minicloud.context import Context, new_request_id
from minicloud.db import models
from minicloud.db.session import Tx, hold, reading, transaction

TOGETHER = 100  # instances asked to end, or objects sent to their end, in one transaction

# what tenants have; the rows that name one of these by a foreign key go with them.  Parts leave
# their files to the object store's sweep.
TENANTS: tuple[type[models.Base], ...] = (
    models.User,
    models.RevokedToken,
    models.Project,
    models.KeyPair,
    models.Tag,
    models.SecurityGroup,
    models.Network,
    models.Attachment,
    models.Bucket,
    models.Upload,
    models.Part,
)


@reading
def living(tx: Tx, ctx: Context, machine: states.Machine) -> list[Any]:
    """The machine's rows of all projects that have not come to their end, by project and id."""
    policy.require(ctx, f"{machine.name}s: all")
    row = machine.model
    return list(tx.scalars(_living(machine).order_by(row.project_id, row.id)))


def _living(machine: states.Machine) -> Any:
    row = machine.model
    return sa.select(row).where(row.state.not_in(machine.finals))


# --- ending ---------------------------------------------------------------------------------


def terminate_all(ctx: Context) -> None:
    """Every instance of every project, and every volume that none of them has, is asked to end.

    `living` says which have not yet.  A volume that is attached is free once its instance has
    ended: repeating this asks it too.
    """
    for asker, rows in _by_project(ctx, states.INSTANCE):
        mine = [shown.instance_id(row) for row in rows if row.state != "terminating"]
        for start in range(0, len(mine), TOGETHER):
            instances.terminate(_anew(asker), mine[start : start + TOGETHER])
    for asker, rows in _by_project(ctx, states.VOLUME):
        for row in rows:
            # attached, or deleted by its owner meanwhile
            with contextlib.suppress(errors.VolumeInUse, errors.VolumeNotFound):
                volumes.delete(_anew(asker), shown.volume_id(row))


def _by_project(ctx: Context, machine: states.Machine) -> Iterator[tuple[Context, Iterator[Any]]]:
    """Whoever acts for a project, and what lives of it."""
    for project_id, rows in itertools.groupby(living(ctx, machine), lambda row: row.project_id):
        yield dataclasses.replace(ctx, project_id=project_id), rows


def _anew(ctx: Context) -> Context:
    return dataclasses.replace(ctx, request_id=new_request_id())


# --- beginning anew -------------------------------------------------------------------------


def forget(ctx: Context) -> None:
    """No user, project, key pair, group, network, bucket or quota is left; images stay, of nobody.

    Objects are on their way out: their files go with them.  Repeating it goes on where it was
    left.  InUse while there is an instance or a volume, or an image is read from an object.
    """
    policy.require(ctx, "projects")
    while _empty_buckets(ctx):
        pass
    _forget_tenants(ctx)


@transaction
def _empty_buckets(tx: Tx, ctx: Context) -> bool:
    """Some objects are on their way out; whether there were any."""
    _refuse_living(tx)
    row = models.Object
    some = sa.select(row.bucket_id).where(row.live.is_not(None)).limit(TOGETHER)
    buckets = set(tx.scalars(some))
    hold(tx, models.Bucket, sorted(buckets))
    _end_objects(tx, ctx, row.bucket_id.in_(buckets), TOGETHER)
    return bool(buckets)


def _end_objects(tx: Tx, ctx: Context, which: Any, limit: int | None = None) -> None:
    """Those of held buckets, at most `limit`, are on their way out."""
    row = models.Object
    objects = tx.scalars(sa.select(row).where(row.live.is_not(None), which).limit(limit)).all()
    states.move_all(tx, states.OBJECT, objects, "deleting", states.USER, ctx=ctx, live=None)


@transaction
def _forget_tenants(tx: Tx, ctx: Context) -> None:
    hold(tx, models.Project, list(tx.scalars(sa.select(models.Project.id))))
    hold(tx, models.Bucket, list(tx.scalars(sa.select(models.Bucket.id))))
    _refuse_living(tx)
    _end_objects(tx, ctx, sa.true())  # that came meanwhile; those still to come find no bucket
    tables = models.Base.metadata.sorted_tables
    gone = {models.Base.metadata.tables[model.__tablename__] for model in TENANTS}
    for table in tables:
        if any(key.column.table in gone for key in table.foreign_keys):
            gone.add(table)
    for table in reversed(tables):
        if table in gone:
            tx.execute(sa.delete(table))
    tx.execute(sa.delete(models.GroupLeaving))
    tx.execute(sa.delete(models.Applied))  # of what is gone


def _refuse_living(tx: Tx) -> None:
    registering = sa.select(models.Image).where(models.Image.state == "registering")
    for statement, name in (
        (_living(states.INSTANCE), shown.instance_id),
        (_living(states.VOLUME), shown.volume_id),
        (registering, shown.image_id),
    ):
        left = tx.scalars(statement.limit(1)).first()
        if left is not None:
            raise errors.InUse(
                kind="cloud", name=CONF.tag, reason=f"it has {name(left)} and maybe more"
            )


@transaction
def adopt_images(tx: Tx, ctx: Context, project: str) -> None:
    """Images whose project is gone are this one's; repeating changes nothing.

    ProjectNotFound.
    """
    policy.require(ctx, "projects")
    image, known = models.Image, sa.select(models.Project.id)
    owner = projects.held(tx, project)
    tx.changed(sa.update(image).where(image.project_id.not_in(known)).values(project_id=owner.id))
