"""How a daemon does its work: the queue, the frame of an apply, and the sweep.

A nudge and a sweep both only add a job; a job runs an apply between a claim and an END.  What the
frame does when a step fails, waits or is overtaken is DESIGN section 12, rules 5 and 8.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import heapq
import itertools
import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy import exc

from minicloud import __version__, concurrency, config, context, errors, rpc, states
from minicloud.checkpoint import checkpoint
from minicloud.context import Context
from minicloud.db import hosts, models, users
from minicloud.db.session import Tx, clock, reading, transaction
from minicloud.together import Together

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "work",
    [
        cfg.IntOpt(
            "workers",
            default=12,
            min=3,
            help="Things a daemon works on at the same time; a third is kept for those that end"
            " something (terminate, stop, delete).",
        ),
        cfg.FloatOpt(
            "sweep_s",
            default=20.0,
            min=0.2,
            help="Seconds between two looks for work whose nudge was lost; also the longest"
            " pause before a failed step is tried again.",
        ),
        cfg.IntOpt(
            "tries", default=5, min=1, help="Failures and deaths after which a verb has failed."
        ),
        cfg.IntOpt(
            "waits",
            default=4320,
            min=1,
            help="How often a verb waits for another part that is away before it has failed.",
        ),
        cfg.FloatOpt(
            "applied_wait_s",
            default=10.0,
            min=0,
            help="Seconds a build waits in place for the network's host; then it is queued again.",
        ),
    ],
)

STOPPED = errors.TryLater(reason="its daemon was stopped")
SUSPECT = 2  # attempts after which a row is handled alone: it may be what kills the daemon
LANES = ("ending", "ordinary", "suspect")


def pong(me: states.Daemon) -> dict[str, Any]:
    """What every daemon answers to `interfaces.Daemon.ping`."""
    return {"epoch": me.epoch, "release": __version__, "clock": time.time()}


# --- the queue ------------------------------------------------------------------------------


class Queue:
    """Jobs by (key, name): each is in it once, one worker a key; a job that is added while it
    runs runs again."""

    def __init__(self, workers: int) -> None:
        self.limits = {"ending": workers, "ordinary": workers - workers // 3, "suspect": 1}
        self._size = workers
        self._ready: dict[str, collections.deque[tuple[str, str, Callable[[], None]]]] = {
            lane: collections.deque() for lane in LANES
        }
        self._blocked: dict[str, list[tuple[str, str, str, Callable[[], None]]]] = {}
        self._known: set[tuple[str, str]] = set()
        self._running: dict[str, str] = {}  # key → lane
        self.claimed: dict[str, tuple[states.Machine, Any]] = {}  # rows whose attempt is counted
        self._given_back: set[str] = set()  # … and was given back, or is being
        # attempts (id, generation) that this process counted and could not give back: its own
        self.owed: set[tuple[str, int]] = set()
        self._later: list[tuple[float, int, tuple[Any, ...]]] = []
        self._due: dict[tuple[str, str], float] = {}  # the one time that counts for a job
        self.failures: collections.Counter[str] = collections.Counter()  # of synced rows, by key
        self._order = itertools.count()
        self._change = threading.Condition()
        self._threads = 0
        self._idle = 0
        self._timer: threading.Thread | None = None
        self._stopped = False
        self.on_fenced: Callable[[], None] = lambda: None  # what a job that was fenced calls
        self._shared: dict[Hashable, Together[Any, Any]] = {}

    def together(
        self, key: Hashable, body: Callable[[Sequence[Any]], Sequence[Any]]
    ) -> Together[Any, Any]:
        """`body` for one, shared by all workers that name the same key at the same time; it must
        be the same for all of them."""
        return self._shared.setdefault(key, Together(body))

    def add(self, key: str, name: str, call: Callable[[], None], lane: str = "ordinary") -> None:
        """Queue `call`; nothing happens when the same (key, name) waits already."""
        with self._change:
            if self._stopped or (key, name) in self._known:
                return
            self._known.add((key, name))
            if key in self._running:
                self._blocked.setdefault(key, []).append((lane, key, name, call))
            else:
                self._ready[lane].append((key, name, call))
                self._wake()

    def later(
        self, delay_s: float, key: str, name: str, call: Callable[[], None], lane: str = "ordinary"
    ) -> None:
        """Queue `call` after a while, or at the earlier time it was to be queued anyway."""
        due = time.monotonic() + delay_s
        with self._change:
            if self._due.get((key, name), due + 1) <= due:
                return
            self._due[key, name] = due
            heapq.heappush(self._later, (due, next(self._order), (key, name, call, lane)))
            if self._timer is None:
                self._timer = concurrency.start("later", self._watch_clock)
            self._change.notify_all()

    def begin(self, id: str, machine: states.Machine, row: Any) -> bool:
        """The claimed row is worked on; False when the daemon was stopped since it was claimed."""
        with self._change:
            if not self._stopped:
                self.claimed[id] = (machine, row)
            return not self._stopped

    def give_back(self, id: str) -> bool:
        """True for one of those who ask, while the row is claimed: it gives back the attempt."""
        with self._change:
            first = id in self.claimed and id not in self._given_back
            if first:
                self._given_back.add(id)
            return first

    def leave(self, id: str) -> None:
        """The claimed row is no longer worked on."""
        with self._change:
            del self.claimed[id]
            self._given_back.discard(id)

    def stop(self, patience_s: float) -> bool:
        """Take no more jobs and wait for the running ones; False when some still run."""
        until = time.monotonic() + patience_s
        with self._change:
            self._stopped = True
            self._known.clear()
            self._blocked.clear()
            for lane in self._ready.values():
                lane.clear()
            self._change.notify_all()
            while self._running and time.monotonic() < until:
                self._change.wait(until - time.monotonic())
            return not self._running

    def counts(self) -> tuple[int, int]:
        """How many jobs run, and how many wait for a worker or for their key."""
        with self._change:
            ready = sum(len(lane) for lane in self._ready.values())
            blocked = sum(len(jobs) for jobs in self._blocked.values())
            return len(self._running), ready + blocked

    def idle(self) -> bool:
        """Nothing runs or is ready to run (tests)."""
        with self._change:
            return not self._running and not any(self._ready.values())

    def _wake(self) -> None:
        if self._idle == 0 and self._threads < self._size + self.limits["suspect"]:
            self._threads += 1
            concurrency.start(f"worker-{self._threads}", self._serve)
        self._change.notify_all()

    def _serve(self) -> None:
        while True:
            with self._change:
                job = self._take()
                while job is None:
                    if self._stopped:
                        return
                    self._idle += 1
                    self._change.wait()
                    self._idle -= 1
                    job = self._take()
                if any(self._ready.values()):
                    self._wake()  # the idle ones that were counted on may be spoken for
            self._do(job)

    def step(self) -> bool:
        """Do the next job in the caller's own thread; False when none is ready (tests)."""
        with self._change:
            job = self._take()
        if job is not None:
            self._do(job)
        return job is not None

    def _do(self, job: tuple[str, str, Callable[[], None]]) -> None:
        key, name, call = job
        try:
            call()
        except errors.Fenced as error:
            LOG.warning("%s of %s: %s", name, key, error)
            self.on_fenced()
        except Exception:
            LOG.exception("%s of %s failed outside its frame", name, key)
        finally:
            self._finished(key)

    def _take(self) -> tuple[str, str, Callable[[], None]] | None:
        for lane in LANES:
            busy = sum(1 for used in self._running.values() if used == lane)
            ready = self._ready[lane]
            while ready and busy < self.limits[lane]:
                key, name, call = ready.popleft()
                if key in self._running:  # became busy after it was queued
                    self._blocked.setdefault(key, []).append((lane, key, name, call))
                    continue
                self._known.discard((key, name))
                self._running[key] = lane
                return key, name, call
        return None

    def _finished(self, key: str) -> None:
        with self._change:
            del self._running[key]
            for lane, key_, name, call in self._blocked.pop(key, ()):
                self._ready[lane].append((key_, name, call))
            self._wake()

    def _watch_clock(self) -> None:
        with self._change:
            while not self._stopped:
                self._change.wait(self.ripen())

    def ripen(self) -> float:
        """What is due is queued; the seconds until the next will be."""
        with self._change:
            while self._later:
                due, _, (key, name, call, lane) = self._later[0]
                pause = due - time.monotonic()
                if pause > 0:
                    return pause
                heapq.heappop(self._later)
                if self._due.get((key, name)) == due:
                    del self._due[key, name]
                    self.add(key, name, call, lane)
            return 60.0


