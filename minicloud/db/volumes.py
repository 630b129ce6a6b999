"""Volumes and attachments: what is where, what is booked, what is exported to whom."""

from __future__ import annotations

import collections
from collections.abc import Collection, Sequence

import sqlalchemy as sa

from minicloud import ids
from minicloud.db import hosts, models, rooms
from minicloud.db.session import Tx, hold

_volume, _attachment = models.Volume, models.Attachment


# --- attachments ----------------------------------------------------------------------------


def of_instances(tx: Tx, instance_ids: Sequence[str]) -> list[models.Attachment]:
    """The attachments of these instances that are not detached, by id."""
    return list(
        tx.scalars(
            sa.select(_attachment)
            .where(_attachment.instance_id.in_(instance_ids), _attachment.state != "detached")
            .order_by(_attachment.id)
        )
    )


def of_volumes(tx: Tx, volume_ids: Sequence[str]) -> list[models.Attachment]:
    """The attachments of these volumes that are not detached, by id."""
    return list(
        tx.scalars(
            sa.select(_attachment)
            .where(_attachment.volume_id.in_(volume_ids), _attachment.state != "detached")
            .order_by(_attachment.id)
        )
    )


def sides(tx: Tx, attachment: models.Attachment) -> tuple[models.Volume, str]:
    """The attachment's volume, and the state of its instance."""
    state = sa.select(models.Instance.state).where(models.Instance.id == attachment.instance_id)
    volume = sa.select(_volume).where(_volume.id == attachment.volume_id)
    return tx.scalars(volume).one(), tx.scalars(state).one()


def attached(
    tx: Tx, instance_ids: Sequence[str]
) -> dict[str, list[tuple[models.Attachment, models.Volume]]]:
    """What a start of each instance finds in it, by device."""
    found: dict[str, list[tuple[models.Attachment, models.Volume]]]
    found = collections.defaultdict(list)
    statement = (
        sa.select(_attachment, _volume)
        .join(_volume, _volume.id == _attachment.volume_id)
        .where(_attachment.instance_id.in_(instance_ids), _attachment.state == "attached")
        .order_by(_attachment.device)
    )
    for attachment, volume in tx.execute(statement):
        found[attachment.instance_id].append((attachment, volume))
    return found


def attached_at_host(tx: Tx, host: str) -> list[models.Attachment]:
    """Every "attached" attachment of a running instance of the compute host."""
    instance = models.Instance
    statement = (
        sa.select(_attachment)
        .join(instance, instance.id == _attachment.instance_id)
        .where(
            _attachment.host == host, _attachment.state == "attached", instance.state == "running"
        )
    )
    return list(tx.scalars(statement))


def last_at(tx: Tx, instance_id: str, letter: str) -> str | None:
    """The export of the newest attachment at that place of the instance, whatever its state."""
    statement = (
        sa.select(sa.func.coalesce(_attachment.export, _attachment.id))
        .where(_attachment.instance_id == instance_id, _attachment.device == letter)
        .order_by(_attachment.created_at.desc())
    )
    return tx.scalars(statement.limit(1)).one_or_none()


def place(instance_id: str, letter: str) -> str:
    """What `holds_device` says of a disk's place in an instance."""
    return f"{instance_id}:{letter}"


def follow(tx: Tx, instance_id: str, host: str) -> None:
    """What the instance holds, it holds on that host."""
    tx.changed(
        sa.update(_attachment)
        .where(_attachment.instance_id == instance_id, _attachment.state != "detached")
        .values(host=host)
    )


def export_anew(tx: Tx, attachment: models.Attachment, secret: str, since: int) -> None:
    """The volume is exported to the attachment under another name and password, and no more
    under those it had; `since` is the volume's new `wanted`."""
    new = {"export": ids.new(), "secret": secret, "since": since}
    tx.changed(sa.update(_attachment).where(_attachment.id == attachment.id).values(**new))


def leave(tx: Tx, attachment_ids: Sequence[str]) -> None:
    """What these attachments held is free."""
    tx.changed(
        sa.update(_attachment)
        .where(_attachment.id.in_(attachment_ids))
        .values(holds_volume=None, holds_device=None)
    )


# --- volumes --------------------------------------------------------------------------------


def of_host(tx: Tx, host: str) -> list[models.Volume]:
    """All volumes the host has but the deleted."""
    statement = sa.select(_volume).where(_volume.host == host, _volume.state != "deleted")
    return list(tx.scalars(statement))


def foreign(tx: Tx, host: str, ids: Collection[str]) -> set[str]:
    """Those of these volumes that a row gives to another host, to none, or to the past."""
    elsewhere = sa.or_(_volume.host.is_(None), _volume.host != host, _volume.state == "deleted")
    return set(tx.scalars(sa.select(_volume.id).where(_volume.id.in_(ids), elsewhere)))


def store_portal(tx: Tx, volume_id: str, portal: str) -> None:
    """Hypervisors find the volume's exports there."""
    changed = sa.update(_volume).where(_volume.id == volume_id)
    tx.changed(changed.values(portal=portal))


def of_the_gone(tx: Tx, host: str) -> list[models.Attachment]:
    """The attachments of the compute host whose instance is terminated."""
    instance = models.Instance
    statement = (
        sa.select(_attachment)
        .join(instance, instance.id == _attachment.instance_id)
        .where(
            _attachment.host == host,
            _attachment.state != "detached",
            instance.state == "terminated",
        )
    )
    return list(tx.scalars(statement))


def forget_applied(tx: Tx, volume_ids: Sequence[str]) -> None:
    """Nothing is remembered of the exports of volumes that are deleted."""
    tx.changed(sa.delete(models.Applied).where(models.Applied.thing.in_(volume_ids)))


# --- placing --------------------------------------------------------------------------------


def waiting(tx: Tx, limit: int, longest_s: float) -> list[models.Volume]:
    """Volumes that wait for a host and whose pause is over, oldest first, locked; those that
    another scheduler has in hand are left out where the database can (SKIP LOCKED)."""
    statement = (
        sa.select(_volume)
        .where(_volume.state == "placing", rooms.due(_volume, longest_s))
        .order_by(_volume.created_at, _volume.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(tx.scalars(statement))


def booked(tx: Tx, hosts: Sequence[str]) -> dict[str, int]:
    """host → GiB of the volumes it has."""
    statement = (
        sa.select(_volume.host, sa.func.sum(_volume.size_gib))
        .where(_volume.host.in_(hosts), _volume.state != "deleted")
        .group_by(_volume.host)
    )
    return {str(host): int(gib) for host, gib in tx.execute(statement)}


def volume_hosts(tx: Tx) -> tuple[list[models.Host], set[str]]:
    """The volume daemons' rows, held, and the ids of those that live."""
    model = models.Host
    held = hold(tx, model, list(tx.scalars(sa.select(model.id).where(model.daemon == "volume"))))
    alive = tx.scalars(sa.select(model.id).where(model.daemon == "volume", hosts.alive()))
    return held, set(alive)
