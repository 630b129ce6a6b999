"""What the tests of hostile input share: rows that are put back, an ear for our defects."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.databases import database
from tests.functional.fuzz.doors import Loud, Rows

__all__ = ["database"]  # a fixture


@pytest.fixture
def rows(database: str) -> Iterator[Rows]:
    made = Rows()
    yield made
    made.close()


@pytest.fixture
def loud() -> Iterator[Loud]:
    made = Loud()
    logger = logging.getLogger("minicloud")
    logger.addHandler(made)
    yield made
    logger.removeHandler(made)
