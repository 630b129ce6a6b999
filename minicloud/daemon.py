"""A daemon's life: lock, epoch, heartbeat, sweeps, RPC server, clean stop.

`Life` is one manager's life and knows nothing of processes, so that many can share one;
`run` is the process around it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from oslo_config import cfg

from minicloud import concurrency, config, context, errors, rpc, states, work
from minicloud.checkpoint import checkpoint
from minicloud.db import clouds, hosts, models
from minicloud.db.session import Tx, reading, transaction
from minicloud.supervised import Supervised

LOG = logging.getLogger(__name__)

T = TypeVar("T")

CONF = config.declare(
    "daemon",
    [
        cfg.FloatOpt("heartbeat_s", default=5.0, min=0.1, help="Seconds between two heartbeats."),
        cfg.FloatOpt(
            "stop_s",
            default=15.0,
            min=0,
            help="Seconds a stopping daemon waits for what it is doing; the rest is done by the"
            " next start.",
        ),
        cfg.StrOpt(
            "machine_id_file",
            default="/etc/machine-id",
            help="File whose first line tells this machine from all others: the name of a host"
            " belongs to one machine (see minicloud-manage host rebind).  Containers that share"
            " /etc/machine-id, or have none, need one of their own.",
        ),
    ],
)

EXIT_FENCED = 75
BOOT_ID = "/proc/sys/kernel/random/boot_id"
UNINITIALIZED = "uninitialized"  # of an image of a system, until its first boot: machine-id(5)
LOOK_S = 0.1  # between two looks for a signal
FULL = (errno.ENOSPC, errno.EDQUOT)  # what a host gets over without a hand being lifted


class Life:
    """The life of one manager: `begin` returns when it can be nudged or swept."""

    def __init__(self, manager: Any, host: str, zone: str) -> None:
        self.manager = manager
        self.topic: str = manager.protocol.topic
        self.host = host
        self.zone = zone
        self.id = f"{self.topic}@{host}"
        self._server: Any = None
        self._threads: list[threading.Thread] = []
        self._ending = threading.Lock()  # of those that find it fenced, one ends it
        self._deaf = threading.Event()  # it is to take no nudge any more
        self._over = threading.Event()
        self.begun = threading.Event()  # the manager has started
        self.ready = threading.Event()  # … and listens for nudges
        self.fenced = threading.Event()
        self.failed = threading.Event()
        self._waits = "begins"  # for what, until it is ready
        self._beats = 0  # heartbeats in the database, as far as is known

    def begin(self) -> None:
        """Become the one living process of this (host, daemon) and start its threads.

        Waits, saying so, for a database or hypervisor that is not there yet and for room on the
        disk; anything else that stands in the way ends the life, and `failed` says so.
        """
        try:
            self._begin()
        except errors.Fenced:
            self.fence()
        except Exception as error:
            expected = isinstance(error, errors.Error | OSError)  # what happened is in its words
            trace = None if expected else error
            LOG.critical("%s cannot begin: %s", self.id, error, exc_info=trace)
            self.failed.set()
            self._over.set()

    def _begin(self) -> None:
        try:
            row, booted = self._patiently(lambda: _register(self))
        except errors.GivenAway:
            LOG.critical("%s is another machine's now: what is left of it here goes", self.id)
            self._patiently(lambda: self.manager.let_go(self.host, everything=True))
            raise
        self.take_up(row, booted)
        for name, run in (("heartbeat", self._beat_for_ever), ("sweep", self._sweep_for_ever)):
            self._threads.append(concurrency.start(name, run))
        concurrency.start("rpc", self.listen)

    def take_up(self, row: models.Host, booted: bool) -> None:
        """Be the daemon of the row's epoch and prepare the host; its threads are the caller's.

        A host that was fenced first lets go of what is no longer its own.
        """
        manager = self.manager
        manager.host_booted = booted
        manager.me = states.Daemon(self.id, self.host, row.epoch)
        manager.work = work.Queue(work.CONF.workers)
        manager.work.on_fenced = self._fenced
        manager.still_trusted = self._still_trusted
        manager.trusted = False  # until it is known
        manager.trusted = self._patiently(lambda: _trusted(row))
        self._beats = row.beats
        if row.fenced_at is not None:
            self._patiently(self._come_back)
        self._patiently(manager.start)
        self.begun.set()

    def _come_back(self) -> None:
        """Nothing is left here that was handed over since the host was fenced, and it is a host
        like any other again.

        Whatever is handed over raises the epoch: then it is registered and looked through anew.
        """
        manager = self.manager
        while True:
            LOG.warning("%s was fenced: letting go of what is no longer its own", self.id)
            if not self._still_trusted():
                raise errors.Conflict(reason=f"{self.id} is fenced, and the database distrusted")
            manager.let_go(self.host, everything=False)
            checkpoint("daemon.let_go")
            if _come_back(self.id, manager.me.epoch):
                return
            row, _ = _register(self)
            manager.me = states.Daemon(self.id, self.host, row.epoch)
            manager.trusted = _trusted(row)

    def _patiently(self, step: Callable[[], T]) -> T:
        """The result of `step`, once what it needs is there; the last error when the life is
        over before."""
        while True:
            try:
                return step()
            except (errors.TryLater, errors.Unavailable, OSError) as error:
                if isinstance(error, OSError) and error.errno not in FULL:
                    raise
                LOG.warning("%s waits: %s", self.id, error)
                self._waits = f"waits: {error}"
                if self._over.wait(2.0):
                    raise

    def register(self, tx: Tx) -> tuple[models.Host, bool]:
        """Raise the epoch of its row: see `hosts.register`.  AnotherCloud, and nothing is written,
        when the database is not that of the cloud this host belongs to."""
        _require_own_cloud(clouds.id_of(tx))
        return hosts.register(
            tx,
            host=self.host,
            daemon=self.topic,
            machine_id=machine_id(),
            boot_id=boot_id(),
            version=self.manager.protocol.version,
            zone=self.zone,
        )

    def end(self) -> None:
        """Stop politely; what is under way is finished or left to the next start."""
        self.rest(CONF.stop_s)
        if self.begun.is_set():
            with contextlib.suppress(errors.Error):
                _leave(self.id, self.manager.me.epoch)

    def rest(self, patience_s: float) -> None:
        """Take nothing more and stop what is under way; the row still says that it lives.

        Of what had begun nothing is done any more after that, not a heartbeat either, but for what
        takes longer than the patience.
        """
        until = time.monotonic() + patience_s
        self._over.set()
        self._stop_listening()
        if self.begun.is_set():
            work.stop(self.manager, patience_s)
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _stop_listening(self) -> None:
        self._deaf.set()
        if self._server is not None:
            self._server.stop()

    def _leave_queue(self) -> None:
        """What the broker has handed over already goes to another reader; waits for a broker that
        is away."""
        self._stop_listening()
        if self._server is not None:
            self._server.wait()

    def wait(self, seconds: float | None = None) -> bool:
        """True when the life is over."""
        return self._over.wait(seconds)

    def _beat_for_ever(self) -> None:
        failing = False
        while not self._over.is_set():
            try:
                if not self._beat(self.manager.alive()):
                    self.fence()
                    return
                if failing:
                    LOG.warning("%s: heartbeat goes on", self.id)
                failing = False
            except errors.Error as error:
                if not failing:
                    LOG.warning("%s: no heartbeat: %s", self.id, error)
                failing = True
            except Exception:
                LOG.exception("%s: no heartbeat", self.id)
                failing = True
            self._over.wait(CONF.heartbeat_s)

    def _beat(self, facts: dict[str, Any]) -> bool:
        """Say that it lives; False when another process has its place."""
        number = self._beats + 1
        written = _beat(self.id, self.manager.me.epoch, number, facts)
        if written is None:
            return False
        if written < number:
            self._lose_trust(written)
        self._beats = written
        # with no room on the disk, what is not noted is only found out later, if it must be
        with contextlib.suppress(OSError):
            _beats_file(self.id).write_text(str(written))
        return True

    def _still_trusted(self) -> bool:
        """Whether the database is as young as the last heartbeat.  Who takes away what no row
        names asks between the reading of the rows and the taking away: a database that was
        restored before or while the rows were read is found out, however late the next heartbeat.
        What `let_go` takes away is asked for before: a restore in that moment is not noticed.
        """
        known = self._beats
        found = _beats(self.id)
        if found < known:
            self._lose_trust(found)
        return bool(self.manager.trusted)

    def _lose_trust(self, found: int) -> None:
        if found >= self._beats:
            return  # another thread found it out
        self.manager.trusted = False
        _distrust(self.id, f"{found} heartbeats of {self.id}", str(self._beats))
        self._beats = found  # once the operator trusts it, this is what it knew

    def _fenced(self) -> None:
        """A worker found it out; it must go on to its end, so another thread ends the life."""
        concurrency.start("fence", self.fence)

    def fence(self) -> None:
        """The host was fenced, or another process has its row: the life is over.

        A step that was under way, or stopped, when that happened may have done what is not this
        host's any more: it is undone as far as that is possible from here.  The next start does
        the same, and is what counts.
        """
        with self._ending:
            if self.fenced.is_set():
                return
            LOG.critical("%s was replaced by another process, or its host fenced: ending", self.id)
            # whoever has its place has its queue too: no nudge there is for this process
            until = time.monotonic() + CONF.stop_s
            deaf = concurrency.start("deaf", self._leave_queue)
            try:
                self.manager.work.stop(CONF.stop_s)
                deaf.join(max(0.0, until - time.monotonic()))
                mine = _owner(self.id, self.manager.me.epoch)
                if mine is not None and self._still_trusted():
                    others = mine != machine_id()
                    self.manager.let_go(self.host, everything=others)
            except errors.Error as error:
                LOG.warning("%s: left to the next start: %s", self.id, error)
            except Exception:
                LOG.exception("%s: what is no longer its own is left to the next start", self.id)
            self.fenced.set()
            self._over.set()

    def _sweep_for_ever(self) -> None:
        while not self._over.is_set():
            self.sweep()
            self._over.wait(work.CONF.sweep_s * random.uniform(0.8, 1.0))

    def sweep(self) -> None:
        """One look for work whose nudge was lost and at the host; it raises nothing."""
        try:
            work.sweep(self.manager)
            self.manager.sweep()
            if self.manager.host_booted:
                # only now: whoever died before this brings the guests back at its next start
                _booted(self.id, self.manager.me.epoch, boot_id())
                self.manager.host_booted = False
        except errors.Fenced:
            self.fence()
        except errors.Error as error:
            LOG.warning("%s: sweep cut short: %s", self.id, error)
        except Exception:
            LOG.exception("%s: sweep failed", self.id)

    def status(self) -> str:
        """What it does, for who looks at the service."""
        if not self.ready.is_set():
            return "waits for the broker" if self.begun.is_set() else self._waits
        running, waiting = self.manager.work.counts()
        words = f"works on {running}, {waiting} wait for a worker" if running else "idle"
        return words if self.manager.trusted else f"{words}; distrusts the database: see the log"

    def hear(self) -> None:
        """Ask itself something by the broker; Unavailable when no answer comes."""
        ping = self.manager.protocol.ping
        rpc.ask_host(ping, context.Context(context.new_request_id()), self.host)

    def listen(self) -> None:
        """Be reachable for nudges; a broker that is away is waited for."""
        while not self._deaf.is_set():
            try:
                self._server = rpc.serve(self.manager, self.manager.protocol, self.host)
                if self._deaf.is_set():  # who set it did not see the server
                    self._leave_queue()
                    return
                LOG.info("%s listens for nudges", self.id)
                self.ready.set()
                return
            except Exception as error:
                LOG.warning("%s: no broker yet: %s", self.id, error)
                self._deaf.wait(2.0)


@transaction
def _register(tx: Tx, life: Life) -> tuple[models.Host, bool]:
    return life.register(tx)


@transaction
def _come_back(tx: Tx, id: str, epoch: int) -> bool:
    return hosts.come_back(tx, id, epoch)


@reading
def _owner(tx: Tx, id: str, epoch: int) -> str | None:
    return hosts.owner(tx, id, epoch)


@transaction
def _booted(tx: Tx, id: str, epoch: int, boot_id: str) -> None:
    hosts.store_boot_id(tx, id, epoch, boot_id)


@transaction
def _beat(tx: Tx, id: str, epoch: int, number: int, facts: dict[str, Any]) -> int | None:
    return hosts.beat(tx, id, epoch, number, **facts)


@reading
def _beats(tx: Tx, id: str) -> int:
    return hosts.beats(tx, id)


@transaction
def _leave(tx: Tx, id: str, epoch: int) -> None:
    hosts.leave(tx, id, epoch)


@reading
def _lives(tx: Tx, id: str, epoch: int) -> bool:
    return hosts.lives(tx, id, epoch)


def _trusted(row: models.Host) -> bool:
    """False when the database is older than what this host has seen of the daemon's row: then
    nothing is cleaned away, because rows may be missing that are only in the newer one.

    That stays so, however often the daemon starts, until the operator says `audit --fix --trust`.
    Fenced when it is this process that is old: another one was quicker.
    """
    id = row.id
    file, mark = _epoch_files(id)
    file.parent.mkdir(parents=True, exist_ok=True)
    if not _cloud_file().exists():
        _remember(_cloud_file(), clouds.identity())
    epoch, beats = _number(file), _number(_beats_file(id)) or 0
    aged = epoch is None or row.epoch <= epoch
    if (aged or row.beats < beats) and not _lives(id, row.epoch):
        raise errors.Fenced(daemon=id, epoch=row.epoch)
    if epoch is None:
        _distrust(id, f"epoch {row.epoch} of {id}", f"nobody knows which: {file} is damaged")
    elif aged:
        _distrust(id, f"epoch {row.epoch} of {id}", str(epoch))
    elif row.beats < beats:
        _distrust(id, f"{row.beats} heartbeats of {id}", str(beats))
    elif mark.exists():
        _distrust(id, "less than this host", "more, at an earlier start")
    if mark.exists():
        return False
    _remember(file, str(row.epoch))
    return True


def trust(me: states.Daemon) -> None:
    """The database is the right one for this host, whatever it has seen of another."""
    file, mark = _epoch_files(me.id)
    _remember(file, str(me.epoch))
    _beats_file(me.id).unlink(missing_ok=True)
    mark.unlink(missing_ok=True)


def _require_own_cloud(found: str) -> None:
    file = _cloud_file()
    known = _first_line(str(file)) if file.exists() else found
    if known != found:
        raise errors.AnotherCloud(found=found, known=known, file=str(file))


def _cloud_file() -> pathlib.Path:
    """Where the id of the cloud is kept that this host belongs to."""
    return pathlib.Path(cfg.CONF.state_path, "run", "cloud")


def _distrust(id: str, knew: str, seen: str) -> None:
    _, mark = _epoch_files(id)
    mark.touch()
    LOG.error(
        "the database was restored or is another one (it knew %s, this host has seen %s): nothing"
        " is cleaned up until minicloud-manage audit --fix --trust, or until %s is removed and the"
        " daemon started again",
        knew,
        seen,
        mark,
    )


def _number(file: pathlib.Path) -> int | None:
    """What the file says, 0 on this host's first day; None when it says no such thing."""
    try:
        return int(file.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:
        return None


def _epoch_files(id: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Where the epoch this host has seen is kept, and the mark that forbids cleaning up."""
    directory = pathlib.Path(cfg.CONF.state_path, "run")
    return directory / f"{id}.epoch", directory / f"{id}.distrusted"


def _beats_file(id: str) -> pathlib.Path:
    """Where the heartbeats this host has seen written are counted; of no weight when damaged,
    because it is not forced to the disk: there would be no end of that."""
    return pathlib.Path(cfg.CONF.state_path, "run", f"{id}.beats")


def _remember(file: pathlib.Path, text: str) -> None:
    """The file says so, also after a power cut; it never holds a part of it."""
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        with part.open("w") as written:
            written.write(text)
            written.flush()
            os.fsync(written.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def boot_id() -> str:
    """Another one after each boot of the machine; "" where the kernel does not say."""
    return _first_line(BOOT_ID)


def machine_id() -> str:
    """What tells this machine from all others; Conflict when the file does not say it: two
    machines that say nothing, or what every new image of a system says, would pass for one."""
    found = _first_line(CONF.machine_id_file)
    if found in ("", UNINITIALIZED):
        raise errors.Conflict(
            reason=f"[daemon] machine_id_file: {CONF.machine_id_file} does not say which machine"
            " this is; run systemd-machine-id-setup, or name another file with a line of its own"
        )
    return found


def _first_line(path: str) -> str:
    """Empty when there is no such file."""
    try:
        return pathlib.Path(path).read_text().split("\n")[0].strip()
    except FileNotFoundError:
        return ""


# --- the process --------------------------------------------------------------------------------


def hold_lock(name: str, path: str | None = None) -> Any:
    """Be the only process of this name on this host, for life; SystemExit(1) when another is, or
    when the lock cannot be held.

    A stopped process still holds the lock: its death is the fence.  `path` is the directory of
    locks, that of the configuration unless given.
    """
    directory = pathlib.Path(path or cfg.CONF.lock_path)
    lock = directory / f"{name}.lock"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(
            f"error: another {name} of this cloud runs here (it holds {lock})"
        ) from None
    except OSError as error:
        raise SystemExit(f"error: {name} cannot hold its lock: {error}") from None
    return file


def asked_to_stop() -> Callable[[], bool]:
    """A function that is true once SIGTERM or SIGINT came.

    The handler runs wherever the process is, also inside eventlet's hub, so it takes no lock and
    switches to nobody: it only leaves a mark.
    """
    marks: list[int] = []

    def handler(number: int, frame: Any) -> None:
        marks.append(number)

    signal.signal(signal.SIGTERM, handler)
    signal.signal(signal.SIGINT, handler)
    return lambda: bool(marks)


def run(manager: Any, serve: Callable[[], Callable[[], None]] | None = None) -> None:
    """The whole life of a daemon's process; returns after a clean stop.

    `serve` opens what the daemon also answers on and returns what closes it.
    """
    config.check()
    try:
        machine_id()
    except errors.Conflict as error:
        raise SystemExit(f"error: {error}") from None
    stop = asked_to_stop()
    lock = hold_lock(f"{cfg.CONF.host}-{manager.protocol.topic}")
    life = Life(manager, cfg.CONF.host, cfg.CONF.zone)
    told = Supervised(life.hear)
    started = time.monotonic()
    concurrency.start("begin", life.begin)
    close: Callable[[], None] | None = None
    ready = False
    while not stop() and not life.wait(LOOK_S):
        if serve is not None and close is None and life.begun.is_set():
            close = serve()
        if not ready and life.ready.is_set() and (serve is None or close is not None):
            LOG.info("ready after %.1f s", time.monotonic() - started)
            told.ready()
            ready = True
        told.go_on(life.status)
    if life.fenced.is_set() or life.failed.is_set():
        logging.shutdown()
        os._exit(EXIT_FENCED if life.fenced.is_set() else 1)
    told.stopping()
    LOG.info("stopping")
    if close is not None:
        close()
    life.end()
    lock.close()


def run_front(name: str, serve: Callable[[], Callable[[], None]]) -> None:
    """The life of a daemon that only answers HTTP: no rows wait for it, nobody nudges it."""
    config.check()
    stop = asked_to_stop()
    lock = hold_lock(f"{cfg.CONF.host}-{name}")
    told = Supervised()
    close = serve()
    LOG.info("ready")
    told.ready()
    while not stop():
        told.go_on(lambda: "answers")
        concurrency.sleep(LOOK_S)
    told.stopping()
    LOG.info("stopping")
    close()
    lock.close()
