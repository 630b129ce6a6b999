"""One line an event."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator

import pytest

from minicloud import log


@pytest.fixture
def written(options: Callable[..., None]) -> Iterator[io.StringIO]:
    """What the log says."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    log.set_up(stream)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


def test_a_message_never_becomes_another_line(written: io.StringIO) -> None:
    logging.getLogger("minicloud").info("name %s", "a\n2011-01-01 forged\r\x1b[31m\x85\u2028b")
    [line] = written.getvalue().splitlines()
    assert line.endswith("name a\\n2011-01-01 forged\\r\\x1b[31m\\x85\\u2028b")


def test_a_traceback_keeps_its_lines(written: io.StringIO) -> None:
    try:
        raise ValueError("said")
    except ValueError:
        logging.getLogger("minicloud").exception("failed")
    assert written.getvalue().splitlines()[-1] == "ValueError: said"
