"""Flavors (EC2: instance types): the sizes an instance can have; migrations make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import errors
from minicloud.cloud import filters, page
from minicloud.cloud.page import Page
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import Tx, reading

_flavor = models.Flavor
FILTERS: Mapping[str, filters.Match] = {
    "instance-type": filters.text(_flavor.name),
    "memory-info.size-in-mib": filters.number(_flavor.memory_mib),
    "vcpu-info.default-vcpus": filters.number(_flavor.vcpus),
}


@reading
def find(
    tx: Tx,
    ctx: Context,
    *,
    names: Sequence[str] = (),
    filters: Mapping[str, Sequence[str]] = {},
    limit: int | None = None,
    after: str | None = None,
) -> Page[models.Flavor]:
    """Flavors by id; FlavorNotFound names those of `names` that are not there."""
    conditions = _conditions(filters)
    if names:
        known = set(tx.scalars(sa.select(_flavor.name).where(_flavor.name.in_(names))))
        absent = [name for name in names if name not in known]
        if absent:
            raise errors.FlavorNotFound(id=", ".join(absent))
        conditions.append(_flavor.name.in_(names))
    return page.read(tx, _flavor, conditions, limit, after)


def _conditions(given: Mapping[str, Sequence[str]]) -> list[Any]:
    return filters.conditions(given, FILTERS)


def named(tx: Tx, name: str) -> models.Flavor:
    """The flavor of that name; FlavorNotFound."""
    found = tx.scalars(sa.select(_flavor).where(_flavor.name == name)).one_or_none()
    if found is None or found.name != name:
        raise errors.FlavorNotFound(id=name)
    return found
