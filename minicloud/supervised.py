"""What systemd hears of a daemon (sd_notify(3)), and what it has to do to be called alive.

The watchdog is fed by the thread that also looks for signals, so a hub that stands still feeds
nothing.  It is not fed either when the broker answers everybody but this daemon: one that cannot
hear itself through it (`interfaces.Daemon.ping`) is of no use and better begun anew.  A broker
that answers nobody is no reason to be ended: see docs/decisions/021-what-feeds-the-watchdog.md.
Without a NOTIFY_SOCKET nothing is said, without a WATCHDOG_USEC nobody is asked.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable
from time import monotonic

from minicloud import concurrency, errors, rpc

LOG = logging.getLogger(__name__)

STARTING_S = 2.0  # between two words of one that is not ready: what it waits for
DEAF = 2.0  # limits of the watchdog that a daemon may go without hearing itself


def tell(*lines: str) -> None:
    """Say READY=1, STOPPING=1, STATUS=…; whether anybody listens makes no difference."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto("\n".join(lines).encode(), address)


def watchdog_s() -> float | None:
    """Seconds of silence after which this process is ended; None when nobody watches it."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None  # a parent's
    try:
        return int(os.environ["WATCHDOG_USEC"]) / 1e6 or None
    except (KeyError, ValueError):
        return None


class Supervised:
    """What one daemon says of itself; `hear` returns when it has heard itself by the broker and
    raises when it has not, None for one that listens to no broker."""

    def __init__(self, hear: Callable[[], object] | None = None) -> None:
        self._limit_s = watchdog_s()
        self._hear = hear
        self._heard = monotonic()  # or excused: the broker was away
        self._away = ""
        self._next = 0.0
        self._ready = False
        self._over = threading.Event()

    def ready(self) -> None:
        """It serves: from now on it is watched."""
        tell("READY=1")
        self._ready = True
        self._next = 0.0
        self._heard = monotonic()
        if self._limit_s and self._hear:
            concurrency.start("hear", self._for_ever, self._listen)
            concurrency.start("broker", self._for_ever, self._look)

    def go_on(self, status: Callable[[], str]) -> None:
        """To be called all the time; the service manager is told what it has to hear when it is
        time to."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + self._pause_s()
        tell(f"STATUS={self.said(status())}", *self._life())

    def stopping(self) -> None:
        """It is about to end: nobody watches it any more."""
        self._over.set()
        tell("STOPPING=1", "STATUS=stops: finishes what is under way")

    def said(self, status: str) -> str:
        """`status`, and what is wrong with the broker."""
        if self._away:
            return f"{status}; no broker, so work is found by sweeps only: {self._away}"
        if self._deaf_s() > (self._limit_s or 0) > 0:
            return f"{status}; does not hear itself by the broker for {self._deaf_s():.0f} s"
        return status

    def _pause_s(self) -> float:
        if not self._ready:
            return STARTING_S
        return (self._limit_s or 60.0) / 2

    def _asks_s(self) -> float:
        """Seconds between two questions to the broker."""
        return (self._limit_s or 60.0) / 2

    def _life(self) -> list[str]:
        if self._limit_s is None:
            return []
        if not self._ready:  # it may take its time, as long as it says so
            return [f"EXTEND_TIMEOUT_USEC={self._limit_s * 1e6:.0f}"]
        if self._deaf_s() > DEAF * self._limit_s:
            LOG.critical(
                "the broker answers, but nothing comes through it for %.0f s: this process is to"
                " be ended",
                self._deaf_s(),
            )
            return []
        return ["WATCHDOG=1"]

    def _deaf_s(self) -> float:
        return monotonic() - self._heard if self._ready and self._hear else 0.0

    def _for_ever(self, act: Callable[[], None]) -> None:
        act()
        while not self._over.wait(self._asks_s()):
            act()

    def _listen(self) -> None:
        try:
            assert self._hear is not None
            self._hear()
            self._heard, self._away = monotonic(), ""
        except Exception as error:  # of oslo.messaging too: it was not heard
            LOG.debug("not heard: %s", error)

    def _look(self) -> None:
        """Whether it is the broker's fault that nothing was heard of late."""
        if not self._away and monotonic() - self._heard <= self._asks_s():
            return
        try:
            rpc.broker()
            self._away = ""
        except errors.Unavailable as error:
            self._away = str(error)
            self._heard = monotonic()
