"""One simulated cloud of real daemons for all integration tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.running import RunningCloud, emptied, simulated


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/integration/" in str(item.path) and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="not root: cannot give daemons their user"))


@pytest.fixture(scope="session")
def shared_cloud() -> Iterator[RunningCloud]:
    with simulated() as cloud:
        yield cloud


@pytest.fixture
def cloud(shared_cloud: RunningCloud) -> Iterator[RunningCloud]:
    """The shared cloud, whole and without an instance, before and after each test."""
    emptied(shared_cloud)
    yield shared_cloud
    emptied(shared_cloud)
