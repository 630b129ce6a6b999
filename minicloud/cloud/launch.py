"""What RunInstances decides: everything is checked, held, booked and written in one transaction,
in a number of statements that does not depend on the number of instances."""

from __future__ import annotations

import dataclasses
from typing import Any

from minicloud import errors, ids, states, wiring
from minicloud.cloud import (
    flavors,
    groups,
    images,
    keypairs,
    metadata,
    names,
    networks,
    quotas,
    shown,
    tags,
    zones,
)
from minicloud.cloud.views import FixedAddress, InstanceView
from minicloud.context import Context
from minicloud.db import addresses, models
from minicloud.db import groups as memberships
from minicloud.db import tags as labels
from minicloud.db.session import Tx, clock, hold

USER_DATA_BYTES = 16384  # before base64; AWS's own limit


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is asked for, in the asker's words; `user_data` is base64."""

    image: str
    count_min: int
    count_max: int
    flavor: str
    kernel: str | None
    ramdisk: str | None
    key_name: str | None
    groups: tuple[str, ...]
    group_ids: tuple[str, ...]
    user_data: str | None
    zone: str | None
    name: str | None
    tags: tuple[tuple[str, str], ...] = ()


def check(wish: Wish, most: int) -> None:
    """Return when counts, name and user data are within their bounds; InvalidValue."""
    if not 1 <= wish.count_min <= wish.count_max:
        raise errors.InvalidValue(
            value=wish.count_min, name="MinCount", reason="It is from 1 to MaxCount."
        )
    if wish.count_max > most:
        raise errors.InvalidValue(
            value=wish.count_max, name="MaxCount", reason=f"At most {most} in one request."
        )
    if wish.name is not None:
        names.check(wish.name, "name")
    tags.check(dict(wish.tags))
    if wish.user_data is not None:
        _check_user_data(wish.user_data)


def _check_user_data(user_data: str) -> None:
    if len(user_data) <= 2 * USER_DATA_BYTES:
        try:
            raw = metadata.decoded(user_data)
        except ValueError as error:
            raise errors.BadRequest(reason="Invalid BASE64 encoding of user data.") from error
        if len(raw) <= USER_DATA_BYTES:
            return
    raise errors.BadRequest(reason=f"User data is limited to {USER_DATA_BYTES} bytes")


def launch(tx: Tx, ctx: Context, wish: Wish, token: str | None) -> list[InstanceView]:
    """The instances are "scheduling", with all they need booked.

    As many as fit, `count_min` at least; else QuotaExceeded or NoMoreAddresses.
    """
    if not hold(tx, models.Project, [ctx.project_id]):
        raise errors.ProjectNotFound(id=ctx.project)
    flavor = flavors.named(tx, wish.flavor)
    count = quotas.fitting(tx, ctx.project_id, flavor, wish.count_min, wish.count_max)
    key = keypairs.named(tx, ctx, wish.key_name) if wish.key_name is not None else None
    if wish.zone is not None:
        zones.check(tx, wish.zone)
    boot = images.bootable(tx, ctx, wish.image, wish.kernel, wish.ramdisk)
    joined = groups.chosen(tx, ctx, wish.groups, wish.group_ids)
    network = networks.joined(tx, ctx)
    numbers = wiring.kind(network.kind).join(tx, network, count)
    if len(numbers) < wish.count_min:
        raise errors.NoMoreAddresses(
            network=network.name, free=len(numbers), wanted=wish.count_min
        )
    common = _common(tx, ctx, wish, token) | _sizes(flavor) | _boots(boot, key)
    booked = {ids.new(): number for number in numbers}
    made = _rows(common, booked)
    states.create(tx, ctx, states.INSTANCE, made)
    for group in joined:  # groups before the network: the order of `hold`
        states.touch_held(tx, group)
    memberships.join(tx, [group.id for group in joined], list(booked))
    since = states.touch_held(tx, network, last_number=numbers[-1])
    given = addresses.book(tx, network, since, booked)
    labels.add(tx, ctx.project_id, "instance", list(booked), dict(wish.tags))
    return [
        InstanceView(
            row=models.Instance(**row),
            addresses=[
                FixedAddress(
                    address["id"],
                    address["address"],
                    address["mac"],
                    address["hostname"],
                    network.name,
                )
            ],
            groups=sorted([(group.id, group.name) for group in joined], key=lambda one: one[1]),
            image_ec2_id=shown.image_id(boot.image),
            kernel_ec2_id=shown.image_id(boot.kernel) if boot.kernel else None,
            ramdisk_ec2_id=shown.image_id(boot.ramdisk) if boot.ramdisk else None,
            attachments=[],
        )
        for row, address in zip(made, given, strict=True)
    ]


def _common(tx: Tx, ctx: Context, wish: Wish, token: str | None) -> dict[str, Any]:
    now = clock(tx)  # a value: drivers send many rows together only when all columns are values
    return {
        "state": "scheduling",
        "project_id": ctx.project_id,
        "user_id": ctx.user_id,
        "reservation_id": ids.new(),
        "user_data": wish.user_data,
        "client_token": token,
        "wanted_zone": wish.zone,
        "name": wish.name,
        "created_at": now,
        "updated_at": now,
    }


def _sizes(flavor: models.Flavor) -> dict[str, Any]:
    return {
        "flavor": flavor.name,
        "vcpus": flavor.vcpus,
        "memory_mib": flavor.memory_mib,
        "disk_gib": flavor.disk_gib,
    }


def _boots(boot: images.Boot, key: models.KeyPair | None) -> dict[str, Any]:
    return {
        "image_id": boot.image.id,
        "kernel_id": boot.kernel.id if boot.kernel else None,
        "ramdisk_id": boot.ramdisk.id if boot.ramdisk else None,
        "key_name": key.name if key else None,
        "public_key": key.public_key if key else None,
    }


def _rows(common: dict[str, Any], booked: dict[str, int]) -> list[dict[str, Any]]:
    return [
        {
            **common,
            "id": id,
            "launch_index": index,
            "hostname": addresses.hostname(number),
            "name": _name(common["name"], index, len(booked)) or ids.ec2("i", id),
        }
        for index, (id, number) in enumerate(booked.items())
    ]


def _name(name: str | None, index: int, count: int) -> str | None:
    """OpenStack's way to tell many of one request apart: `web-1`, `web-2`."""
    return name if name is None or count == 1 else f"{name[:240]}-{index + 1}"
