"""A whole cloud in one thread, by a clock of its own: nothing happens but what a test asks for.

Every daemon's sweep and every job of its queue is a thread of control of its own (a greenlet) that
stands still before each of its transactions and at each checkpoint until somebody lets it go on,
in any order.  Whatever was found so is found again by the same choices.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import pathlib
import random
import secrets
import shutil
import sqlite3
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import greenlet
import pytest
import sqlalchemy as sa
from typing_extensions import override

from minicloud import checkpoint, concurrency, context, daemon, rpc, together, work
from minicloud.compute import manager as compute_manager
from minicloud.compute import simulated
from minicloud.compute.driver import Domain
from minicloud.context import Context
from minicloud.db import hosts, models, session
from minicloud.db.session import Tx, transaction
from tests.conftest import InProcessCloud

HOSTS = {"scheduler": ["s1"], "network": ["h1"], "volume": ["h1"], "compute": ["h1", "h2"]}
# files lie where the daemons of a real cloud put them
PLACES = {
    "simulated": "instances/simulated",
    "networks": "lib/networks/simulated",
    "volumes": "volumes/simulated",
}
BEGIN = dt.datetime(2026, 1, 1)
BEAT_S = 5.0
SWEEP_S = 20.0
FAR = 1 << 30  # more steps than anything has

# what a hypervisor is told just after its asker has looked: is the row still so, am I still I?
LOOKED = frozenset({"spawn", "define", "started"})


@dataclasses.dataclass
class Job:
    """Something a daemon is doing."""

    life: daemon.Life
    thread: greenlet.greenlet
    sweep: bool
    sleeps_until: float = 0.0

    @property
    def over(self) -> bool:
        return bool(self.thread.dead)


class Turn:
    """A lock whose waiters let others go on meanwhile."""

    def __init__(self, clouds: list[Driven]) -> None:
        self._clouds = clouds
        self._taken = False

    def __enter__(self) -> None:
        while self._taken:
            self._clouds[0].budget = 1
            self._clouds[0].give_way()
        self._taken = True

    def __exit__(self, *error: object) -> None:
        self._taken = False


class Driven(InProcessCloud):
    """`template` is a database with users, projects, a network and an image; `use` is what
    `one_thread` gave."""

    def __init__(
        self,
        path: pathlib.Path,
        template: pathlib.Path,
        options: Callable[..., None],
        use: Callable[[Driven], object],
    ) -> None:
        super().__init__(path)
        use(self)
        path.mkdir()
        self.file = path / "minicloud.sqlite"
        shutil.copy(template, self.file)
        (path / "images").mkdir()
        (path / "images" / "tty").touch()
        options("DEFAULT", state_path=str(path / "lib"))
        options("database", connection=f"sqlite:///{self.file}")
        event = sa.event.listens_for(session.engine(), "connect")
        event(lambda connection, record: self._connected(connection))
        self.now_s = 0.0
        self.budget = 0
        self.until = ""  # how the name of a place ends where everybody stands still
        self.outbox: list[rpc.Nudge] = []
        self.jobs: list[Job] = []
        self.replaced: list[daemon.Life] = []  # frozen processes that another took the place of
        self.ghosts: list[Job] = []  # what they were doing, and begin to do
        self.told: set[daemon.Life] = set()  # those who found out that they may not act
        self.frozen: dict[str, tuple[daemon.Life, list[Job]]] = {}
        self.dead: list[Any] = []
        self.haunted = False  # a replaced process has done something to its host
        self._beaten_s = 0.0
        self._running: Job | None = None
        self.drivers: list[Any] = []
        self._looking = sqlite3.connect(self.file)
        for kind, names in HOSTS.items():
            for host in names:
                self.begin(f"{kind}@{host}")

    def _connected(self, connection: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")
        connection.create_function("strftime", 3, self._strftime)

    def _strftime(self, form: str, base: str, plus: str) -> str:
        at = BEGIN + dt.timedelta(seconds=self.now_s + float(plus.split(maxsplit=1)[0]))
        return at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]

    # --- time and turns -----------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """What sleeps stands still; when it is let go on that time has passed."""
        if self._running is not None:
            self._running.sleeps_until = self.now_s + seconds
            self.budget = 1
            self.give_way()

    def give_way(self, place: str = "") -> None:
        """A place where the others may go on."""
        if not self._is_job() or getattr(concurrency._local, "inside", False):
            return
        self.budget -= 1
        if self.budget <= 0 or (self.until and place.endswith(self.until)):
            greenlet.getcurrent().parent.switch()

    @staticmethod
    def _is_job() -> bool:
        return greenlet.getcurrent().parent is not None

    @override
    def directory(self, kind: str, host: str) -> pathlib.Path:
        return self.path / PLACES[kind] / host

    # --- daemons ------------------------------------------------------------------------------

    def begin(self, id: str) -> None:
        """A new process of that daemon, with the next epoch; what a frozen one was doing is left
        to its ghost."""
        kind, host = id.split("@")
        if id in self.frozen:
            life, jobs = self.frozen.pop(id)
            self.replaced.append(life)
            self.ghosts += jobs
        getattr(self, kind)(host)

    @override
    def _live(self, manager: object, host: str) -> None:
        life = daemon.Life(manager, host, "nova")
        row, booted = _register(life)
        life.take_up(row, booted)
        self.lives[life.id] = life
        self.drivers.append(manager)
        self.beat()

    def beat(self) -> None:
        """The hearts of all that live; one whose place was taken learns of it."""
        self._beaten_s = self.now_s
        lives = self.lives.values()
        beats = {one.id: (one.manager.me.epoch, one.manager.alive()) for one in lives}
        assert _beat(beats) == set()

    def kill(self, id: str) -> None:
        self._take_away(id, self.dead)

    def _take_away(self, id: str, where: list[Any]) -> daemon.Life:
        life = self.lives.pop(id)
        mine = [job for job in self.jobs if job.life is life]
        self.jobs = [job for job in self.jobs if job.life is not life]
        where += mine
        return life

    def end_politely(self, id: str) -> None:
        life = self.lives[id]
        life.end()
        self._take_away(id, self.dead)

    def freeze(self, id: str) -> None:
        """The process stands still, holding all it holds."""
        jobs: list[Job] = []
        life = self._take_away(id, jobs)
        self.frozen[id] = (life, jobs)

    def thaw(self, id: str) -> None:
        life, jobs = self.frozen.pop(id)
        self.lives[id] = life
        self.jobs += jobs

    def haunt(self, number: int, steps: int) -> None:
        """The frozen process that was replaced goes on for a while.

        No row shows it, and no guest is started; who finds its row as it was has found out.
        """
        job = self.ghosts[number]
        claimed = dict(job.life.manager.work.claimed)
        done, version = self._done(job.life), self._version()
        self._advance(self.ghosts, number, steps)
        assert self._version() == version, f"{job.life.id} was replaced and has changed rows"
        new = self._done(job.life)[len(done) :]
        if job.life.topic == "compute":
            assert not LOOKED & {one.what for one in new}, f"{job.life.id} was replaced and acts"
        self.haunted |= bool(new)
        for id in claimed.keys() - job.life.manager.work.claimed.keys():
            machine, row = claimed[id]
            if row.state in machine.work:  # else it had ended before it was replaced
                self._must_be_told(job.life, machine, row)

    def wake(self, life: daemon.Life) -> None:
        """All that the replaced process was doing goes on, and it begins with the next."""
        for number in reversed(range(len(self.ghosts))):
            if self.ghosts[number].life is life:
                self.haunt(number, FAR)
        self.begin_to_haunt(self.replaced.index(life), False, FAR)

    def begin_to_haunt(self, number: int, sweep: bool, steps: int) -> None:
        """It begins with something new."""
        life = self.replaced[number]
        if not self._is_told(life):
            call = life.sweep if sweep else life.manager.work.step
            self.ghosts.append(Job(life, greenlet.greenlet(call), sweep))
            self.haunt(len(self.ghosts) - 1, steps)

    def _must_be_told(self, life: daemon.Life, machine: Any, row: Any) -> None:
        """It has ended with a row, or will try again, or has found out why it may not."""
        query = f"SELECT 1 FROM {machine.model.__tablename__} WHERE id = ? AND generation = ?"
        as_it_was = self.rows(query, row.id, row.generation)
        waits = any(name.endswith(row.id) for _, name in life.manager.work._due)
        ended = self._is_told(life) or waits or not as_it_was
        assert ended, f"{life.id} was replaced and does not know it"

    def _is_told(self, life: daemon.Life) -> bool:
        return life in self.told or life.fenced.is_set()

    def _done(self, life: daemon.Life) -> list[Any]:
        """What the process has done to its host so far."""
        driver = getattr(life.manager, "driver", getattr(life.manager, "store", None))
        return list(getattr(driver, "history", ()))

    def _version(self) -> int:
        """Another one after each change of a row."""
        [(version,)] = self.rows("PRAGMA data_version")
        return int(version)

    # --- work ---------------------------------------------------------------------------------

    def send(self, nudges: Sequence[rpc.Nudge]) -> None:
        self.outbox += dict.fromkeys(nudges)

    def deliver(self, number: int, *, keep: bool) -> None:
        nudge = self.outbox[number] if keep else self.outbox.pop(number)
        topic = rpc.topic_of(nudge.method)
        for id, life in self.lives.items():
            if id.startswith(f"{topic}@") and nudge.host in (None, life.host):
                getattr(life.manager, nudge.method.__name__)(Context("req-nudge"), nudge.id)
                return

    def busy(self) -> list[str]:
        """Daemons that do something or have something to do."""
        return [id for id, life in self.lives.items() if not life.manager.work.idle()]

    def claims(self) -> list[tuple[daemon.Life, Any, Any]]:
        """Who is in the middle of what: the state table and the row, also of who stands still."""
        lives = [*self.lives.values(), *(life for life, _ in self.frozen.values())]
        return [(one, *claim) for one in lives for claim in one.manager.work.claimed.values()]

    def almost_end(self, life: daemon.Life) -> None:
        """All that the process has begun is done, and the rows do not say so yet."""
        self.until = ".applied"
        self.all_go_on(life, FAR)
        self.all_go_on(life, FAR)  # who was to sleep has slept
        self.until = ""

    def all_go_on(self, life: daemon.Life, steps: int) -> None:
        """All that the process is doing."""
        for number in reversed(range(len(self.jobs))):
            if self.jobs[number].life is life:
                self.go_on(number, steps)

    def begin_job(self, id: str, steps: int) -> bool:
        """The daemon begins with what is first in its queue; False when nothing may begin."""
        life = self.lives[id]
        return self._begin(Job(life, greenlet.greenlet(life.manager.work.step), False), steps)

    def begin_sweep(self, id: str, steps: int) -> None:
        """One at a time: a daemon's sweeps are one thread."""
        life = self.lives[id]
        if not any(job.sweep for job in self.jobs if job.life is life):
            self._begin(Job(life, greenlet.greenlet(life.sweep), True), steps)

    def _begin(self, job: Job, steps: int) -> bool:
        self.jobs.append(job)
        return self._advance(self.jobs, len(self.jobs) - 1, steps)

    def go_on(self, number: int, steps: int) -> None:
        self._advance(self.jobs, number, steps)

    def _advance(self, jobs: list[Job], number: int, steps: int) -> bool:
        job = jobs[number]
        self.pass_time(job.sleeps_until - self.now_s)
        rows = dict(self.rows("SELECT id, generation FROM instances"))
        done = self._done(job.life)
        self.budget = steps
        self._running = job
        with context.use(None):
            answer = job.thread.switch()
        self._running = None
        if job.over:
            jobs.pop(number)
        for entry in self._done(job.life)[len(done) :] if job.life.topic == "compute" else ():
            if entry.what in LOOKED:
                assert rows[entry.id] == entry.generation, f"{entry.what} of what was moved since"
        return answer is not False

    def pass_time(self, seconds: float) -> None:
        """Everybody who lives says so all the time."""
        until = self.now_s + seconds
        while self.now_s < until:
            self.now_s = min(until, max(self.now_s, self._beaten_s + BEAT_S))
            if self.now_s >= self._beaten_s + BEAT_S:
                self.beat()
            for life in self.lives.values():
                life.manager.work.ripen()

    def begun(self, name: str, call: Any) -> None:
        """Threads that a process would begin: only the one that ends it says anything here."""
        if name == "fence":
            self.told.add(call.__self__)

    def run(self, seconds: float) -> None:
        """Everybody does what there is to do for that long."""
        until = self.now_s + seconds
        while self.now_s < until:
            while self._round():
                pass
            self.pass_time(min(1.0 if self.jobs else 4.0, until - self.now_s))

    def _round(self) -> bool:
        """What was sent has come, what waited has begun, what stood still has gone on; False when
        there was nothing but what sleeps."""
        moved = bool(self.outbox)
        while self.outbox:
            self.deliver(0, keep=False)
        for id in self.lives:
            while self.begin_job(id, FAR):
                moved = True
        for number in reversed(range(len(self.jobs))):
            self.go_on(number, FAR)
            moved |= number >= len(self.jobs)
        return moved

    def mend(self) -> None:
        """All are up; who was frozen went on as long as it could."""
        for id in list(self.frozen):
            self.thaw(id)
        while self.ghosts:
            for number in reversed(range(len(self.ghosts))):  # some wait for others
                self.haunt(number, FAR)
        for id in self.down():
            self.begin(id)
        self.run(1.0)

    def settle(self) -> None:
        """Two sweeps later."""
        for _ in range(2):
            for id in self.lives:
                self.begin_sweep(id, FAR)
            self.run(SWEEP_S)

    # --- looking ------------------------------------------------------------------------------

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """The answer of the database."""
        return self._looking.execute(query, values).fetchall()

    def down(self) -> list[str]:
        """Daemons of which no process does anything; a frozen one still might."""
        known = [f"{kind}@{host}" for kind, names in HOSTS.items() for host in names]
        return [id for id in known if id not in self.lives]

    def domains(self) -> dict[str, dict[str, Domain]]:
        """What every compute host has."""
        return {host: driver.domains() for host, driver in self.hypervisors.items()}

    @override
    def close(self) -> None:
        self._looking.close()
        session.forget_engines()


