"""Rows of what ended long ago, deleted for good by the operator.

A row goes only when nothing that stays refers to it, and none of those a host may have to be told
about: while a host is fenced, what was made before that stays, because the host may come back with
it.  Each transaction deletes a few rows; a purge that is killed is gone on with by the next, and
two at a time do no harm.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from minicloud import errors, states
from minicloud.auth import policy
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import Tx, clock, reading, transaction

TOGETHER = 500  # rows of a transaction, so that it is short on SQLite as well
LEAST_DAYS, MOST_DAYS = 1, 36500  # a client token is remembered for a day at least

_instance, _volume, _image = models.Instance, models.Volume, models.Image
_attachment, _event, _request = models.Attachment, models.Event, models.Request


@dataclasses.dataclass(frozen=True)
class Kind:
    """Rows that are purged: `ended` is their condition, by the time before which they ended;
    `told` says that their last event goes with them."""

    name: str
    model: type[Any]
    ended: Callable[[dt.datetime], Any]
    told: bool = False


def _final(machine: states.Machine, before: dt.datetime) -> Any:
    """In its last state since then, and of no host that may come back with it."""
    row = machine.model
    fenced = sa.select(models.Host.id).where(models.Host.fenced_at >= row.created_at)
    return sa.and_(
        row.state.in_(sorted(machine.finals)), row.updated_at < before, sa.not_(fenced.exists())
    )


def _attachments(before: dt.datetime) -> Any:
    """The last one at its place of an instance that is there says what a disk found there is."""
    later = sa.orm.aliased(_attachment)
    after = sa.select(later.id).where(
        later.instance_id == _attachment.instance_id,
        later.device == _attachment.device,
        later.created_at > _attachment.created_at,
    )
    ended = sa.select(_instance.id).where(
        _instance.id == _attachment.instance_id, _instance.state.in_(states.INSTANCE.finals)
    )
    return sa.and_(_final(states.ATTACHMENT, before), sa.or_(after.exists(), ended.exists()))


def _instances(before: dt.datetime) -> Any:
    address, member, left = models.Address, models.GroupMember, models.GroupLeaving
    booked = [
        sa.select(table.instance_id).where(table.instance_id == _instance.id).exists()
        for table in (address, member, left)
    ]
    return sa.and_(
        _final(states.INSTANCE, before),
        sa.not_(sa.or_(*booked, _attached(_attachment.instance_id == _instance.id, before))),
    )


def _volumes(before: dt.datetime) -> Any:
    attached = _attached(_attachment.volume_id == _volume.id, before)
    return sa.and_(_final(states.VOLUME, before), sa.not_(attached))


def _attached(which: Any, before: dt.datetime) -> Any:
    """One of these attachments stays."""
    return sa.select(_attachment.id).where(which, sa.not_(_attachments(before))).exists()


def _images(before: dt.datetime) -> Any:
    """No instance that stays was made of it, and no image that lives names it."""
    other = sa.orm.aliased(_image)
    stays = sa.not_(_instances(before))
    lives = other.state.not_in(states.IMAGE.finals)
    named = [
        *(sa.select(column).where(column.is_not(None), stays) for column in _parts(_instance)),
        *(sa.select(column).where(column.is_not(None), lives) for column in _parts(other)[1:]),
    ]
    return sa.and_(_final(states.IMAGE, before), *(_image.id.not_in(used) for used in named))


def _parts(model: Any) -> list[Any]:
    first = model.image_id if model is _instance else model.id
    return [first, model.kernel_id, model.ramdisk_id]


def _objects(before: dt.datetime) -> Any:
    return _final(states.OBJECT, before)


def _events(before: dt.datetime) -> Any:
    """The last one of each thing says how it came to be what it is: it stays as long as that."""
    later = sa.orm.aliased(_event)
    after = sa.select(later.id).where(
        later.resource_id == _event.resource_id, later.id > _event.id
    )
    return sa.and_(_event.at < before, after.exists())


def _requests(before: dt.datetime) -> Any:
    return _request.created_at < before


def _tokens(before: dt.datetime) -> Any:
    return models.RevokedToken.expires_at < before


# what refers to others comes before them
KINDS = (
    Kind("events", models.Event, _events),
    Kind("attachments", models.Attachment, _attachments, told=True),
    Kind("instances", models.Instance, _instances, told=True),
    Kind("volumes", models.Volume, _volumes, told=True),
    Kind("images", models.Image, _images, told=True),
    Kind("objects", models.Object, _objects, told=True),
    Kind("requests", models.Request, _requests),
    Kind("revoked tokens", models.RevokedToken, _tokens),
)


def purge(ctx: Context, older_than_days: int, dry_run: bool) -> dict[str, int]:
    """What ended more than that many days ago is gone; how many rows of each kind.

    With `dry_run` nothing changes.  The last event of a thing goes with it and is not counted.
    InvalidValue for a number of days that is none.
    """
    policy.require(ctx, "database")
    if not LEAST_DAYS <= older_than_days <= MOST_DAYS:
        raise errors.InvalidValue(
            value=older_than_days, name="OLDER_THAN", reason="It is one day at least."
        )
    before = _now() - dt.timedelta(days=older_than_days)
    act = _counted if dry_run else _purged
    return {kind.name: act(kind, before) for kind in KINDS}


@reading
def _now(tx: Tx) -> dt.datetime:
    return clock(tx)


@reading
def _counted(tx: Tx, kind: Kind, before: dt.datetime) -> int:
    statement = sa.select(sa.func.count()).select_from(kind.model)
    return int(tx.scalars(statement.where(kind.ended(before))).one())


def _purged(kind: Kind, before: dt.datetime) -> int:
    total = 0
    while True:
        found, deleted = _some(kind, before)
        total += deleted
        if not found:
            return total


@transaction
def _some(tx: Tx, kind: Kind, before: dt.datetime) -> tuple[bool, int]:
    """Whether there were any, and how many this deleted; another purge may be quicker."""
    key = kind.model.id
    gone = list(tx.scalars(sa.select(key).where(kind.ended(before)).limit(TOGETHER)))
    if not gone:
        return False, 0
    if kind.told:
        tx.changed(sa.delete(_event).where(_event.resource_id.in_(gone)))
    return True, tx.changed(sa.delete(kind.model).where(key.in_(gone)))