# --- the frame of an apply --------------------------------------------------------------------

Apply = Callable[[Any, Context, Any], dict[str, Any] | None]
Nudged = Callable[[Any, Context, str], None]


def finishes(machine: states.Machine, state: str) -> Callable[[Apply], Nudged]:
    """Turn an apply into the nudge that queues it.

    The apply gets the row and may return columns to store with the END.  It is only run while the
    row is in `state` and this daemon acts for it, one at a time for each key.
    """

    def decorate(apply: Apply) -> Nudged:
        @functools.wraps(apply)
        def nudged(self: Any, ctx: Context, id: str, /) -> None:
            key = _key(machine, state, id)
            if key is not None:
                enqueue(self, machine, state, id, key)

        nudged.apply = apply  # type: ignore[attr-defined]
        return nudged

    return decorate


def enqueue(manager: Any, machine: states.Machine, state: str, id: str, key: str) -> None:
    """Queue the END of `state` for the row `id`, which is about the thing `key`."""
    work = machine.work[state]
    apply = getattr(type(manager), work.name).apply
    job = functools.partial(_finish, manager, machine, state, apply, id, key, False)
    manager.work.add(key, f"{state}:{id}", job, _lane(work))


def _lane(work: states.Work) -> str:
    return "ending" if work.ending else "ordinary"


