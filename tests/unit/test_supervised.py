"""When the watchdog is fed, by a test that plays systemd."""

from __future__ import annotations

import os
import pathlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from minicloud import errors, rpc, supervised

LIMIT_S = 1 / 16  # exact in binary, as its half is
PATIENCE_S = 60.0


class Systemd:
    """Hears what a service says."""

    def __init__(self, path: pathlib.Path) -> None:
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._heard.bind(str(path))
        self._heard.setblocking(False)

    def messages(self) -> list[list[str]]:
        """The lines of each message since the last look."""
        found = []
        while True:
            try:
                found.append(self._heard.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._heard.close()


@pytest.fixture
def systemd(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    path = tmp_path / "notify"
    heard = Systemd(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", f"{LIMIT_S * 1e6:.0f}")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    yield heard
    heard.close()


class World:
    """A clock that stands still until it is moved, a broker, and a service that is told by it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.broker = True
        self.hears = True
        self.heard = self.now
        self.asked = {"broker": 0, "itself": 0}
        self.service: Any = None

    def clock(self) -> float:
        return self.now

    def hear(self) -> None:
        self.asked["itself"] += 1
        if not (self.hears and self.broker):
            raise errors.Unavailable(reason="no answer")
        self.heard = self.now

    def look(self) -> str:
        self.asked["broker"] += 1
        if not self.broker:
            raise errors.Unavailable(reason="nobody listens")
        return "there"

    def go_on(self) -> None:
        """Half a limit of the watchdog passes, in which it asked itself, and the broker if it has
        heard nothing for longer than that."""
        before = dict(self.asked)
        asked = ["itself"]
        if not self.broker and self.now - self.heard > LIMIT_S / 2:
            asked.append("broker")
        end = time.monotonic() + PATIENCE_S
        while any(self.asked[one] < before[one] + 2 for one in asked):
            assert time.monotonic() < end, "nobody was asked"
            time.sleep(0.01)
        self.now += LIMIT_S / 2
        self.service.go_on(lambda: "idle")


@pytest.fixture
def world(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    monkeypatch.setattr(supervised, "monotonic", made.clock)
    monkeypatch.setattr(rpc, "broker", made.look)
    made.service = supervised.Supervised(made.hear)  # by that clock
    yield made
    made.service.stopping()


def test_who_waits_says_so_and_asks_for_time(systemd: Systemd, world: World) -> None:
    world.service.go_on(lambda: "waits: no database")
    assert systemd.messages() == [["STATUS=waits: no database", "EXTEND_TIMEOUT_USEC=62500"]]
    world.service.go_on(lambda: "waits: no broker")  # at once: it has said enough
    assert systemd.messages() == []
    world.now += 2.0
    world.service.go_on(lambda: "waits: no broker")
    assert systemd.messages() == [["STATUS=waits: no broker", "EXTEND_TIMEOUT_USEC=62500"]]


def test_who_is_ready_and_hears_itself_feeds_the_watchdog(systemd: Systemd, world: World) -> None:
    world.service.ready()
    assert systemd.messages() == [["READY=1"]]
    for _ in range(8):  # twice as long as one may be deaf
        world.go_on()
        assert systemd.messages() == [["STATUS=idle", "WATCHDOG=1"]]
    assert world.asked["broker"] == 0, "who hears itself needs nobody else"


def test_who_does_not_hear_itself_feeds_it_no_more(systemd: Systemd, world: World) -> None:
    world.service.ready()
    world.go_on()
    world.hears = False
    world.go_on()
    systemd.messages()
    for _ in range(2):
        world.go_on()
        assert "WATCHDOG=1" in systemd.messages()[-1], "it may have been a moment"
    for _ in range(3):
        world.go_on()
    [said] = systemd.messages()[-1]
    assert said.startswith("STATUS=idle; does not hear itself by the broker for ")


def test_a_broker_that_is_away_is_no_reason_to_be_ended(systemd: Systemd, world: World) -> None:
    world.service.ready()
    world.broker = False
    for _ in range(3):  # until that is known
        world.go_on()
        assert "WATCHDOG=1" in systemd.messages()[-1]
    for _ in range(8):
        world.go_on()
        [said] = systemd.messages()
        assert said[0].startswith("STATUS=idle; no broker, so work is found by sweeps only")
        assert said[1:] == ["WATCHDOG=1"]
    world.broker, world.hears = True, False  # now there is something to be heard
    for _ in range(8):
        world.go_on()
    assert "WATCHDOG=1" not in systemd.messages()[-1]


def test_who_listens_to_no_broker_is_watched_all_the_same(systemd: Systemd, world: World) -> None:
    front = supervised.Supervised()
    front.ready()
    world.now += 1000
    front.go_on(lambda: "answers")
    assert systemd.messages() == [["READY=1"], ["STATUS=answers", "WATCHDOG=1"]]


def test_a_watchdog_of_another_process_is_not_fed(
    systemd: Systemd, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_PID", "1")
    service = supervised.Supervised(world.hear)
    service.go_on(lambda: "begins")
    service.ready()
    service.go_on(lambda: "idle")
    service.stopping()
    begins, ready, idle, stopping = systemd.messages()
    assert (begins, ready, idle) == (["STATUS=begins"], ["READY=1"], ["STATUS=idle"])
    assert stopping[0] == "STOPPING=1"
    assert world.asked == {"broker": 0, "itself": 0}


def test_a_watchdog_that_cannot_be_read_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    for word, limit_s in (("x", None), ("0", None), ("", None), ("3000000", 3.0)):
        monkeypatch.setenv("WATCHDOG_USEC", word)
        assert supervised.watchdog_s() == limit_s
