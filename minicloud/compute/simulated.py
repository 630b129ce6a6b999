"""A hypervisor that only pretends: the same contract, any number of hosts, settable times.

Domains and the packet filter are small files, so that they outlive a killed daemon as real ones
do; a domain's also counts how often it was started.  It remembers who did what when (`history`)
and whether two workers were ever on one domain (`overlaps`): without that the rules on keys and
generations would have no witness.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from oslo_config import cfg
from typing_extensions import override

from minicloud import concurrency, config, daemon, errors, parts
from minicloud.checkpoint import checkpoint
from minicloud.compute import driver
from minicloud.compute.driver import (
    Check,
    Domain,
    Firewall,
    Guest,
    Inventory,
    NetworkDisk,
    Resources,
)

CONF = config.declare(
    "simulated",
    [
        cfg.FloatOpt("start_s", default=0.0, min=0, help="Seconds a simulated start takes."),
        cfg.FloatOpt("stop_s", default=0.0, min=0, help="Seconds a simulated stop takes."),
        cfg.ListOpt(
            "failing",
            default=[],
            help="Methods of the simulated hypervisor that fail, for tests: `spawn`, or"
            " `spawn:Final` for a failure that is not tried again.",
        ),
        cfg.IntOpt("vcpus", default=16, min=1, help="CPUs of a simulated host."),
        cfg.IntOpt("memory_mib", default=65536, min=1, help="MiB of a simulated host."),
        cfg.IntOpt("disk_gib", default=1000, min=1, help="GiB of a simulated host."),
    ],
)

KEPT = 10000  # entries of the history
FILTER = "firewall"
KEPT_AS = ".json"  # what a domain's file ends in
TAP = ".tap"  # a network card that was left behind: only by hand


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing that was done to a domain."""

    at: float
    what: str
    id: str
    generation: int


