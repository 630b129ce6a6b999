"""What rows say against what other rows say: what no daemon can see on its host.

Each `@check` yields findings; `mended` by the function beside it, in the transaction that looked
for them again.  What has no such function is mended by a daemon, or by nobody.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc, orm

from minicloud import findings, states, work
from minicloud.cloud import quotas, tags
from minicloud.context import Context
from minicloud.db import addresses, groups, models, volumes
from minicloud.db.session import RunAgain, Tx, hold
from minicloud.findings import Finding

Look = Callable[[Tx], Iterator[Finding]]
Mend = Callable[[Tx, Context, Sequence[Finding]], None]

_instance, _address, _attachment = models.Instance, models.Address, models.Attachment
# of an instance that is so nothing may be booked; the first two are what an outer join shows
_GONE = sa.or_(
    _instance.id.is_(None),
    _instance.state == "terminated",
    sa.and_(_instance.state == "error", _instance.host.is_(None)),
)
TOGETHER = 500  # ids in a statement


@dataclasses.dataclass
class Check:
    look: Look
    mend: Mend | None = None


CHECKS: list[Check] = []


def check(look: Look) -> Check:
    """Make the function one of the auditor's."""
    CHECKS.append(Check(look))
    return CHECKS[-1]


def mended(one: Check) -> Callable[[Mend], Mend]:
    """Make the function what mends the findings of a check."""

    def mark(mend: Mend) -> Mend:
        one.mend = mend
        return mend

    return mark


def look(tx: Tx) -> list[Finding]:
    """All that rows alone show."""
    found = [dataclasses.replace(f, where="database") for one in CHECKS for f in one.look(tx)]
    return told(tx, found)


def told(tx: Tx, found: Sequence[Finding]) -> list[Finding]:
    """The findings, each with the time and request of its thing's last event, if it has one."""
    last = _last_events(tx, sorted({one.about for one in found}))
    return [
        dataclasses.replace(one, since=findings.stamp(event.at), request_id=event.request_id)
        if (event := last.get(one.about))
        else one
        for one in found
    ]


def _last_events(tx: Tx, ids: Sequence[str]) -> dict[str, models.Event]:
    event = models.Event
    found: dict[str, models.Event] = {}
    for start in range(0, len(ids), TOGETHER):
        newest = (
            sa.select(sa.func.max(event.id))
            .where(event.resource_id.in_(ids[start : start + TOGETHER]))
            .group_by(event.resource_id)
        )
        for row in tx.scalars(sa.select(event).where(event.id.in_(newest))):
            found[row.resource_id] = row
    return found


def _ids(found: Sequence[Finding]) -> list[str]:
    return sorted({one.id for one in found})


# --- states ---------------------------------------------------------------------------------


@check
def stuck(tx: Tx) -> Iterator[Finding]:
    """What waits its turn (for room, for another host) is looked at when `not_before` comes; what
    a daemon is busy with is known to it alone (`interfaces.Daemon.audit`)."""
    for machine in states.MACHINES:
        model = machine.model
        looked_at = sa.func.coalesce(model.not_before, model.updated_at)
        old = looked_at < models.now(-2 * work.CONF.sweep_s)
        for row in tx.scalars(sa.select(model).where(model.state.in_(machine.work), old)):
            words = f"{machine.name} {row.id} is still {row.state}"
            why = {"why": row.reason} if row.reason else {}
            yield Finding(findings.STUCK, row.id, words, facts=why)


@check
def unknown_state(tx: Tx) -> Iterator[Finding]:
    for machine in states.MACHINES:
        model = machine.model
        for row in tx.scalars(sa.select(model).where(model.state.not_in(machine.states))):
            words = f"{machine.name} {row.id} is in the state {row.state!a}"
            yield Finding(findings.UNKNOWN_STATE, row.id, words)


@check
def unknown_host(tx: Tx) -> Iterator[Finding]:
    for machine in states.MACHINES:
        model = machine.model
        acting = {(one.host, one.topic) for one in machine.work.values() if one.host is not None}
        for column, daemon in sorted(acting):
            living = model.state.not_in(machine.finals)
            yield from _elsewhere(tx, machine.name, model, getattr(model, column), daemon, living)
    yield from _elsewhere(tx, "network", models.Network, models.Network.host, "network")


def _elsewhere(
    tx: Tx, name: str, model: Any, host: Any, daemon: str, *conditions: Any
) -> Iterator[Finding]:
    """Rows at a host that has no such daemon; one that has no host yet is none of them."""
    registered = sa.select(models.Host.host).where(models.Host.daemon == daemon)
    for id, at in tx.execute(
        sa.select(model.id, host).where(host.not_in(registered), *conditions)
    ):
        yield Finding(findings.UNKNOWN_HOST, id, f"{name} {id} is at {daemon}@{at}")