def _key(machine: states.Machine, state: str, id: str) -> str | None:
    """What the row is about on the host; None when it is not there or cannot be read: then the
    sweep will."""
    if machine.work[state].key == "id":
        return id
    try:
        return _read_key(machine, machine.work[state].key, id)
    except errors.Unavailable as error:
        LOG.warning("%s: left to the next sweep: %s", id, error)
        return None


@reading
def _read_key(tx: Tx, machine: states.Machine, column: str, id: str) -> str | None:
    model = machine.model
    return tx.scalars(sa.select(getattr(model, column)).where(model.id == id)).one_or_none()


def context_of(row: Any) -> Context:
    """Who asked for what is done to the row now: for the log and for onward asks, without
    rights."""
    user_id, project_id = getattr(row, "user_id", ""), getattr(row, "project_id", "")
    try:
        user, project = users.names(user_id, project_id)
    except errors.Unavailable:
        user = project = ""
    return Context(row.request_id, user_id, project_id, user, project)


class _Died(Exception):
    """The reason of a row whose tries all ended with the daemon's death."""


@dataclasses.dataclass(frozen=True)
class _Claim:
    """What a claim found: a row to go on with, a suspect that must wait for its turn alone, or a
    pause after which to come back; none of them when there is nothing to do."""

    row: Any = None
    suspect: bool = False
    pause_s: float | None = None


def _finish(
    manager: Any,
    machine: states.Machine,
    state: str,
    apply: Apply,
    id: str,
    key: str,
    alone: bool,
) -> None:
    """One run: claim the row, apply, END; whatever happens is written to the row or left to the
    next sweep.  Fenced when this process may not act any more."""
    again = functools.partial(_finish, manager, machine, state, apply, id, key)
    name = f"{state}:{id}"
    try:
        body = functools.partial(_claim, machine, state, manager.me, manager.work.owed)
        claim = manager.work.together(("claim", machine.name, state, manager.me), body)(
            (id, alone)
        )
    except errors.Unavailable as error:
        LOG.warning("%s: left to the next sweep: %s", id, error)
        return
    except errors.WrongState as error:
        LOG.debug("%s: moved while it was claimed: %s", id, error)
        return
    pause = claim.pause_s
    if claim.suspect:
        manager.work.add(key, name, functools.partial(again, True), "suspect")
    elif claim.row is not None:
        ctx = context_of(claim.row)
        if not manager.work.begin(id, machine, claim.row):
            _note(machine, claim.row, manager.me, STOPPED, 0, attempts=-1)
            return
        try:
            with context.use(ctx):
                checkpoint(f"{apply.__name__}.claimed")
                pause = _run(manager, machine, state, apply, claim.row, ctx)
        finally:
            manager.work.leave(id)
    if pause is not None:
        manager.work.later(
            pause, key, name, functools.partial(again, False), _lane(machine.work[state])
        )