class Simulated(driver.Hypervisor):
    """`path` is the directory of this host's domains."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.history: collections.deque[Entry] = collections.deque(maxlen=KEPT)
        self.overlaps: list[str] = []
        self._inside: set[str] = set()
        self._writing: set[str] = set()
        self._lock = threading.Lock()

    @override
    def connect(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        parts.clear(self.path)
        self._notice_boot()

    @override
    def ping(self) -> None:
        self._fail("ping")

    @override
    def resources(self) -> Resources:
        return Resources(CONF.vcpus, CONF.memory_mib, CONF.disk_gib, "simulated")

    @override
    def spawn(self, guest: Guest, check: Check) -> None:
        with self._on("spawn", guest):
            checkpoint("spawn.image_cached")
            check()
            checkpoint("spawn.disk_made")
            self._define(guest)
            checkpoint("spawn.domain_defined")
            self._run(guest, CONF.start_s, check)
            checkpoint("spawn.domain_started")

    @override
    def define(self, guest: Guest, check: Check) -> None:
        with self._on("define", guest):
            self._define(guest)

    @override
    def start(self, guest: Guest, check: Check) -> None:
        with self._on("start", guest):
            self._run(guest, CONF.start_s, check)

    @override
    def stop(self, guest: Guest, check: Check) -> None:
        with self._on("stop", guest):
            self._take(CONF.stop_s, check)
            known = self._read(guest.id)
            if known is not None:
                self._write(dataclasses.replace(known, state="stopped"))

    @override
    def reboot(self, guest: Guest, check: Check) -> None:
        with self._on("reboot", guest):
            known = self._read(guest.id)
            if known and known.state == "running" and known.generation == guest.generation:
                return
            self._take(CONF.start_s, check)
            self._started(guest)

    @override
    def destroy(self, id: str, *, keep_disk: bool = False) -> None:
        with self._held(id):
            self._fail("destroy")
            self._file(id).unlink(missing_ok=True)
            checkpoint("destroy.domain_gone")
            checkpoint("destroy.files_gone")
            self._remember("destroy", id, 0)

    @override
    def attach(self, id: str, disk: NetworkDisk) -> None:
        with self._held(id):
            self._fail("attach")
            known = self._read(id)
            if known is None or known.state != "running":
                return
            if disk.letter not in known.volumes:
                letters = (*known.volumes, disk.letter)
                self._write(dataclasses.replace(known, volumes=letters))
                self._remember("attached", disk.export_id, known.generation)
            checkpoint("attach.attached")

    @override
    def detach(self, id: str, letter: str, export_id: str, check: Check) -> None:
        with self._held(id):
            self._fail("detach")
            known = self._read(id)
            if known is not None and letter in known.volumes:
                letters = tuple(one for one in known.volumes if one != letter)
                self._write(dataclasses.replace(known, volumes=letters))
                self._remember("detached", export_id, known.generation)
            checkpoint("detach.detached")

    @override
    def domains(self) -> dict[str, Domain]:
        found = {}
        for file in self.path.glob(f"*{KEPT_AS}"):
            known = self._read(file.stem)
            if known is not None:
                found[known.id] = known
        return found

    @override
    def inventory(self) -> Inventory:
        names = os.listdir(self.path)
        taps = (name.removesuffix(TAP) for name in names if name.endswith(TAP))
        files = frozenset(name.removesuffix(KEPT_AS) for name in names if name.endswith(KEPT_AS))
        return Inventory(
            self.domains(), files, disks=files, taps=frozenset(taps), parts=self._left(names)
        )

    @override
    def console(self, id: str, max_bytes: int) -> bytes:
        known = self._read(id)
        text = f"simulated domain {id}: start {known.generation}\n" if known else ""
        return text.encode()[-max_bytes:]

    @override
    def protect(self, firewall: Firewall, complete: bool) -> None:
        self._fail("protect")
        wanted = _picture(firewall)
        if self._filter() != wanted:
            self._store(self.path / FILTER, wanted)

    @override
    def differences(self, firewall: Firewall) -> tuple[str, ...]:
        known, wanted = self._filter(), _picture(firewall)
        return tuple(f"other {words}" for words in wanted if known.get(words) != wanted[words])

    @override
    def tidy(self, images: Collection[str], taps: Sequence[str]) -> None:
        for name in (*(f"{tap}{TAP}" for tap in taps), *self._left(os.listdir(self.path))):
            (self.path / name).unlink(missing_ok=True)

    # --- what the simulation is made of -------------------------------------------------------

    def halt(self, id: str) -> None:
        """The guest switches itself off (tests and lessons)."""
        known = self._read(id)
        if known is not None:
            self._write(dataclasses.replace(known, state="stopped"))

    def _filter(self) -> dict[str, Any]:
        """What `protect` last wrote; {} when nothing is there, or it is damaged."""
        return _read_object(self.path / FILTER)

    def _notice_boot(self) -> None:
        """Guests are off once their host has booted, as real ones are."""
        file, now = self.path / "boot-id", daemon.boot_id()
        if file.exists() and file.read_text() != now:
            for id in self.domains():
                self.halt(id)
        self._put(file, now)

    def _left(self, names: Sequence[str]) -> dict[str, float]:
        """Temporary files of the processes before this one."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if name.endswith(parts.PART) and name not in self._writing:
                    found[name] = (self.path / name).stat().st_mtime
        return found

    def _define(self, guest: Guest) -> None:
        if self._read(guest.id) is None:
            self._require_disk(guest)
            self._write(Domain(guest.id, "stopped", 0))

    def _require_disk(self, guest: Guest) -> None:
        """A simulated guest's disk is its domain's file."""
        if guest.has_disk and not self._file(guest.id).exists():
            raise errors.DiskGone

    def _run(self, guest: Guest, seconds: float, check: Check) -> None:
        known = self._read(guest.id)
        if known is not None and known.state == "running":
            return
        self._take(seconds, check)
        self._started(guest)

    def _started(self, guest: Guest) -> None:
        self._require_disk(guest)
        letters = tuple(disk.letter for disk in guest.volumes)
        starts = self._starts(guest.id) + 1
        self._write(Domain(guest.id, "running", guest.generation, letters), starts)
        self._remember("started", guest.id, guest.generation)
        for disk in guest.volumes:
            self._remember("entered", disk.export_id, guest.generation)

    def _take(self, seconds: float, check: Check) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            concurrency.sleep(min(left, 0.2))
            check()

    def _fail(self, method: str) -> None:
        if f"{method}:Final" in CONF.failing:
            raise errors.Final(reason=f"simulated failure of {method}")
        if method in CONF.failing:
            raise RuntimeError(f"simulated failure of {method}")

    @contextlib.contextmanager
    def _on(self, method: str, guest: Guest) -> Iterator[None]:
        with self._held(guest.id):
            self._remember(method, guest.id, guest.generation)
            self._fail(method)
            yield

    @contextlib.contextmanager
    def _held(self, id: str) -> Iterator[None]:
        with self._lock:
            if id in self._inside:
                self.overlaps.append(id)
            self._inside.add(id)
        try:
            yield
        finally:
            with self._lock:
                self._inside.discard(id)

    def _remember(self, what: str, id: str, generation: int) -> None:
        self.history.append(Entry(time.monotonic(), what, id, generation))

    def _file(self, id: str) -> pathlib.Path:
        return self.path / f"{id}{KEPT_AS}"

    def _read(self, id: str) -> Domain | None:
        """None for one whose file is damaged too: libvirt leaves such a domain out when it
        starts."""
        known = _read_object(self._file(id))
        if not known.keys() >= {"id", "state", "generation", "volumes"}:
            return None
        letters = tuple(known["volumes"])
        return Domain(known["id"], known["state"], known["generation"], letters)

    def _starts(self, id: str) -> int:
        """How often the domain was started."""
        return int(_read_object(self._file(id)).get("starts", 0))

    def _write(self, domain: Domain, starts: int | None = None) -> None:
        if starts is None:
            starts = self._starts(domain.id)
        self._store(self._file(domain.id), dataclasses.asdict(domain) | {"starts": starts})

    def _store(self, file: pathlib.Path, value: object) -> None:
        self._put(file, json.dumps(value))

    def _put(self, file: pathlib.Path, text: str) -> None:
        part = parts.fresh(self.path, file)
        self._writing.add(part.name)
        try:
            parts.write(part, file, text)
        finally:
            self._writing.discard(part.name)


def _read_object(file: pathlib.Path) -> dict[str, Any]:
    """The JSON object in the file; {} when the file is not there, or is none."""
    try:
        known = json.loads(file.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _picture(firewall: Firewall) -> dict[str, Any]:
    """The filter as it is on the disk, whatever the order it is told in."""
    return {
        "ports": {
            one.port.tap: [one.port.mac, one.port.address, *sorted(one.groups)]
            for one in firewall.ports
        },
        "rules": {
            id: sorted(json.dumps(dataclasses.astuple(rule)) for rule in rules)
            for id, rules in firewall.groups.items()
        },
        "members": {id: sorted(members) for id, members in firewall.members.items()},
    }
