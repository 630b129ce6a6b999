"""Tags: written, read and given back with the things they are on."""

from __future__ import annotations

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import ids
from minicloud.db import models
from minicloud.db.session import Tx

TOGETHER = 500  # things in a statement

_tag = models.Tag


def add(
    tx: Tx, project_id: str, kind: str, resource_ids: Sequence[str], tags: Mapping[str, str]
) -> None:
    """Each of the things has each of the tags; it had none of that name before."""
    rows = [
        {
            "id": ids.new(),
            "project_id": project_id,
            "kind": kind,
            "resource_id": resource_id,
            "name": name,
            "value": value,
        }
        for resource_id in resource_ids
        for name, value in tags.items()
    ]
    if rows:
        tx.execute(sa.insert(_tag), rows)


def of(tx: Tx, project_id: str, resource_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """thing → name → value, by name, of the project's tags; {} for a thing without."""
    found: dict[str, dict[str, str]] = collections.defaultdict(dict)
    for start in range(0, len(resource_ids), TOGETHER):
        statement = (
            sa.select(_tag.resource_id, _tag.name, _tag.value)
            .where(
                _tag.resource_id.in_(resource_ids[start : start + TOGETHER]),
                _tag.project_id == project_id,
            )
            .order_by(_tag.name)
        )
        for resource_id, name, value in tx.execute(statement):
            found[resource_id][name] = value
    return found


def forget(tx: Tx, resource_ids: Sequence[str], *conditions: Any) -> None:
    """The things have no tags (that fulfil the conditions); repeating it is harmless."""
    for start in range(0, len(resource_ids), TOGETHER):
        some = _tag.resource_id.in_(resource_ids[start : start + TOGETHER])
        tx.changed(sa.delete(_tag).where(some, *conditions))
