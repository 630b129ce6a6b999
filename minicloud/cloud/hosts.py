"""Hosts and their daemons, as the operator sees them."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from minicloud.auth import policy
from minicloud.context import Context
from minicloud.db import hosts, models, rooms
from minicloud.db.session import Tx, clock, reading


@dataclasses.dataclass(frozen=True)
class Service:
    """A daemon on a host; `age_s` is its heartbeat's by the database's clock, None without."""

    row: models.Host
    alive: bool
    age_s: float | None

    @property
    def state(self) -> str:
        return _state(self.row, self.alive)


@dataclasses.dataclass(frozen=True)
class Capacity:
    """What a compute host has (in `row`) and what is booked of it."""

    row: models.Host
    alive: bool
    vcpus_used: int
    memory_mib_used: int
    disk_gib_used: int
    instances: int

    @property
    def state(self) -> str:
        return _state(self.row, self.alive)


def _state(row: models.Host, alive: bool) -> str:
    """up, down, or fenced: down, and the operator has said so."""
    if row.fenced_at is not None:
        return "fenced"
    return "up" if alive else "down"


@reading
def services(tx: Tx, ctx: Context) -> list[Service]:
    """All daemons that ever started, by host and daemon."""
    policy.require(ctx, "hosts")
    now = clock(tx)
    host = models.Host
    statement = sa.select(host, hosts.alive()).order_by(host.host, host.daemon)
    return [
        Service(row, bool(alive), (now - row.heartbeat).total_seconds() if row.heartbeat else None)
        for row, alive in tx.execute(statement)
    ]


@reading
def capacity(tx: Tx, ctx: Context) -> list[Capacity]:
    """All compute hosts, by name."""
    policy.require(ctx, "hosts")
    host = models.Host
    statement = sa.select(host, hosts.alive()).where(host.daemon == "compute")
    found = list(tx.execute(statement.order_by(host.host)))
    booked = rooms.booked(tx, [row.host for row, _ in found])
    return [
        Capacity(row, bool(alive), *booked.get(row.host, (0, 0, 0, 0))) for row, alive in found
    ]
