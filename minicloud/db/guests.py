"""Reads of the compute daemon: guests as they shall be, and the whole firewall of a host."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud.db import models
from minicloud.db.session import Tx


def of_host(tx: Tx, host: str) -> list[models.Instance]:
    """All instances the host has but the terminated."""
    model = models.Instance
    statement = sa.select(model).where(model.host == host, model.state != "terminated")
    return list(tx.scalars(statement))


def living(tx: Tx, ids: Collection[str]) -> set[str]:
    """Those of these instances that are not terminated."""
    model = models.Instance
    return set(
        tx.scalars(sa.select(model.id).where(model.id.in_(ids), model.state != "terminated"))
    )


def hosts(tx: Tx) -> set[str]:
    """The hosts that have any instance but the terminated."""
    model = models.Instance
    statement = sa.select(model.host).where(model.host.is_not(None), model.state != "terminated")
    return {host for host in tx.scalars(statement.distinct()) if host}


def foreign(tx: Tx, host: str, ids: Collection[str], everything: bool) -> set[str]:
    """Those of these instances that a row gives to another host, to none, or to the past; or,
    with `everything`, that any row has."""
    model = models.Instance
    statement = sa.select(model.id).where(model.id.in_(ids))
    if not everything:
        elsewhere = sa.or_(model.host.is_(None), model.host != host, model.state == "terminated")
        statement = statement.where(elsewhere)
    return set(tx.scalars(statement))


@dataclasses.dataclass(frozen=True)
class Kept:
    """What the rows allow to be on a host: `disks` are (instance, letter of a volume)."""

    guests: set[str]
    images: set[str]
    taps: set[str]
    disks: set[tuple[str, str]]


def kept(tx: Tx, host: str) -> Kept:
    """Instances of which anything may be on this host, and what belongs to them."""
    model, address, attachment = models.Instance, models.Address, models.Attachment
    here = sa.and_(model.host == host, model.state != "terminated")
    ids: set[str] = set()
    used: set[str] = set()
    columns = (model.id, model.image_id, model.kernel_id, model.ramdisk_id)
    for id, *images in tx.execute(sa.select(*columns).where(here)):
        ids.add(id)
        used.update(image for image in images if image)
    taps = sa.select(address.tap).join(model, model.id == address.instance_id).where(here)
    disks = (
        sa.select(attachment.instance_id, attachment.device)
        .join(model, model.id == attachment.instance_id)
        .where(here, attachment.state != "detached")
    )
    return Kept(
        ids, used, set(tx.scalars(taps)), {(id, letter) for id, letter in tx.execute(disks)}
    )


def bookings(
    tx: Tx, instance_ids: Sequence[str]
) -> dict[str, list[tuple[models.Address, models.Network]]]:
    """Live addresses of these instances with their networks."""
    found: dict[str, list[tuple[models.Address, models.Network]]] = collections.defaultdict(list)
    address, network = models.Address, models.Network
    statement = (
        sa.select(address, network)
        .join(network, network.id == address.network_id)
        .where(address.instance_id.in_(instance_ids), address.leaving.is_(None))
        .order_by(address.number)
    )
    for booking, net in tx.execute(statement):
        found[booking.instance_id].append((booking, net))
    return found


@dataclasses.dataclass(frozen=True)
class Filtered:
    """What a host's packet filter is about: `ports` have an instance's `id` and the `tap`, `mac`,
    `address` and `network_id` of a booking; networks by id; instance → its groups, sorted."""

    ports: Sequence[Any]
    networks: dict[str, models.Network]
    groups: dict[str, list[str]]


def filtered(tx: Tx, host: str) -> Filtered:
    """Of all instances the host has but the terminated; columns, not objects: it is read for every
    guest that comes or goes, and is about all of them."""
    instance, address, member = models.Instance, models.Address, models.GroupMember
    here = sa.and_(instance.host == host, instance.state != "terminated")
    columns = (instance.id, address.tap, address.mac, address.address, address.network_id)
    ports = tx.execute(
        sa.select(*columns)
        .join(address, address.instance_id == instance.id)
        .where(here, address.leaving.is_(None))
        .order_by(address.number)
    ).all()
    used = {row.network_id for row in ports}
    networks = tx.scalars(sa.select(models.Network).where(models.Network.id.in_(used)))
    groups: dict[str, list[str]] = collections.defaultdict(list)
    joined = sa.select(member.instance_id, member.group_id).join(
        instance, instance.id == member.instance_id
    )
    for id, group_id in tx.execute(joined.where(here).order_by(member.group_id)):
        groups[id].append(group_id)
    return Filtered(ports, {one.id: one for one in networks}, groups)


def images(tx: Tx, ids: Sequence[str]) -> dict[str, models.Image]:
    found = tx.scalars(sa.select(models.Image).where(models.Image.id.in_(ids)))
    return {image.id: image for image in found}


def rules(tx: Tx, group_ids: Sequence[str]) -> dict[str, list[models.Rule]]:
    found: dict[str, list[models.Rule]] = {id: [] for id in group_ids}
    statement = (
        sa.select(models.Rule).where(models.Rule.group_id.in_(group_ids)).order_by(models.Rule.id)
    )
    for rule in tx.scalars(statement):
        found[rule.group_id].append(rule)
    return found


def members(tx: Tx, group_ids: Sequence[str]) -> dict[str, list[str]]:
    """group → addresses of its members, wherever they are, sorted."""
    found: dict[str, list[str]] = {id: [] for id in group_ids}
    member, address = models.GroupMember, models.Address
    statement = (
        sa.select(member.group_id, address.address)
        .join(address, address.instance_id == member.instance_id)
        .where(member.group_id.in_(group_ids), address.leaving.is_(None))
        .order_by(address.address)
    )
    for group_id, shown in tx.execute(statement):
        found[group_id].append(shown)
    return found


def wanted_groups(tx: Tx, group_ids: Sequence[str]) -> dict[str, int]:
    model = models.SecurityGroup
    statement = sa.select(model.id, model.wanted).where(model.id.in_(group_ids))
    return {str(id): int(wanted) for id, wanted in tx.execute(statement)}
