"""Availability zones: the words that compute hosts say they are in."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from minicloud import config, errors
from minicloud.context import Context
from minicloud.db import hosts, models
from minicloud.db.session import Tx, reading


@dataclasses.dataclass(frozen=True)
class Zone:
    """`available`: at least one of its compute hosts lives and takes instances."""

    name: str
    available: bool


@reading
def find(tx: Tx, ctx: Context) -> list[Zone]:
    """The configured zone and those of all compute hosts, by name."""
    return _zones(tx)


def check(tx: Tx, name: str) -> None:
    """Return when there is such a zone, whether anything lives in it or not; ZoneNotFound."""
    if name not in {zone.name for zone in _zones(tx)}:
        raise errors.ZoneNotFound(id=name)


def _zones(tx: Tx) -> list[Zone]:
    host = models.Host
    takes = sa.and_(hosts.alive(), host.disabled.is_(False))
    statement = (
        sa.select(host.zone, sa.func.max(sa.case((takes, 1), else_=0)))
        .where(host.daemon == "compute")
        .group_by(host.zone)
    )
    found = {str(config.CONF.zone): False}
    found |= {name: bool(available) for name, available in tx.execute(statement)}
    return [Zone(name, found[name]) for name in sorted(found)]
