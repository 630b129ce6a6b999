"""Clouds of real daemons, shared by all tests of the promise."""

from __future__ import annotations

import itertools
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("tests.promises.play", "tests.promises.stories")

# ruff: noqa: E402  (they are rewritten when they are imported)
from tests.databases import SERVERS, another
from tests.integration.running import free_offset
from tests.promises import bed
from tests.promises.daemons import Nursery
from tests.promises.theatre import Theatre

CLOUDS = 6  # at once: each waits most of its time


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/promises/" in str(item.path):
            item.add_marker(pytest.mark.timeout(1800))  # many cases are one test
            if not shutil.which("/usr/lib/rabbitmq/bin/rabbitmq-server"):
                item.add_marker(pytest.mark.skip(reason="no RabbitMQ (package rabbitmq-server)"))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """Where a broker is that only these tests use."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    path.chmod(0o755)  # the broker has a user of its own
    with bed.broker(path, free_offset()) as made:
        yield made
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def theatre(nursery: Nursery, url: str, pytestconfig: pytest.Config) -> Iterator[Theatre]:
    """Clouds with a database file each."""
    made = Theatre(nursery, url, CLOUDS)
    yield made
    made.close()
    pytestconfig.stash.setdefault(PLAYED, []).append(("SQLite", made))


@pytest.fixture(scope="session", params=SERVERS)
def theatre_on_a_server(
    nursery: Nursery, url: str, request: pytest.FixtureRequest
) -> Iterator[Theatre]:
    """Clouds with a database each on one server."""
    server: str = request.getfixturevalue(request.param)
    numbers = itertools.count(1)
    made = Theatre(nursery, url, CLOUDS, lambda: another(server, f"promises{next(numbers)}"))
    yield made
    made.close()
    request.config.stash.setdefault(PLAYED, []).append((request.param, made))


PLAYED = pytest.StashKey[list[tuple[str, Theatre]]]()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """What was played, and what was not."""
    for engine, theatre in config.stash.get(PLAYED, []):
        terminalreporter.write_line(f"{engine}: {theatre.summary()}")