def _run(
    manager: Any, machine: states.Machine, state: str, apply: Apply, row: Any, ctx: Context
) -> float | None:
    """Apply and END; the seconds until the next try, or None."""
    started = time.monotonic()
    owed = (row.id, row.generation)
    manager.work.owed.discard(owed)
    if row.attempts > CONF.tries and machine.work[state].failed != states.KEEP:
        _fail(manager, machine, state, row, _Died(f"{row.attempts - 1} tries did not end"))
        return None
    try:
        values = apply(manager, ctx, row) or {}
        checkpoint(f"{apply.__name__}.applied")
        _end_one(manager, machine, row, machine.work[state].success(row), values)
        checkpoint(f"{apply.__name__}.ended")
        took = time.monotonic() - started
        LOG.info("%s %s: %s -> %s in %.2f s", machine.name, row.id, state, row.state, took)
    except (errors.Overtaken, errors.WrongState) as error:
        LOG.info("%s %s: %s was overtaken: %s", machine.name, row.id, state, error)
    except (errors.TryLater, errors.Unavailable) as error:
        return _wait(manager, machine, row, error)
    except errors.Fenced:
        raise
    except errors.Final as error:
        _fail(manager, machine, state, row, error)
    except exc.SQLAlchemyError:
        manager.work.owed.add(owed)
        LOG.exception("%s %s: %s left to the next sweep", machine.name, row.id, state)
    except Exception as error:
        return _try_again(manager, machine, state, row, error)
    return None


@transaction
def _claim(
    tx: Tx,
    machine: states.Machine,
    state: str,
    me: states.Daemon,
    owed: Collection[tuple[str, int]],
    asks: Sequence[tuple[str, bool]],
) -> list[_Claim]:
    """For each (id, alone): count an attempt before the first step; a suspect's only when it has
    the daemon to itself (`alone`), or its neighbours' deaths would be counted as its own.  One
    that is `owed` is counted already."""
    model = machine.model
    found = tx.scalars(sa.select(model).where(model.id.in_([id for id, _ in asks])))
    rows = {row.id: row for row in found}
    claims = [
        _looked_at(tx, machine.work[state], rows[id], me, alone, owed)
        if id in rows and rows[id].state == state
        else _Claim()
        for id, alone in asks
    ]
    claimed = [claim.row for claim in claims if claim.row is not None]
    fresh = [row for row in claimed if (row.id, row.generation) not in owed]
    if fresh:
        _count(tx, machine, state, me, fresh)
    if len(fresh) < len(claimed):
        me.require(tx)
    return claims


def _looked_at(
    tx: Tx,
    work: states.Work,
    row: Any,
    me: states.Daemon,
    alone: bool,
    owed: Collection[tuple[str, int]],
) -> _Claim:
    if work.host is not None and getattr(row, work.host) != me.host:
        return _Claim()
    if row.not_before is not None:
        pause = (row.not_before - clock(tx)).total_seconds()
        if 0 < pause <= CONF.sweep_s:  # a longer one is left by a clock that was set back since
            return _Claim(pause_s=pause)
    attempts = row.attempts + ((row.id, row.generation) not in owed)
    return _Claim(suspect=True) if attempts > SUSPECT and not alone else _Claim(row)


def _count(
    tx: Tx, machine: states.Machine, state: str, me: states.Daemon, rows: Sequence[Any]
) -> None:
    """One attempt more for each of these; WrongState when one of them was moved since."""
    model = machine.model
    same = sa.tuple_(model.id, model.generation).in_([(row.id, row.generation) for row in rows])
    counted = (
        sa.update(model)
        .where(model.id.in_([row.id for row in rows]), same, model.state == state, me.alive())
        .values(attempts=model.attempts + 1)
    )
    if tx.changed(counted) != len(rows):
        me.require(tx)
        raise machine.wrong(kind=machine.name, id=rows[0].id, state="changing", to=state)
    for row in rows:
        sa.orm.attributes.set_committed_value(row, "attempts", row.attempts + 1)


def _end_one(
    manager: Any, machine: states.Machine, row: Any, to: str, values: dict[str, Any]
) -> None:
    """The row is moved there; with the same move of other rows, when it brings no values."""
    body = functools.partial(_end, machine, to, manager.me, values)
    if values:
        body([row])
    else:
        manager.work.together(("end", machine.name, row.state, to, manager.me), body)(row)


@transaction
def _end(
    tx: Tx,
    machine: states.Machine,
    to: str,
    me: states.Daemon,
    values: dict[str, Any],
    rows: Sequence[Any],
) -> Sequence[None]:
    states.move_all(tx, machine, rows, to, me, **values)
    return [None] * len(rows)


