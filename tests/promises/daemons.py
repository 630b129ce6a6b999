"""Processes: forked from the nursery, seen and told by signals."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any, TypeVar

from tests.integration.running import TOP

T = TypeVar("T")

STARTED, LISTENS = "--- a new process", " listens for nudges"  # in a daemon's log

LIMIT_S = 60.0  # for anything that takes moments on a machine that is not busy


class Late(AssertionError):
    """Something did not become true within a generous time."""


def wait(condition: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
    """The first true value of `condition`."""
    until, pause = time.monotonic() + limit_s, 0.01
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise Late(f"not true within {limit_s:.0f} s: {what}")
        time.sleep(pause)
        pause = min(0.1, pause * 1.3)


class Nursery:
    """The process that forks daemons; they die with it.

    `top` is the checkout whose daemons they are, `module` what is run there.
    """

    def __init__(self, module: str = "tests.promises.nursery", top: pathlib.Path = TOP) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=top,
            env=os.environ | {"PYTHONPATH": f"{top}", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self._lock = threading.Lock()
        assert self._answer() == "ready"

    def fork(self, order: Mapping[str, Any]) -> int:
        """The pid of a new daemon."""
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return int(self._answer())

    def close(self) -> None:
        """Every daemon is dead."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> str:
        pipe: IO[str] | None = self._process.stdout
        assert pipe is not None
        return pipe.readline().strip()


class Daemon:
    """One process of a cloud, held by a descriptor: its number may soon be another's.

    `name` is also that of its files in the witness directory.
    """

    def __init__(self, name: str, pid: int, log: pathlib.Path) -> None:
        self.name = name
        self.pid = pid
        self.log = log
        try:
            self._held: int | None = os.pidfd_open(pid)
            weakref.finalize(self, os.close, self._held)
        except ProcessLookupError:
            self._held = None

    def gone(self) -> bool:
        """It has ended, with all its threads: its lock and its ports are free."""
        return self._held is None or bool(select.select([self._held], [], [], 0)[0])

    def stopped(self) -> bool:
        """SIGSTOP has come to it."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = pathlib.Path(f"/proc/{self.pid}/stat").read_text()
            return not self.gone() and text.rpartition(")")[2].split()[0] == "T"
        return False

    def hears(self) -> bool:
        """It listens for nudges; its log may begin when it did already."""
        said = self.log.read_text(errors="replace")
        return not self.gone() and said.rfind(LISTENS) >= said.rfind(STARTED)

    def signal(self, number: int) -> None:
        """Nothing happens to one that is gone."""
        if self._held is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._held, number)
