"""A real daemon before a test that plays systemd: what it says, and when it says nothing."""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from launcher import services
from minicloud import processes
from tests.integration.running import TOP, RunningCloud, wait

LIMIT_S = 2.0  # of the watchdog
# SIGUSR1 stops the hub inside of Python, as a C library that blocks would: the thread that turns
# it waits for the next signal
PROGRAM = """
import signal, sys
from minicloud import main
signal.signal(signal.SIGUSR1, lambda *_: (print("stands", flush=True), signal.pause()))
signal.signal(signal.SIGUSR2, lambda *_: None)
getattr(main, sys.argv.pop(1))()
"""


class Service:
    """A daemon that was started as systemd starts one, and what it has said."""

    def __init__(self, cloud: RunningCloud, name: str, directory: pathlib.Path) -> None:
        self._heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = directory / "notify"
        self._heard.bind(str(path))
        self._heard.setblocking(False)
        path.chmod(0o666)
        own = services.rights(processes.named(name), real=False)
        self.process = subprocess.Popen(
            [
                *(*own, "sh", "-c", 'WATCHDOG_PID=$$ exec "$@"', "sh"),
                *(sys.executable, "-c", PROGRAM, name.replace("-", "_")),
                *("--config-file", str(cloud.state / "minicloud.conf")),
            ],
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ
            | {
                "PYTHONPATH": str(TOP),
                "PYTHONDONTWRITEBYTECODE": "1",
                "NOTIFY_SOCKET": str(path),
                "WATCHDOG_USEC": f"{LIMIT_S * 1e6:.0f}",
            },
        )

    def said(self) -> list[str]:
        """The lines since the last look."""
        lines: list[str] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                lines += self._heard.recv(4096).decode().split("\n")
        return lines

    def says(self, words: str) -> str:
        """The next line that contains these words."""

        def look() -> str:
            assert self.process.poll() is None, "it ended"
            return next((line for line in self.said() if words in line), "")

        return wait(look, what=f"it says {words}")

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        self._heard.close()


@pytest.fixture
def scheduler(cloud: RunningCloud) -> Iterator[Service]:
    """The cloud's scheduler, ready and watched."""
    directory = cloud.state / "notify"
    directory.mkdir(mode=0o755, exist_ok=True)
    cloud.stop("scheduler")
    service = Service(cloud, "scheduler", directory)
    try:
        service.says("READY=1")
        yield service
    finally:
        service.end()
        (directory / "notify").unlink()


def test_a_daemon_is_ready_feeds_the_watchdog_and_says_that_it_stops(scheduler: Service) -> None:
    until = time.monotonic() + 3 * LIMIT_S  # by then a deaf one feeds no more
    while time.monotonic() < until:
        scheduler.says("WATCHDOG=1")
    scheduler.says("STATUS=idle")
    scheduler.process.terminate()
    scheduler.says("STOPPING=1")
    assert scheduler.process.wait(60) == 0


def test_a_daemon_whose_hub_stands_still_feeds_nothing(scheduler: Service) -> None:
    scheduler.says("WATCHDOG=1")
    scheduler.process.send_signal(signal.SIGUSR1)
    assert scheduler.process.stdout is not None
    assert scheduler.process.stdout.readline() == b"stands\n"
    scheduler.said()
    time.sleep(2 * LIMIT_S)
    assert scheduler.said() == []
    scheduler.process.send_signal(signal.SIGUSR2)
    scheduler.says("WATCHDOG=1")


def test_a_daemon_outlives_its_broker(scheduler: Service, cloud: RunningCloud) -> None:
    cloud.stop("rabbitmq")
    scheduler.says("no broker")
    until = time.monotonic() + 3 * LIMIT_S
    while time.monotonic() < until:
        scheduler.says("WATCHDOG=1")
    cloud.start("rabbitmq")
    wait(lambda: scheduler.says("STATUS=") == "STATUS=idle", what="it hears itself again")
    scheduler.says("WATCHDOG=1")


def test_a_daemon_that_begins_before_its_broker_waits_for_it(cloud: RunningCloud) -> None:
    directory = cloud.state / "notify"
    directory.mkdir(mode=0o755, exist_ok=True)
    cloud.stop("scheduler")
    cloud.stop("rabbitmq")
    service = Service(cloud, "scheduler", directory)
    try:
        service.says("STATUS=waits for the broker")
        service.says("EXTEND_TIMEOUT_USEC=2000000")
        cloud.start("rabbitmq")
        service.says("READY=1")
        service.says("WATCHDOG=1")
    finally:
        service.end()
        (directory / "notify").unlink()
