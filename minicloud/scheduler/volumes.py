"""Which volume host takes a volume: one that lives, in the zone asked for, with room; of several
the one with most room."""

from __future__ import annotations

import dataclasses

from oslo_config import cfg

from minicloud import config, errors, states
from minicloud.db import models, rooms, volumes
from minicloud.db.session import Tx, transaction

CONF = config.declare(
    "scheduler",
    [
        cfg.FloatOpt(
            "volume_ratio",
            default=1.0,
            min=0.1,
            help="GiB of volumes booked per GiB of a volume host's disk; volumes are sparse files,"
            " so above 1.0 a host may run full.",
        ),
        cfg.IntOpt(
            "volume_tries",
            default=90,
            min=1,
            help="How often a volume waits for room on a live host before it is in error.",
        ),
    ],
)

CHUNK = 50
LONGEST_PAUSE_S = 20.0


@dataclasses.dataclass
class Room:
    """A volume host and what is booked on it."""

    host: models.Host
    alive: bool
    used_gib: int

    @property
    def limit_gib(self) -> int:
        return int(self.host.disk_gib * CONF.volume_ratio)

    def overbooked(self) -> list[str]:
        """See `filters.overbooked`."""
        if not self.host.disk_gib or self.used_gib <= self.limit_gib:
            return []
        words = f"{self.used_gib} GiB of volumes are booked on {self.host.host}"
        return [f"{words}, {self.limit_gib} may be"]

    def never(self, volume: models.Volume) -> str | None:
        """Why the host could not take the volume even if it were empty and alive; one that is
        just starting has not told its size yet."""
        if volume.wanted_zone != self.host.zone:
            return f"it is in zone {self.host.zone}, {volume.wanted_zone} was asked for"
        if self.host.disk_gib and volume.size_gib > self.limit_gib:
            return f"{volume.size_gib} GiB wanted, it has {self.limit_gib}"
        return None

    def refusal(self, volume: models.Volume) -> str | None:
        """Why the host cannot take the volume now."""
        if not self.alive:
            return "its volume daemon is down"
        if self.host.disabled:
            return "it is disabled"
        free = max(0, self.limit_gib - self.used_gib)
        if volume.size_gib > free:
            return f"{volume.size_gib} GiB wanted, {free} of {self.limit_gib} free"
        return self.never(volume)


@transaction
def place(tx: Tx, me: states.Daemon) -> list[models.Volume]:
    """Decide on one chunk of waiting volumes; those decided on, none when none waits."""
    waiting = volumes.waiting(tx, CHUNK, LONGEST_PAUSE_S)
    if not waiting:
        return []
    held, alive = volumes.volume_hosts(tx)
    used = volumes.booked(tx, [host.host for host in held])
    candidates = [Room(host, host.id in alive, used.get(host.host, 0)) for host in held]
    for volume in waiting:
        _place_one(tx, me, volume, candidates)
    return waiting


def _place_one(tx: Tx, me: states.Daemon, volume: models.Volume, candidates: list[Room]) -> None:
    """The volume has a host, waits, or is in error because none can ever have it."""
    fitting = [room for room in candidates if room.refusal(volume) is None]
    if fitting:
        best = max(fitting, key=lambda room: room.limit_gib - room.used_gib)
        best.used_gib += volume.size_gib
        host, zone = best.host.host, best.host.zone
        states.move(tx, states.VOLUME, volume, "creating", me, host=host, zone=zone)
        return
    told = sorted((room.host.host, room.refusal(volume)) for room in candidates)
    why = "; ".join(f"{host}: {words}" for host, words in told)
    hopeless = bool(candidates) and all(room.never(volume) for room in candidates)
    if hopeless or volume.waits + 1 >= CONF.volume_tries:
        reason = str(errors.NoVolumeHost(refusals=why or "no volume host is registered"))[:2000]
        states.move(tx, states.VOLUME, volume, "error", me, reason=reason)
        return
    pause_s = min(LONGEST_PAUSE_S, 0.5 * 2 ** min(volume.waits, 6))
    why = why or "no volume host is registered yet"
    rooms.postpone(tx, volume, me.alive(), pause_s, f"waits: {why}"[:2000])
