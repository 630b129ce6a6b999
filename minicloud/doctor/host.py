"""This host as the checks see it: its tools, its files, and what of the cloud belongs here.

Everything a check asks of the machine goes through here, so that a test can answer for it.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import shlex
import shutil
from collections.abc import Sequence

from oslo_config import cfg

from minicloud import errors, processes, shell

EMBEDDED = "minicloud-all"  # the process that is all daemons
_DAEMONS = (*(process.name for process in processes.DAEMONS), EMBEDDED)
_DEBIANS = ("mariadb", "rabbitmq-server")  # units that are not in etc/systemd

LIMIT_S = 10.0  # of one tool
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
LAUNCHER = "tools/minicloud.sh"
LAUNCHERS_STATE = "/var/lib/minicloud"  # unless MINICLOUD_STATE says another


@dataclasses.dataclass(frozen=True)
class FileSystem:
    """Bytes and inodes, free and in all; `inodes` is 0 where they are not
    counted."""

    device: int
    bytes_free: int
    bytes: int
    inodes_free: int
    inodes: int
    read_only: bool


class Host:
    """The machine doctor runs on."""

    # --- its tools and files ----------------------------------------------------------------

    def has(self, program: str) -> bool:
        return shutil.which(program, path=PATH) is not None

    def run(self, *argv: str, input: str | None = None) -> str:
        """What the tool prints; CommandFailed, also when it is not installed."""
        if not self.has(argv[0]):
            raise errors.CommandFailed(
                command=shlex.join(argv), status=127, stderr="it is not installed"
            )
        return shell.run(argv, input=input, timeout_s=LIMIT_S, environment={"PATH": PATH})

    def exit_status(self, argv: Sequence[str], limit_s: float) -> int | None:
        """The tool's exit status; None when it did not end in time."""
        try:
            shell.run(argv, timeout_s=limit_s, environment={"PATH": PATH})
        except errors.CommandFailed as error:
            number = error.facts["status"]
            return number if isinstance(number, int) else None
        return 0

    def read(self, path: str) -> str:
        return pathlib.Path(path).read_text(errors="replace")

    def names(self, path: str) -> list[str]:
        """What is in the directory; nothing when there is none."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def may(self, path: str) -> bool | None:
        """Whether we may read and write the file; None when it is not there."""
        return os.access(path, os.R_OK | os.W_OK) if os.path.exists(path) else None

    def inode(self, path: str) -> int:
        return os.stat(path).st_ino

    def file_system(self, path: str) -> FileSystem:
        """The file system that `path` is on, or will be."""
        place = pathlib.Path(path)
        while not place.exists() and place != place.parent:
            place = place.parent
        found = os.statvfs(place)
        return FileSystem(
            os.stat(place).st_dev,
            found.f_bavail * found.f_frsize,
            found.f_blocks * found.f_frsize,
            found.f_favail,
            found.f_files,
            bool(found.f_flag & os.ST_RDONLY),
        )

    # --- what of the cloud belongs here -----------------------------------------------------

    @property
    def embedded(self) -> bool:
        """All daemons are one process, `minicloud-all`."""
        return str(cfg.CONF.rpc.transport_url).startswith("local:")

    def daemons(self) -> dict[str, str]:
        """The daemons that ever ran here, each with the file it holds locked while it lives."""
        directory = cfg.CONF.lock_path
        files = {name: name if self.embedded else f"{cfg.CONF.host}-{name}" for name in _DAEMONS}
        there = self.names(directory)
        return {
            name: f"{directory}/{file}.lock"
            for name, file in files.items()
            if f"{file}.lock" in there
        }

    def serves(self, daemon: str) -> bool:
        """Whether that daemon, with real drivers, belongs on this host: it ran here before, or
        none ever did."""
        if self.embedded or self._simulated(daemon):
            return False
        known = self.daemons()
        return not known or daemon in known

    def real(self) -> bool:
        """Whether guests, networks or volumes here are real."""
        return any(self.serves(daemon) for daemon in ("compute", "network", "volume"))

    @staticmethod
    def _simulated(daemon: str) -> bool:
        group = "network" if daemon == "network" else "compute"
        return bool(cfg.CONF[group].connection_type == "simulated")

    # --- commands that mend -----------------------------------------------------------------

    def starting_on(self, host: str, name: str, verb: str = "start") -> str:
        """The command that starts, or restarts, a daemon of that host."""
        if self.embedded or host == cfg.CONF.host:
            return self.starting(name, verb)
        if host in self.names(f"{self._state()}/hosts"):  # a pretend one, of a lab on this machine
            verbs = ("kill", "start") if verb == "restart" else (verb,)
            return " && ".join(self._launcher(f"lab {one} {host} {name}") for one in verbs)
        return f"on {host}: {self.starting(name, verb)}"

    def starting(self, name: str, verb: str = "start") -> str:
        """The command that starts, or restarts, one of the cloud's processes on this host."""
        if self.embedded:
            return f"minicloud-all --state {shlex.quote(cfg.CONF.state_path)}"
        if self.launched():
            return self._launcher(f"{verb} {name}")
        unit = name if name in _DEBIANS else f"minicloud-{name}"
        return f"systemctl {verb} {unit}"

    def managing(self, command: str) -> str:
        """The operator's command for this cloud."""
        if self.launched() and not self.embedded:
            return self._launcher(f"manage {command}")
        files = cfg.CONF.config_file or ()
        named = f" --config-file {shlex.quote(files[0])}" if files else ""
        return f"minicloud-manage{named} {command}"

    def _launcher(self, command: str) -> str:
        state = str(self._state())
        where = "" if state == LAUNCHERS_STATE else f"MINICLOUD_STATE={shlex.quote(state)} "
        return f"{where}{LAUNCHER} {command}"

    def launched(self) -> bool:
        """Whether tools/minicloud.sh made this cloud: its notes are beside the configuration."""
        return "variables.json" in self.names(str(self._state()))

    @staticmethod
    def _state() -> pathlib.Path:
        files = cfg.CONF.config_file or ("/",)
        return pathlib.Path(files[0]).absolute().parent


def version(text: str) -> tuple[int, ...]:
    """The first number with a dot in it: `QEMU emulator version 7.2.22` is (7, 2, 22)."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(int(word) for word in found[0].split(".")) if found else ()
