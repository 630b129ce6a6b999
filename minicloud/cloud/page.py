"""Lists by pages: the key of the last thing shown is where the next page begins."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from minicloud import errors
from minicloud.db.session import Tx

T = TypeVar("T")
KEY = re.compile(r"[0-9a-f-]{1,40}")  # a uuid, or a flavor's small number


@dataclasses.dataclass(frozen=True)
class Page(Generic[T]):
    """Some of the things asked for, by id; `next` is the `after` of the next page, None at the
    end."""

    items: list[T]
    next: str | None = None


def read(
    tx: Tx,
    model: Any,
    conditions: Sequence[Any],
    limit: int | None,
    after: str | None,
    options: Sequence[Any] = (),
) -> Page[Any]:
    """Rows of `model` that fulfil all conditions, by id, in one statement; `options` say which
    columns are not needed.

    InvalidNextToken when `after` is nothing that a page ever ended with.
    """
    statement = sa.select(model).options(*options).where(*conditions).order_by(model.id)
    if after is not None:
        if not KEY.fullmatch(after):
            raise errors.InvalidNextToken
        statement = statement.where(model.id > after)
    if limit is not None:
        statement = statement.limit(limit + 1)
    return _page(tx, statement, limit)


def ordered(
    tx: Tx,
    model: Any,
    conditions: Sequence[Any],
    order: Sequence[tuple[Any, bool]],
    limit: int | None,
    marker: str | None,
    options: Sequence[Any] = (),
) -> Page[Any]:
    """Rows of `model` that fulfil all conditions in the order of these columns, of which none is
    null, and True for descending; equal ones by id.

    InvalidMarker when no row that fulfils the first condition is called `marker`.
    """
    keys = [*order, (model.id, True)]
    statement = sa.select(model).options(*options).where(*conditions)
    statement = statement.order_by(*[key.desc() if down else key for key, down in keys])
    if marker is not None:
        asked = sa.select(*[key for key, _ in keys]).where(model.id == marker, *conditions[:1])
        last = tx.execute(asked).first() if KEY.fullmatch(marker) else None
        if last is None:
            raise errors.InvalidMarker(marker=marker[:80])
        statement = statement.where(_beyond(keys, last))
    return _page(tx, statement, limit)


def _beyond(keys: Sequence[tuple[Any, bool]], last: Sequence[Any]) -> Any:
    """The row comes after the one whose keys have the values `last`."""
    ways: list[Any] = []
    same: list[Any] = []
    for (key, down), value in zip(keys, last, strict=True):
        ways.append(sa.and_(*same, key < value if down else key > value))
        same.append(key == value)
    return sa.or_(*ways)


def _page(tx: Tx, statement: Any, limit: int | None) -> Page[Any]:
    if limit is not None:
        statement = statement.limit(limit + 1)
    rows = list(tx.scalars(statement))
    if limit is None or len(rows) <= limit:
        return Page(rows)
    return Page(rows[:limit], rows[limit - 1].id)
