"""From what a user calls a thing to its row: EC2 ids, uuids, names."""

from __future__ import annotations

import bisect
import re
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import errors, ids
from minicloud.cloud import filters
from minicloud.db.session import Tx, visible

MOST = 1000  # ids in a request
TOGETHER = 250  # ids in a statement: SQLite bounds the depth of a condition

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def id_range(prefix: str, shown: str, malformed: type[errors.MalformedId]) -> tuple[str, str]:
    """The uuids `low <= id < high` that an EC2 id, or a uuid, stands for."""
    if UUID.fullmatch(shown):
        return shown, shown + "g"
    return ids.uuid_range(prefix, shown, malformed)


def by_id(
    tx: Tx,
    ctx: Any,
    model: Any,
    prefix: str,
    shown: Sequence[str],
    *conditions: Any,
    malformed: type[errors.MalformedId],
    missing: type[errors.NotFound],
) -> list[Any]:
    """Rows visible to the asker, each once, in the order asked.

    One statement for every 250 ids.  `missing` names all ids that stand for no row, or for more
    than one; another project's row is missing too.
    """
    bound(shown)
    ranges = [id_range(prefix, one, malformed) for one in shown]
    rows: dict[str, Any] = {}
    for start in range(0, len(ranges), TOGETHER):
        some = [
            sa.and_(model.id >= low, model.id < high)
            for low, high in ranges[start : start + TOGETHER]
        ]
        statement = sa.select(model).where(visible(ctx, model), sa.or_(*some), *conditions)
        rows |= {row.id: row for row in tx.scalars(statement)}
    keys = sorted(rows)
    found: dict[str, Any] = {}
    absent = []
    for one, (low, high) in zip(shown, ranges, strict=True):
        at = bisect.bisect_left(keys, low)
        if bisect.bisect_left(keys, high) - at != 1:
            absent.append(one)
        else:
            found[keys[at]] = rows[keys[at]]
    if absent:
        raise missing(id=", ".join(absent))
    return list(found.values())


def by_name(
    tx: Tx, ctx: Any, model: Any, names: Sequence[str], missing: type[errors.NotFound]
) -> list[Any]:
    """Rows of the asker's project with these names, in one statement; `missing` names all that
    are not there."""
    bound(names)
    if not names:
        return []
    possible = [name for name in names if filters.storable(name)]
    statement = sa.select(model).where(visible(ctx, model), model.name.in_(possible))
    rows = {row.name: row for row in tx.scalars(statement)}
    absent = [name for name in names if name not in rows]
    if absent:
        raise missing(id=", ".join(absent)[: 10 * 255])
    return list({rows[name].id: rows[name] for name in names}.values())


def bound(shown: Sequence[str]) -> None:
    """BadRequest when a request names more things than it may."""
    if len(shown) > MOST:
        raise errors.BadRequest(reason=f"A request may name {MOST} things, this one more")
