"""Many daemons' lives in one process: one heart and one broom for all of them, because a thousand
hosts with their own would keep a processor busy with telling that nothing happens."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from minicloud import concurrency, daemon, errors, work
from minicloud.daemon import Life
from minicloud.db import guests, hosts, models
from minicloud.db.session import Tx, reading, transaction

LOG = logging.getLogger(__name__)

STOP_S = 5.0  # for all that is under way when the process stops
BATCH = 200  # daemons registered in one transaction


class Lives:
    """All daemons of an embedded cloud, which begin and end together."""

    def __init__(self, lives: Sequence[Life]) -> None:
        self.lives = list(lives)
        self.over = threading.Event()  # one of them was fenced
        self._threads: list[threading.Thread] = []

    def begin(self) -> None:
        """All of them can be nudged, and have swept once soon after; raises what stands in the
        way."""
        for start in range(0, len(self.lives), BATCH):
            some = self.lives[start : start + BATCH]
            for life, (row, booted) in zip(some, _register(some), strict=True):
                life.take_up(row, booted)
                life.listen()
        self._beat()
        for name, run in (("heart", self._beat_for_ever), ("broom", self._sweep_for_ever)):
            self._threads.append(concurrency.start(name, run))

    def end(self) -> None:
        """All are stopped and say so; what is under way is left to the next start."""
        self.over.set()
        until = time.monotonic() + STOP_S
        for life in self.lives:
            life.rest(max(0.0, until - time.monotonic()))
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        with contextlib.suppress(errors.Error):
            _leave({life.id: life.manager.me.epoch for life in self.lives})

    def _beat_for_ever(self) -> None:
        while not self.over.wait(daemon.CONF.heartbeat_s):
            try:
                self._beat()
            except Exception:
                LOG.exception("no heartbeat")

    def _beat(self) -> None:
        beats = {life.id: (life.manager.me.epoch, life.manager.alive()) for life in self.lives}
        fenced = _beat_all(beats)
        for life in self.lives:
            if life.id in fenced:
                life.fence()
                self.over.set()

    def _sweep_for_ever(self) -> None:
        """The first round at once, all others spread over the time between two."""
        pause_s = 0.0
        while not self.over.is_set():
            began = time.monotonic()
            try:
                busy = _busy()
            except errors.Error as error:
                LOG.warning("sweep put off: %s", error)
                busy = set()
            for life in self.lives:
                if not _is_idle(life, busy):
                    life.sweep()
                    if self.over.wait(pause_s * random.uniform(0.6, 1.0)):
                        return
            round_s = work.CONF.sweep_s * random.uniform(0.8, 1.0)
            self.over.wait(max(0.0, began + round_s - time.monotonic()))
            pause_s = round_s / (len(self.lives) + 1)


def _is_idle(life: Life, busy: Collection[str]) -> bool:
    """A compute host of which no row, no domain and no packet filter speaks: its sweep would find
    nothing."""
    manager = life.manager
    return (
        life.topic == "compute"
        and life.host not in busy
        and not manager.host_booted
        and not manager.filters()
        and not manager.driver.inventory().guests
    )


@reading
def _busy(tx: Tx) -> set[str]:
    return guests.hosts(tx)


@transaction
def _register(tx: Tx, lives: Sequence[Life]) -> list[tuple[models.Host, bool]]:
    """The row of each, and whether the machine booted since it was here."""
    return [life.register(tx) for life in lives]


@transaction
def _beat_all(tx: Tx, beats: Mapping[str, tuple[int, Mapping[str, Any]]]) -> set[str]:
    return hosts.beat_all(tx, beats)


@transaction
def _leave(tx: Tx, epochs: Mapping[str, int]) -> None:
    hosts.leave_all(tx, epochs)