# --- what instances hold --------------------------------------------------------------------


@check
def address_without_owner(tx: Tx) -> Iterator[Finding]:
    statement = (
        sa.select(_address)
        .outerjoin(_instance, _instance.id == _address.instance_id)
        .where(_address.leaving.is_(None), _GONE)
    )
    for row in tx.scalars(statement):
        words = f"{row.address} is booked for {row.instance_id}"
        yield Finding(findings.ADDRESS_WITHOUT_OWNER, row.instance_id, words)


@mended(address_without_owner)
def _leave(tx: Tx, ctx: Context, found: Sequence[Finding]) -> None:
    _end_membership(tx, ctx, found)  # or it would not wait for the packet filters that list it
    for network_id in addresses.leave(tx, _ids(found)):
        states.touch(tx, models.Network, network_id)


@check
def address_not_freed(tx: Tx) -> Iterator[Finding]:
    for row in tx.scalars(addresses.left()):
        words = f"{row.address} of {row.instance_id} is still booked"
        facts = {"network": row.network_id}
        yield Finding(findings.ADDRESS_NOT_FREED, row.instance_id, words, facts=facts)


@mended(address_not_freed)
def _free(tx: Tx, ctx: Context, found: Sequence[Finding]) -> None:
    for network_id in {one.facts["network"] for one in found}:
        addresses.forget_left(tx, network_id=network_id)


@check
def instance_without_address(tx: Tx) -> Iterator[Finding]:
    booked = sa.select(_address.instance_id).where(_address.leaving.is_(None))
    statement = sa.select(_instance).where(sa.not_(_GONE), _instance.id.not_in(booked))
    for row in tx.scalars(statement):
        yield Finding(findings.NO_ADDRESS, row.id, f"instance {row.id} has no address")


@check
def member_without_instance(tx: Tx) -> Iterator[Finding]:
    member = models.GroupMember
    statement = (
        sa.select(member).outerjoin(_instance, _instance.id == member.instance_id).where(_GONE)
    )
    for row in tx.scalars(statement):
        words = f"{row.instance_id} is a member of the security group {row.group_id}"
        yield Finding(findings.MEMBER_WITHOUT_INSTANCE, row.instance_id, words)


@mended(member_without_instance)
def _end_membership(tx: Tx, ctx: Context, found: Sequence[Finding]) -> None:
    """An address that it has all the same is another finding; like every address it waits for the
    packet filters that list it."""
    booked = sa.select(_address.instance_id).where(_address.instance_id.in_(_ids(found)))
    listed = set(tx.scalars(booked))
    for group_id, members in groups.leave(tx, _ids(found)).items():
        since = states.touch(tx, models.SecurityGroup, group_id)
        if staying := [id for id in members if id in listed]:
            groups.remember_left(tx, group_id, staying, since)


# --- volumes --------------------------------------------------------------------------------

_live = _attachment.state != "detached"


@check
def attachment_astray(tx: Tx) -> Iterator[Finding]:
    """Those of terminated instances are seen by their hosts' compute daemons."""
    statement = (
        sa.select(_attachment)
        .join(models.Volume, models.Volume.id == _attachment.volume_id)
        .where(_live, models.Volume.state == "deleted")
    )
    for row in tx.scalars(statement):
        words = f"volume {row.volume_id} is deleted and attached to {row.instance_id}"
        yield Finding(findings.ATTACHMENT_ASTRAY, row.id, words)


@mended(attachment_astray)
def _detach(tx: Tx, ctx: Context, found: Sequence[Finding]) -> None:
    for row in tx.scalars(sa.select(_attachment).where(_attachment.id.in_(_ids(found)))):
        if row.state != "detaching":
            states.move(tx, states.ATTACHMENT, row, "detaching", states.USER, ctx=ctx)


@check
def attachment_booking(tx: Tx) -> Iterator[Finding]:
    """Where another one holds the place, there are two owners: that is another check's."""
    held = (_attachment.holds_volume, _attachment.holds_device)
    other = orm.aliased(_attachment)
    same_place = sa.and_(
        other.holds_device.is_not(None),
        other.instance_id == _attachment.instance_id,
        other.device == _attachment.device,
    )
    taken = (
        sa.select(other.id)
        .where(
            other.id != _attachment.id,
            sa.or_(other.holds_volume == _attachment.volume_id, same_place),
        )
        .exists()
    )
    wrong = sa.or_(
        sa.and_(sa.not_(_live), sa.or_(*(column.is_not(None) for column in held))),
        sa.and_(_live, sa.or_(*(column.is_(None) for column in held)), sa.not_(taken)),
    )
    for row in tx.scalars(sa.select(_attachment).where(wrong)):
        what = "holds what it gave back" if row.state == "detached" else "does not hold its volume"
        words = f"attachment {row.id} is {row.state} and {what}"
        yield Finding(findings.ATTACHMENT_BOOKING, row.id, words)


