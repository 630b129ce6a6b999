"""Instances with what is shown beside them, in a constant number of statements."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa

from minicloud import ids
from minicloud.cloud import images
from minicloud.db import models, volumes
from minicloud.db.session import Tx


@dataclasses.dataclass(frozen=True)
class FixedAddress:
    """An address of an instance; `network` is the name of its network."""

    id: str
    address: str
    mac: str
    hostname: str
    network: str


@dataclasses.dataclass(frozen=True)
class InstanceView:
    """`addresses` are those it has now, `groups` (id, name) by name."""

    row: models.Instance
    addresses: list[FixedAddress]
    groups: list[tuple[str, str]]
    image_ec2_id: str
    kernel_ec2_id: str | None
    ramdisk_ec2_id: str | None
    attachments: list[models.Attachment]


def of(tx: Tx, rows: Sequence[models.Instance]) -> list[InstanceView]:
    """A view of each row, in their order; four statements."""
    if not rows:
        return []
    instance_ids = [row.id for row in rows]
    addresses = _addresses(tx, instance_ids)
    groups = _groups(tx, instance_ids)
    attached: dict[str, list[models.Attachment]] = collections.defaultdict(list)
    for attachment in volumes.of_instances(tx, instance_ids):
        attached[attachment.instance_id].append(attachment)
    parts = {id for row in rows for id in (row.image_id, row.kernel_id, row.ramdisk_id) if id}
    named = images.shown_ids(tx, parts)
    return [
        InstanceView(
            row=row,
            addresses=addresses.get(row.id, []),
            groups=groups.get(row.id, []),
            image_ec2_id=named.get(row.image_id, ids.ec2("ami", row.image_id)),
            kernel_ec2_id=named.get(row.kernel_id or ""),
            ramdisk_ec2_id=named.get(row.ramdisk_id or ""),
            attachments=sorted(attached[row.id], key=lambda attachment: attachment.device),
        )
        for row in rows
    ]


def _addresses(tx: Tx, instance_ids: Sequence[str]) -> dict[str, list[FixedAddress]]:
    found: dict[str, list[FixedAddress]] = collections.defaultdict(list)
    booking, network = models.Address, models.Network
    statement = (
        sa.select(
            booking.instance_id,
            *(booking.id, booking.address, booking.mac, booking.hostname, network.name),
        )
        .join(network, network.id == booking.network_id)
        .where(booking.instance_id.in_(instance_ids), booking.leaving.is_(None))
        .order_by(booking.number)
    )
    for instance_id, *shown in tx.execute(statement):
        found[instance_id].append(FixedAddress(*shown))
    return found


def _groups(tx: Tx, instance_ids: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = collections.defaultdict(list)
    member, group = models.GroupMember, models.SecurityGroup
    statement = (
        sa.select(member.instance_id, group.id, group.name)
        .join(group, group.id == member.group_id)
        .where(member.instance_id.in_(instance_ids))
        .order_by(group.name)
    )
    for instance_id, id, name in tx.execute(statement):
        found[instance_id].append((id, name))
    return found
