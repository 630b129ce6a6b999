"""The broker of the tests of the promise serves these too."""

from __future__ import annotations

import shutil

import pytest

from tests.promises.conftest import nursery, url

__all__ = ["nursery", "url"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name == "test_side_by_side.py":
            item.add_marker(pytest.mark.timeout(1800))  # a busy machine takes its time
            if not shutil.which("/usr/lib/rabbitmq/bin/rabbitmq-server"):
                item.add_marker(pytest.mark.skip(reason="no RabbitMQ (package rabbitmq-server)"))
