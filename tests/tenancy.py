"""What a tenant can see of a cloud from outside, so that two answers can be compared."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from minicloud.db import models
from minicloud.db.session import Tx, reading

# of two answers to the same question these may differ
REQUEST_IDS = frozenset({"x-amzn-requestid", "x-amz-request-id", "x-openstack-request-id"})
PASSING = REQUEST_IDS | {f"x-{name}-request-id" for name in ("identity", "compute", "image")}
PASSING |= {"date"}
REQUEST_ID = re.compile("req-[0-9a-f-]{36}")

Seen = tuple[int, list[tuple[str, str]], str]


def seen(status: int, headers: Mapping[str, str], body: bytes) -> Seen:
    """All of an answer but what names this one request, or the time."""
    kept = [(name.lower(), value) for name, value in headers.items()]
    text = REQUEST_ID.sub("req-", body.decode())
    return status, sorted(pair for pair in kept if pair[0] not in PASSING), text


def instead(given: Any, old: str, new: str) -> Any:
    """The same with another word in its place, wherever and within whatever it stands."""
    if isinstance(given, dict):
        return {key: instead(value, old, new) for key, value in given.items()}
    if isinstance(given, list | tuple):
        return type(given)(instead(value, old, new) for value in given)
    if isinstance(given, bytes):
        return given.replace(old.encode(), new.encode())
    return given.replace(old, new) if isinstance(given, str) else given


def whole() -> dict[str, list[str]]:
    """Every row of the database but what is remembered of requests."""
    return {table: rows for table, rows in _tables().items() if table != "requests"}


@reading
def _tables(tx: Tx) -> dict[str, list[str]]:
    return {
        table.name: sorted(map(repr, tx.execute(sa.select(table))))
        for table in models.Base.metadata.sorted_tables
    }


@reading
def remembered(tx: Tx) -> int:
    """How many requests are, so that their repetition changes nothing."""
    return tx.scalars(sa.select(sa.func.count()).select_from(models.Request)).one()


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """What the servers of these tests ask the database within it, without the values: who asks
    for different things takes different times."""
    asked: list[str] = []

    def listen(conn: Any, cursor: Any, statement: str, *_: Any) -> None:
        serves = threading.current_thread().name.endswith("(process_request_thread)")
        if serves and not statement.startswith("BEGIN"):  # who finds SQLite locked begins again
            asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", listen)
    try:
        yield asked
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", listen)
