"""Place waiting instances: all that wait, in chunks, each in one transaction."""

from __future__ import annotations

import logging
from typing import Any

from oslo_config import cfg
from typing_extensions import override

from minicloud import auditing, config, context, errors, findings, interfaces, states, work
from minicloud.checkpoint import checkpoint
from minicloud.context import Context
from minicloud.db import hosts, models, rooms
from minicloud.db import volumes as bookings
from minicloud.db.session import Tx, reading, transaction
from minicloud.findings import Finding
from minicloud.scheduler import filters, volumes
from minicloud.scheduler.candidates import Candidates

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "scheduler",
    [
        cfg.IntOpt(
            "chunk", default=500, min=1, max=1000, help="Instances placed in one transaction."
        ),
        cfg.IntOpt(
            "tries",
            default=90,
            min=1,
            help="How often an instance waits for room on a live host before it is in error;"
            " the pauses grow to one sweep.",
        ),
    ],
)

AWAY_S = 1.0  # before the database is asked again
LONGEST_PAUSE_S = 20.0


class Manager(interfaces.Scheduler):
    """Holds nothing but its identity: every decision is made from rows."""

    protocol = interfaces.Scheduler
    me: states.Daemon
    work: Any
    trusted = True
    _waits = True  # an instance may wait for room, to which it comes back when its pause is over

    def start(self) -> None:
        """Nothing to prepare."""

    def let_go(self, host: str, *, everything: bool) -> None:
        """Nothing on a host is the scheduler's."""

    def alive(self) -> dict[str, Any]:
        return {}

    @override
    def ping(self, ctx: Context) -> dict[str, Any]:
        return work.pong(self.me)

    def sweep(self) -> None:
        """The frame's sweep does it all."""

    @override
    def audit(self, ctx: Context) -> dict[str, Any]:
        """It has nothing on its host; whether it gave more than there is, only it can tell."""
        return auditing.answer(self, {"capacity": _overbooked})

    @override
    def mend(self, ctx: Context, *, trust: bool) -> None:
        auditing.mend(self, trust=trust)

    @override
    def place_instances(self, ctx: Context, id: str, /) -> None:
        self.work.add("place", "place", self._place_all)

    def _place_all(self) -> None:
        try:
            full = True
            while full:  # else the rest comes with a nudge of its own
                decided = _place(self.me)
                checkpoint("place_instances.placed")
                for instance in decided:
                    _tell(instance)
                full = len(decided) == CONF.chunk
                self._waits |= not decided or any(one.state == "scheduling" for one in decided)
            pause = _next(self.me, models.Instance, "scheduling") if self._waits else None
            self._waits = pause is not None
        except errors.Unavailable as error:
            LOG.warning("placing waits: %s", error)
            pause = AWAY_S
        if pause is not None:
            self.work.later(pause, "place", "place", self._place_all)

    @override
    def place_volumes(self, ctx: Context, id: str, /) -> None:
        self.work.add("place volumes", "place", self._place_volumes)

    def _place_volumes(self) -> None:
        try:
            while decided := volumes.place(self.me):
                checkpoint("place_volumes.placed")
                for volume in decided:
                    with context.use(work.context_of(volume)):
                        LOG.info(
                            "volume %s: %s", volume.id, volume.host or volume.reason or "waits"
                        )
            pause = _next(self.me, models.Volume, "placing")
        except errors.Unavailable as error:
            LOG.warning("placing volumes waits: %s", error)
            pause = AWAY_S
        if pause is not None:
            self.work.later(pause, "place volumes", "place", self._place_volumes)


@reading
def _overbooked(tx: Tx) -> list[Finding]:
    compute, storage = hosts.of_daemon(tx, "compute"), hosts.of_daemon(tx, "volume")
    used = rooms.booked(tx, [host.host for host in compute])
    gib = bookings.booked(tx, [host.host for host in storage])
    places = [filters.Room(host, True, *used.get(host.host, (0, 0, 0, 0))) for host in compute]
    stores = [volumes.Room(host, True, gib.get(host.host, 0)) for host in storage]
    told = [(room.host.id, filters.overbooked(room)) for room in places]
    told += [(room.host.id, room.overbooked()) for room in stores]
    return [Finding(findings.CAPACITY, id, words) for id, each in told for words in each]


def _tell(instance: models.Instance) -> None:
    """Log what was decided, under the id of the request that asked for it."""
    with context.use(work.context_of(instance)):
        if instance.state == "building":
            LOG.info("instance %s: host %s", instance.id, instance.host)
        elif instance.state == "error":
            LOG.warning("instance %s: %s", instance.id, instance.reason)
        else:
            LOG.info("instance %s waits for room", instance.id)


@transaction
def _place(tx: Tx, me: states.Daemon) -> list[models.Instance]:
    """Decide on one chunk; those that were decided on, none when none waits."""
    waiting = rooms.waiting(tx, CONF.chunk, LONGEST_PAUSE_S)
    if not waiting:
        return []
    candidates = Candidates(_rooms(tx))
    placed: dict[str, dict[str, Any]] = {}
    for instance in waiting:
        best = candidates.best(instance)
        if best is not None:
            candidates.book(best, instance)
            placed[instance.id] = {"host": best.host.host, "zone": best.host.zone}
    refused: dict[str, dict[str, Any]] = {}
    for instance in waiting:
        if instance.id not in placed and (reason := _wait_or_fail(tx, me, instance, candidates)):
            refused[instance.id] = {"reason": reason}
    # together: what they release is locked in one order, whoever else releases or books
    for to, each in (("building", placed), ("error", refused)):
        rows = [instance for instance in waiting if instance.id in each]
        states.move_all(tx, states.INSTANCE, rows, to, me, each=each)
    checkpoint("place_instances.chosen")
    return waiting


def _rooms(tx: Tx) -> list[filters.Room]:
    """The compute hosts, held, with what is booked on them now."""
    held, down = rooms.compute_hosts(tx)
    used = rooms.booked(tx, [host.host for host in held])
    return [
        filters.Room(host, host.host not in down, *used.get(host.host, (0, 0, 0, 0)))
        for host in held
    ]


def _wait_or_fail(
    tx: Tx, me: states.Daemon, instance: models.Instance, candidates: Candidates
) -> str | None:
    """The instance, which no host takes now, waits; or the reason why none can ever have it."""
    why, hopeless = candidates.refusals(instance)
    # one that has been somewhere keeps its addresses and volumes: only its user gives it up
    if instance.rest is None and (hopeless or instance.waits + 1 >= CONF.tries):
        return str(errors.NoValidHost(refusals=why or "no compute host is registered"))[:2000]
    pause_s = min(LONGEST_PAUSE_S, 0.5 * 2 ** min(instance.waits, 6))
    why = why or "no compute host is registered yet"
    rooms.postpone(tx, instance, me.alive(), pause_s, f"waits: {why}"[:2000])
    return None


@transaction
def _next(tx: Tx, me: states.Daemon, model: type[Any], state: str) -> float | None:
    """Seconds until the first waiting row is to be looked at again."""
    pause_s = rooms.first_pause_s(tx, model, state)
    return None if pause_s is None else max(0.1, min(LONGEST_PAUSE_S, pause_s))