def _wait(manager: Any, machine: states.Machine, row: Any, error: Exception) -> float | None:
    """Another part is away: the attempt does not count, the wait does."""
    if row.waits + 1 >= CONF.waits and machine.work[row.state].failed != states.KEEP:
        _fail(manager, machine, row.state, row, error)
        return None
    pause = _pause(0.25 * 2 ** min(row.waits, 10))
    LOG.info("%s %s waits %.1f s: %s", machine.name, row.id, pause, error)
    attempts = -1 if manager.work.give_back(row.id) else 0
    if not _note(machine, row, manager.me, error, pause, attempts, waits=1):
        manager.work.owed.add((row.id, row.generation))
    return pause


def _try_again(
    manager: Any, machine: states.Machine, state: str, row: Any, error: Exception
) -> float | None:
    LOG.error(
        "%s %s: try %d of %s failed", machine.name, row.id, row.attempts, state, exc_info=error
    )
    if row.attempts >= CONF.tries and machine.work[state].failed != states.KEEP:
        _fail(manager, machine, state, row, error)
        return None
    manager.work.give_back(row.id)  # to nobody: it failed, whatever ends the daemon now
    pause = _pause(0.5 * 2 ** min(row.attempts, 10))
    _note(machine, row, manager.me, error, pause)
    return pause


def _pause(seconds: float) -> float:
    """With jitter, and never longer than a sweep."""
    return min(float(CONF.sweep_s), seconds) * random.uniform(0.5, 1.0)


def _note(
    machine: states.Machine,
    row: Any,
    me: states.Daemon,
    error: Exception,
    pause_s: float,
    attempts: int = 0,
    waits: int = 0,
) -> bool:
    """Store why and until when the row waits; False when the database is away."""
    try:
        _note_in(machine, row, me, str(error)[:1000], pause_s, attempts, waits)
    except errors.Unavailable as away:
        LOG.warning("%s: not noted: %s", row.id, away)
        return False
    return True


@transaction
def _note_in(
    tx: Tx,
    machine: states.Machine,
    row: Any,
    me: states.Daemon,
    reason: str,
    pause_s: float,
    attempts: int,
    waits: int,
) -> None:
    model = machine.model
    same = (model.id == row.id, model.state == row.state, model.generation == row.generation)
    tx.changed(
        sa.update(model)
        .where(*same, me.alive())
        .values(
            attempts=model.attempts + attempts,
            waits=model.waits + waits,
            not_before=models.now(pause_s),
            reason=reason,
        )
    )


def _fail(manager: Any, machine: states.Machine, state: str, row: Any, error: Exception) -> None:
    """End the state in the failure its line names, with the reason."""
    to = machine.work[state].failed
    reason = str(error)[:1000]
    try:
        if to == states.KEEP:
            _note(machine, row, manager.me, error, CONF.sweep_s)
            return
        if to == states.BACK:
            to = row.rest
        elif to == states.FOUND:
            to = manager.found(machine, row)
            to = to if to in machine.settled else "error"
        _end_one(manager, machine, row, to, {"reason": reason})
        LOG.warning("%s %s: %s failed, now %s: %s", machine.name, row.id, state, to, reason)
    except errors.Fenced:
        raise
    except errors.Error as lost:
        LOG.info("%s %s: failure not written: %s", machine.name, row.id, lost)


def stop(manager: Any, patience_s: float) -> None:
    """Take no more work, wait for what is being done, and give back the attempts of what is not
    done by then: a polite end is nobody's failure.  The next start's sweep goes on with it."""
    if manager.work.stop(patience_s):
        return
    LOG.warning("%d verbs go on after the next start", len(manager.work.claimed))
    for machine, row in list(manager.work.claimed.values()):
        ends = row.state not in machine.work  # its END is being written
        if ends or not manager.work.give_back(row.id):
            continue
        _note(machine, row, manager.me, STOPPED, 0, attempts=-1)


# --- what an apply may use ----------------------------------------------------------------------


def checker(manager: Any, machine: states.Machine, row: Any) -> Callable[[], None]:
    """A function that raises Overtaken when the row was moved, Fenced when we were replaced; to
    be called between long steps, in waits and in downloads."""
    body = functools.partial(_generations, machine, manager.me)
    known = manager.work.together(("check", machine.name, manager.me), body)

    def check() -> None:
        if known(row.id) != row.generation:
            raise errors.Overtaken(id=row.id)

    return check


