"""Reads and ending writes of the network daemon."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from minicloud.db import hosts, models
from minicloud.db.session import Tx


def adopt(tx: Tx, host: str, me_alive: Any) -> list[str]:
    """Make `host` serve every network that no host serves yet; the ids of those adopted."""
    model = models.Network
    free = list(tx.scalars(sa.select(model.id).where(model.host.is_(None)).order_by(model.id)))
    return [
        id
        for id in free
        if tx.changed(
            sa.update(model)
            .where(model.id == id, model.host.is_(None), me_alive)
            .values(host=host)
        )
    ]


def move(tx: Tx, network: models.Network) -> str | None:
    """The network has another host: of the network daemons that live and are enabled the one that
    serves fewest, or None, until the first that comes adopts it.  The caller touches it."""
    host, model = models.Host, models.Network
    serves = (
        sa.select(sa.func.count())
        .select_from(model)
        .where(model.host == host.host)
        .scalar_subquery()
    )
    statement = (
        sa.select(host.host)
        .where(
            host.daemon == "network",
            host.host != network.host,
            host.disabled.is_(False),
            hosts.alive(),
        )
        .order_by(serves, host.host)
        .limit(1)
    )
    found = tx.scalars(statement).one_or_none()
    tx.changed(sa.update(model).where(model.id == network.id).values(host=found))
    return found


def of_host(tx: Tx, host: str) -> list[models.Network]:
    return list(tx.scalars(sa.select(models.Network).where(models.Network.host == host)))


def foreign(tx: Tx, host: str, serving: Collection[int], everything: bool) -> set[int]:
    """Those of these network numbers that a row gives to another host or to none; or, with
    `everything`, that any row has."""
    model = models.Network
    statement = sa.select(model.number).where(model.number.in_(serving))
    if not everything:
        statement = statement.where(sa.or_(model.host.is_(None), model.host != host))
    return set(tx.scalars(statement))


def numbers(tx: Tx) -> set[int]:
    """The numbers of all networks, whoever serves them: their bridges may be on any host."""
    return set(tx.scalars(sa.select(models.Network.number)))


def bookings(tx: Tx, network_id: str) -> list[Any]:
    """All bookings of the network, live and leaving, by address; columns, not objects: they are
    read for every guest that comes or goes."""
    row = models.Address
    columns = (row.instance_id, row.mac, row.address, row.hostname, row.since, row.leaving)
    statement = sa.select(*columns).where(row.network_id == network_id)
    return list(tx.execute(statement.order_by(row.number)))
