"""What a guest may know of itself: the facts behind every path of the metadata service."""

from __future__ import annotations

import base64
import dataclasses
import datetime

import sqlalchemy as sa

from minicloud import addresses, config
from minicloud.cloud import shown
from minicloud.db import models
from minicloud.db.session import Tx, reading
from minicloud.wiring import DOMAIN


@dataclasses.dataclass(frozen=True)
class GuestFacts:
    """One guest, seen from one of its network cards; ids are EC2's."""

    id: str
    project_id: str
    reservation_id: str
    launch_index: int
    launched_at: datetime.datetime
    image_id: str
    kernel_id: str | None
    ramdisk_id: str | None
    architecture: str
    instance_type: str
    hostname: str  # with its domain
    address: str
    cidr: str  # of the network the address is in
    mac: str
    groups: tuple[str, ...]
    zone: str
    region: str
    key_name: str | None
    public_key: str | None
    user_data: str | None  # base64, as it came


def decoded(user_data: str) -> bytes:
    """The bytes that a user's base64 stands for; ValueError."""
    # line breaks are what some clients' encoders put into it
    return base64.b64decode("".join(user_data.split()), validate=True)


def guest(network_id: str, address: str) -> GuestFacts | None:
    """The guest that has this address in this network; None for one that left, or never was."""
    try:
        number = int(addresses.address(address))
    except ValueError:
        return None
    return _guest(network_id, number)


@reading
def _guest(tx: Tx, network_id: str, number: int) -> GuestFacts | None:
    booking, instance, network = models.Address, models.Instance, models.Network
    found = tx.execute(
        sa.select(booking, instance, network)
        .join(instance, instance.id == booking.instance_id)
        .join(network, network.id == booking.network_id)
        .where(
            booking.network_id == network_id,
            booking.number == number,
            booking.leaving.is_(None),
            instance.state != "terminated",
        )
    ).one_or_none()
    return None if found is None else _facts(tx, *found)


def _facts(
    tx: Tx, booking: models.Address, instance: models.Instance, network: models.Network
) -> GuestFacts:
    images = _images(tx, instance)
    machine = images[instance.image_id]
    kernel = images.get(instance.kernel_id or "")
    ramdisk = images.get(instance.ramdisk_id or "")
    return GuestFacts(
        id=shown.instance_id(instance),
        project_id=instance.project_id,
        reservation_id=shown.reservation_id(instance),
        launch_index=instance.launch_index,
        launched_at=instance.launched_at or instance.created_at,
        image_id=shown.image_id(machine),
        kernel_id=shown.image_id(kernel) if kernel else None,
        ramdisk_id=shown.image_id(ramdisk) if ramdisk else None,
        architecture=machine.architecture,
        instance_type=instance.flavor,
        hostname=f"{booking.hostname}.{DOMAIN}",
        address=booking.address,
        cidr=network.cidr,
        mac=booking.mac,
        groups=_groups(tx, instance.id),
        zone=instance.zone or instance.wanted_zone or config.CONF.zone,
        region=config.CONF.region,
        key_name=instance.key_name,
        public_key=instance.public_key,
        user_data=instance.user_data,
    )


def _images(tx: Tx, instance: models.Instance) -> dict[str, models.Image]:
    """Rows of images are never deleted while an instance names them."""
    wanted = (instance.image_id, instance.kernel_id, instance.ramdisk_id)
    named = [id for id in wanted if id is not None]
    rows = tx.scalars(sa.select(models.Image).where(models.Image.id.in_(named)))
    return {row.id: row for row in rows}


def _groups(tx: Tx, instance_id: str) -> tuple[str, ...]:
    group, member = models.SecurityGroup, models.GroupMember
    statement = (
        sa.select(group.name)
        .join(member, member.group_id == group.id)
        .where(member.instance_id == instance_id)
        .order_by(group.name)
    )
    return tuple(tx.scalars(statement))