@mended(attachment_booking)
def _book(tx: Tx, ctx: Context, found: Sequence[Finding]) -> None:
    rows = list(tx.scalars(sa.select(_attachment).where(_attachment.id.in_(_ids(found)))))
    hold(tx, models.Instance, [row.instance_id for row in rows])
    hold(tx, models.Volume, [row.volume_id for row in rows])
    for row in rows:
        tx.refresh(row)
        living = row.state != "detached"
        row.holds_volume = row.volume_id if living else None
        row.holds_device = volumes.place(row.instance_id, row.device) if living else None
    try:
        tx.flush()
    except exc.IntegrityError:  # somebody was quicker
        raise RunAgain from None


@check
def two_owners(tx: Tx) -> Iterator[Finding]:
    for columns in ((_attachment.volume_id,), (_attachment.instance_id, _attachment.device)):
        doubled = (
            sa.select(sa.func.count(), *columns)
            .where(_live)
            .group_by(*columns)
            .having(sa.func.count() > 1)
        )
        for count, *keys in tx.execute(doubled):
            words = f"{' disk '.join(keys)} has {count} attachments"
            yield Finding(findings.TWO_OWNERS, keys[0], words)


# --- what goes with something ---------------------------------------------------------------


@check
def tag_without_thing(tx: Tx) -> Iterator[Finding]:
    for kind in tags.KINDS:
        alive = sa.select(kind.model.id)
        if kind.gone is not None:
            alive = alive.where(kind.model.state != kind.gone)
        tag = models.Tag
        lost = sa.select(tag).where(tag.kind == kind.name, tag.resource_id.not_in(alive))
        for row in tx.scalars(lost):
            words = f"a tag of the {kind.name} {row.resource_id}, which is not there"
            yield Finding(
                findings.TAG_WITHOUT_THING, row.resource_id, words, facts={"tag": row.id}
            )


@mended(tag_without_thing)
def _forget_tags(tx: Tx, ctx: Context, found: Sequence[Finding]) -> None:
    gone = [one.facts["tag"] for one in found]
    tx.changed(sa.delete(models.Tag).where(models.Tag.id.in_(gone)))


@check
def applied_of_the_gone(tx: Tx) -> Iterator[Finding]:
    """What a packet filter knew of a deleted group holds back the addresses that left it: the
    host forgets that itself."""
    applied, volume = models.Applied, models.Volume
    there = (
        sa.select(models.Network.id),
        sa.select(models.SecurityGroup.id),
        sa.select(volume.id).where(volume.state != "deleted"),
        sa.select(models.GroupLeaving.group_id),
    )
    gone = sa.and_(*(applied.thing.not_in(ids) for ids in there))
    nobody = applied.host.not_in(sa.select(models.Host.id))
    for row in tx.scalars(sa.select(applied).where(sa.or_(gone, nobody))):
        words = f"{row.host} is said to have applied {row.thing}"
        facts = {"host": row.host}
        yield Finding(findings.APPLIED_OF_THE_GONE, row.thing, words, facts=facts)


@mended(applied_of_the_gone)
def _forget_applied(tx: Tx, ctx: Context, found: Sequence[Finding]) -> None:
    for one in found:
        row = (models.Applied.thing == one.id, models.Applied.host == one.facts["host"])
        tx.changed(sa.delete(models.Applied).where(*row))


_OWNED: tuple[tuple[Any, Any], ...] = (  # a row of the second is what the first column names
    (models.Upload.bucket_id, models.Bucket),
    (models.Part.upload_id, models.Upload),
)


@check
def upload_without_bucket(tx: Tx) -> Iterator[Finding]:
    for column, owner in _OWNED:
        model = column.class_
        for row in tx.scalars(sa.select(model).where(column.not_in(sa.select(owner.id)))):
            words = f"{model.__tablename__}: {row.id} belongs to nothing"
            yield Finding(findings.UPLOAD_WITHOUT_BUCKET, row.id, words)


@mended(upload_without_bucket)
def _forget_uploads(tx: Tx, ctx: Context, found: Sequence[Finding]) -> None:
    for column, _ in _OWNED:
        tx.changed(sa.delete(column.class_).where(column.class_.id.in_(_ids(found))))


# --- sums -----------------------------------------------------------------------------------


@check
def quota(tx: Tx) -> Iterator[Finding]:
    for project, limit in quotas.exceeded(tx):
        words = f"project {project.name} has {limit.used} {limit.resource}, {limit.limit} allowed"
        yield Finding(findings.QUOTA, project.id, words)
