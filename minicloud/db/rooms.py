"""What is booked on compute hosts: sums over instances, never stored (DESIGN rule 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from minicloud.db import hosts, models
from minicloud.db.session import Tx, in_order


def due(model: type[Any], longest_s: float) -> Any:
    """SQL condition: the pause of the row is over.  One over `longest_s`, which is given to none,
    is left by a clock that was set back since: it is over too."""
    pause_ends = model.not_before
    return sa.or_(
        pause_ends.is_(None), pause_ends <= models.now(), pause_ends > models.now(longest_s)
    )


def waiting(tx: Tx, limit: int, longest_s: float) -> list[models.Instance]:
    """Instances that wait for a host and whose pause is over, oldest first, locked; those that
    another scheduler has in hand are left out where the database can (SKIP LOCKED)."""
    model = models.Instance
    statement = (
        sa.select(model)
        .where(model.state == "scheduling", due(model, longest_s))
        .order_by(model.created_at, model.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return list(tx.scalars(statement))


def booked(tx: Tx, hosts: Sequence[str]) -> dict[str, tuple[int, int, int, int]]:
    """host → CPUs, MiB, GiB and number of the instances it has."""
    model = models.Instance
    statement = (
        sa.select(
            model.host,
            sa.func.sum(model.vcpus),
            sa.func.sum(model.memory_mib),
            sa.func.sum(model.disk_gib),
            sa.func.count(),
        )
        .where(model.host.in_(hosts), model.state != "terminated")
        .group_by(model.host)
    )
    return {
        str(host): (int(cpus), int(memory), int(disk), int(count))
        for host, cpus, memory, disk, count in tx.execute(statement)
    }


def compute_hosts(tx: Tx) -> tuple[Sequence[Any], set[str]]:
    """What the scheduler looks at of the compute daemons' rows, which are held, by id: `host`,
    `zone`, `disabled`, `vcpus`, `memory_mib`, `disk_gib`; and the names of those that are down."""
    model = models.Host
    in_order(tx, model)
    columns = (model.host, model.zone, model.disabled, model.vcpus, model.memory_mib)
    mine = model.daemon == "compute"
    statement = sa.select(*columns, model.disk_gib).where(mine).order_by(model.id)
    held = tx.execute(statement.with_for_update()).all()
    # when they are held: a wait for the lock makes the statement's own clock an old one
    return held, set(tx.scalars(sa.select(model.host).where(mine, sa.not_(hosts.alive()))))


def postpone(
    tx: Tx,
    row: models.Instance | models.Volume,
    me_alive: Any,
    pause_s: float,
    reason: str,
) -> None:
    """Nobody has room for it now: it is looked at again after a pause."""
    model = type(row)
    tx.changed(
        sa.update(model)
        .where(model.id == row.id, model.generation == row.generation, me_alive)
        .values(waits=model.waits + 1, not_before=models.now(pause_s), reason=reason)
    )


def first_pause_s(tx: Tx, model: type[Any], state: str) -> float | None:
    """Seconds until the first postponed row in `state` is due, negative when it is overdue; None
    when none is postponed."""
    first, now = tx.execute(
        sa.select(sa.func.min(model.not_before), models.now()).where(model.state == state)
    ).one()
    return None if first is None else float((first - now).total_seconds())
