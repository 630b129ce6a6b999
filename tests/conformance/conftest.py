"""Unmodified clients, in a venv of their own, against an embedded cloud."""

from __future__ import annotations

import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from tests.conformance import clients
from tests.conformance.clients import User
from tests.embedded import Embedded, free_offset
from tests.integration.running import no_instances


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/conformance/" in str(item.path):
            item.add_marker(pytest.mark.timeout(600))  # the first test installs the clients


@pytest.fixture(scope="session")
def venv() -> pathlib.Path:
    """Where the clients are installed."""
    return clients.installed()


@pytest.fixture(scope="session")
def running_cloud() -> Iterator[Embedded]:
    """An embedded cloud; nothing is left of it afterwards."""
    state = pathlib.Path(tempfile.mkdtemp(prefix="mc-"))
    cloud = Embedded(state, free_offset(19000))
    try:
        assert cloud.said[:1] == ["ready"], cloud.process.communicate()
        yield cloud
    finally:
        if cloud.process.poll() is None:
            cloud.end()
        shutil.rmtree(state)


@pytest.fixture
def cloud(running_cloud: Embedded) -> Iterator[Embedded]:
    """The cloud without an instance, before and after each test."""
    no_instances(running_cloud.ec2())
    yield running_cloud
    no_instances(running_cloud.ec2())


@pytest.fixture
def user(venv: pathlib.Path, cloud: Embedded, tmp_path: pathlib.Path) -> User:
    return User(venv, tmp_path, cloud.environment)
