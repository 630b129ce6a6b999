"""May this host take this instance?  A filter returns None, or its refusal with the numbers.

To add one, write a function under `@host_filter`: it is asked of every host, unless the option
`filters` names others, and its refusal is what the user reads.  It sees nothing but the host and
the columns of the instance that LOOKED_AT names: instances that are the same in these are the same
to every filter and weight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from oslo_config import cfg, types
from typing_extensions import override

from minicloud import config
from minicloud.db import models


@dataclasses.dataclass
class Room:
    """A compute host and what is booked on it; the scheduler adds as it books.  `host` is its row,
    or the columns of it that `rooms.compute_hosts` reads."""

    host: Any
    alive: bool
    vcpus_used: int
    memory_mib_used: int
    disk_gib_used: int
    instances: int

    def book(self, instance: models.Instance) -> None:
        self.vcpus_used += instance.vcpus
        self.memory_mib_used += instance.memory_mib
        self.disk_gib_used += instance.disk_gib
        self.instances += 1


Filter = Callable[[Room, models.Instance], str | None]
FILTERS: dict[str, Filter] = {}


def host_filter(function: Filter) -> Filter:
    FILTERS[function.__name__] = function
    return function


class _Name(types.String):
    @override
    def __call__(self, value: object) -> str:
        if value not in FILTERS:
            raise ValueError(f"{value!r} is no filter; there are {', '.join(FILTERS)}")
        return str(value)


CONF = config.declare(
    "scheduler",
    [
        cfg.ListOpt(
            "filters",
            item_type=_Name(),
            default=[],
            help="Filters a host must pass, in this order, comma between; empty: every one of"
            " minicloud/scheduler/filters.py, in the order there. `alive` and `enabled` are asked"
            " first in any case: what is dead or fenced starts no guest.",
        ),
        cfg.FloatOpt(
            "vcpu_ratio",
            default=16.0,
            min=0.1,
            help="Guest CPUs booked per CPU of a host; above 1.0 guests share them.",
        ),
        cfg.FloatOpt(
            "memory_ratio",
            default=1.0,
            min=0.1,
            help="Guest memory booked per MiB of host memory; above 1.0 the host may swap.",
        ),
        cfg.FloatOpt(
            "disk_ratio",
            default=1.0,
            min=0.1,
            help="Guest disk booked per GiB of host disk; disks are sparse, so above 1.0 a host"
            " may run full.",
        ),
    ],
)

LOOKED_AT = ("project_id", "wanted_zone", "vcpus", "memory_mib", "disk_gib")
PASSING = ("alive", "enabled")  # refusals that pass: the instance waits; asked of every host


@host_filter
def alive(room: Room, instance: models.Instance) -> str | None:
    return None if room.alive else "its compute daemon is down"


@host_filter
def enabled(room: Room, instance: models.Instance) -> str | None:
    return "it is disabled" if room.host.disabled else None


@host_filter
def zone(room: Room, instance: models.Instance) -> str | None:
    if instance.wanted_zone in (None, room.host.zone):
        return None
    return f"it is in zone {room.host.zone}, {instance.wanted_zone} was asked for"


@host_filter
def vcpus(room: Room, instance: models.Instance) -> str | None:
    return _enough("CPUs", instance.vcpus, _limits(room)["CPUs"], room.vcpus_used)


@host_filter
def memory(room: Room, instance: models.Instance) -> str | None:
    return _enough("MiB", instance.memory_mib, _limits(room)["MiB"], room.memory_mib_used)


@host_filter
def disk(room: Room, instance: models.Instance) -> str | None:
    return _enough("GiB", instance.disk_gib, _limits(room)["GiB"], room.disk_gib_used)


def _limits(room: Room) -> dict[str, int]:
    """What the host may give to guests."""
    return {
        "CPUs": int(room.host.vcpus * CONF.vcpu_ratio),
        "MiB": int(room.host.memory_mib * CONF.memory_ratio),
        "GiB": int(room.host.disk_gib * CONF.disk_ratio),
    }


def overbooked(room: Room) -> list[str]:
    """In words, of what more is booked than the host may give; one that is just starting has not
    told its size yet."""
    used = {"CPUs": room.vcpus_used, "MiB": room.memory_mib_used, "GiB": room.disk_gib_used}
    return [
        f"{used[what]} {what} are booked on {room.host.host}, {limit} may be"
        for what, limit in _limits(room).items()
        if room.host.vcpus and used[what] > limit
    ]


def _enough(what: str, wanted: int, limit: int, used: int) -> str | None:
    if used + wanted <= limit:
        return None
    return f"{wanted} {what} wanted, {max(0, limit - used)} of {limit} free"


def refusal(
    room: Room, instance: models.Instance, but: Sequence[str] = ()
) -> tuple[str, str] | None:
    """(filter, why) of the first filter that refuses, or None; those named in `but` are not
    asked."""
    for name in dict.fromkeys((*PASSING, *(CONF.filters or FILTERS))):
        why = FILTERS[name](room, instance) if name not in but else None
        if why is not None:
            return name, why
    return None


def never(room: Room, instance: models.Instance) -> str | None:
    """Why the host could not take the instance even if it were empty, alive and enabled.

    A host that is just starting has not told its size yet: nobody knows.
    """
    if room.host.vcpus == 0:
        return None
    empty = Room(room.host, True, 0, 0, 0, 0)
    found = refusal(empty, instance, PASSING)
    return found[1] if found else None