@reading
def _generations(
    tx: Tx, machine: states.Machine, me: states.Daemon, ids: Sequence[str]
) -> list[int | None]:
    """That of each row; Fenced when we were replaced."""
    model = machine.model
    statement = sa.select(model.id, model.generation, me.alive()).where(model.id.in_(ids))
    found = {id: (generation, alive) for id, generation, alive in tx.execute(statement)}
    if not all(alive for _, alive in found.values()):
        raise errors.Fenced(daemon=me.id, epoch=me.epoch)
    return [found[id][0] if id in found else None for id in ids]


def wait_applied(
    manager: Any,
    model: type[Any],
    id: str,
    daemon: str,
    host: str | None,
    since: int,
    check: Callable[[], None],
) -> None:
    """Return when the daemon has applied the synced row up to `since`.

    `check` raises when there is nothing to wait for any more.  TryLater when the daemon is down
    or takes longer than a moment: the caller's row is queued again.
    """
    until = time.monotonic() + CONF.applied_wait_s
    pause = 0.02
    rows = itertools.count()
    applied = manager.work.together("applied", _applied)
    while True:
        alive, value = applied((id, f"{daemon}@{host}"))
        if value >= since:
            return
        if not alive:
            raise errors.TryLater(reason=f"the {daemon} daemon of host {host} is down")
        if next(rows) == 0:
            rpc.send([rpc.Nudge(states.SYNCED[model], id, host)])
        if time.monotonic() > until:
            raise errors.TryLater(reason=f"{daemon}@{host} has not applied {id} yet")
        concurrency.sleep(pause)
        check()
        pause = min(0.5, pause * 1.5)


@reading
def _applied(tx: Tx, asks: Sequence[tuple[str, str]]) -> list[tuple[bool, int]]:
    """Of each (synced row, daemon), whether it lives and how far it has applied the row."""
    found = {ask: hosts.how_far(tx, ask[1], ask[0]) for ask in dict.fromkeys(asks)}
    return [found[ask] for ask in asks]


# --- synced rows ----------------------------------------------------------------------------


def applies(model: type[Any]) -> Callable[[Callable[[Any, str], None]], Nudged]:
    """Turn the apply of a synced row into the nudge that queues it.

    A failure is logged and tried again with backoff; the sweep tries in any case.
    """

    def decorate(apply: Callable[[Any, str], None]) -> Nudged:
        @functools.wraps(apply)
        def nudged(self: Any, ctx: Context, id: str, /) -> None:
            key = f"{model.__tablename__}:{id}"
            self.work.add(key, apply.__name__, lambda: _apply(self, apply, id, key), "ending")

        nudged.apply = apply  # type: ignore[attr-defined]
        return nudged

    return decorate


def _apply(manager: Any, apply: Callable[[Any, str], None], id: str, key: str) -> None:
    try:
        with context.use(Context(f"{apply.__name__}-{id[3:8]}")):
            apply(manager, id)
        manager.work.failures.pop(key, None)
    except errors.Fenced:
        raise
    except Exception as error:
        if isinstance(error, errors.TryLater | errors.Unavailable):
            LOG.warning("%s %s waits: %s", apply.__name__, id, error)
        else:
            LOG.exception("%s %s failed", apply.__name__, id)
        pause = _pause(0.25 * 2 ** min(manager.work.failures[key], 10))
        manager.work.failures[key] += 1
        again = functools.partial(_apply, manager, apply, id, key)
        manager.work.later(pause, key, apply.__name__, again, "ending")


# --- the sweep --------------------------------------------------------------------------------


def sweep(manager: Any) -> None:
    """Queue every row that waits for this daemon, as if its nudge had just come."""
    topic = manager.protocol.topic
    for machine in states.MACHINES:
        for state, work in machine.work.items():
            if work.topic != topic:
                continue
            waiting = _waiting(machine, state, work, manager.me)
            if work.every:
                if waiting:
                    getattr(manager, work.name)(Context("sweep"), waiting[0][0])
                continue
            for id, key in waiting:
                enqueue(manager, machine, state, id, key)


@reading
def _waiting(
    tx: Tx, machine: states.Machine, state: str, work: states.Work, me: states.Daemon
) -> list[tuple[str, str]]:
    model = machine.model
    statement = sa.select(model.id, getattr(model, work.key)).where(model.state == state)
    if work.host is not None:
        statement = statement.where(getattr(model, work.host) == me.host)
    return [(id, key) for id, key in tx.execute(statement)]