@contextlib.contextmanager
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Driven], None]]:
    """Inside the block the cloud that was last given to the function is the only one there is,
    and there are no threads, no waiting and no chance."""
    clouds: list[Driven] = []

    def use(cloud: Driven) -> None:
        clouds[:] = [cloud]

    def give_way(place: str = "") -> None:
        if clouds:
            clouds[0].give_way(place)

    def send(nudges: Sequence[rpc.Nudge]) -> None:
        if clouds:
            clouds[0].send(nudges)

    forbid = concurrency.forbid_in_transaction

    def forbid_and_give_way(what: str) -> None:
        forbid(what)
        give_way()

    def begin(name: str, call: object, *words: object) -> object:
        if clouds:
            clouds[0].begun(name, call)
        return types.SimpleNamespace(join=lambda limit_s: None)

    time = types.SimpleNamespace(monotonic=lambda: clouds[0].now_s if clouds else 0.0)
    locks = types.SimpleNamespace(Lock=lambda: Turn(clouds), Event=threading.Event)
    patch = monkeypatch.setattr
    patch(concurrency, "start", begin)
    patch(concurrency, "sleep", lambda seconds: clouds[0].sleep(seconds) if clouds else None)
    patch(concurrency, "forbid_in_transaction", forbid_and_give_way)
    patch(work, "time", time)
    patch(simulated, "time", time)
    patch(compute_manager, "threading", locks)
    patch(daemon, "threading", locks)
    patch(together, "threading", locks)
    patch(rpc, "send", send)
    patch(checkpoint, "hook", give_way)
    patch(secrets, "token_hex", lambda size=16: random.randbytes(size).hex())
    patch(secrets, "choice", random.choice)
    session.send_with(send)
    yield use
    session.send_with(lambda nudges: None)


@transaction
def _register(tx: Tx, life: daemon.Life) -> tuple[models.Host, bool]:
    return life.register(tx)


@transaction
def _beat(tx: Tx, beats: dict[str, Any]) -> set[str]:
    return hosts.beat_all(tx, beats)
