"""The daemons' rows: who lives where, since which epoch, and what a host has applied."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import errors
from minicloud.db import models
from minicloud.db.session import Tx, hold

DOWN_AFTER_S = 20  # four heartbeats


def alive() -> Any:
    """SQL condition on `Host`: its heartbeat is young, and it is not fenced.  A heartbeat from the
    future (a clock set back) counts as down, because nobody can tell its age."""
    beat = models.Host.heartbeat
    return sa.and_(
        models.Host.fenced_at.is_(None),
        beat.is_not(None),
        beat >= models.now(-DOWN_AFTER_S),
        beat <= models.now(1),
    )


def register(
    tx: Tx, *, host: str, daemon: str, machine_id: str, boot_id: str, version: str, zone: str
) -> tuple[models.Host, bool]:
    """Raise the epoch of (host, daemon), or make its row: whoever had it before is fenced.

    The row, and whether the machine booted since `store_boot_id`.  A host the operator has fenced
    stays so until `come_back`.  Conflict when the name belongs to another machine, by any of its
    daemons; GivenAway when it was this machine's before.
    """
    id = f"{daemon}@{host}"
    known = named(tx, host)
    _require_machine(id, known, machine_id)
    if id not in {row.id for row in known}:
        row = models.Host(
            id=id,
            host=host,
            daemon=daemon,
            machine_id=machine_id,
            boot_id=boot_id,
            version=version,
            zone=zone,
            epoch=1,
        )
        tx.add(row)
        tx.flush()
        return row, False
    [row] = hold(tx, models.Host, [id])
    _require_machine(id, [row], machine_id)  # it may have been rebound before it was held
    row.machine_id = machine_id
    row.epoch += 1
    row.version, row.zone = version, zone
    tx.flush()
    return row, row.boot_id != boot_id


def _require_machine(id: str, rows: Sequence[models.Host], machine_id: str) -> None:
    """These rows of the host's daemons are this machine's, or nobody's yet."""
    if any(row.former_machine_id == machine_id for row in rows):
        raise errors.GivenAway(daemon=id)
    for row in rows:
        if row.machine_id not in ("", machine_id):
            raise errors.Conflict(
                reason=f"{id} cannot be here: {row.id} belongs to another machine"
                f" ({row.machine_id}); give this host another name in [DEFAULT] host"
            )


def come_back(tx: Tx, id: str, epoch: int) -> bool:
    """The daemon, which has let go of what is no longer its own, may act again; False when more
    was handed over since it registered.  Fenced when another process was quicker."""
    [row] = hold(tx, models.Host, [id])
    if row.epoch != epoch and row.fenced_at is None:
        raise errors.Fenced(daemon=id, epoch=epoch)
    if row.epoch == epoch:
        row.fenced_at = None
        tx.flush()
    return row.epoch == epoch


def owner(tx: Tx, id: str, epoch: int) -> str | None:
    """The id of the machine that has the name now ("": of none yet); None when nobody has taken
    the place of the daemon of that `epoch`, or the database is older than it."""
    model = models.Host
    statement = sa.select(model.machine_id).where(model.id == id, model.epoch > epoch)
    return tx.scalars(statement).one_or_none()


def named(tx: Tx, host: str) -> list[models.Host]:
    """The rows of the host's daemons, by id."""
    model = models.Host
    return list(tx.scalars(sa.select(model).where(model.host == host).order_by(model.id)))


def of(tx: Tx, host: str) -> list[models.Host]:
    """The same, held."""
    return hold(tx, models.Host, [row.id for row in named(tx, host)])


def living(tx: Tx, rows: Sequence[models.Host]) -> list[models.Host]:
    """Those that beat."""
    ids = sa.select(models.Host.id).where(models.Host.id.in_([row.id for row in rows]), alive())
    beating = set(tx.scalars(ids))
    return [row for row in rows if row.id in beating]


def rebind(tx: Tx, rows: Sequence[models.Host], machine_id: str | None) -> None:
    """The name of these rows, which are held, is free for another machine: for that of
    `machine_id`, or for the first that comes."""
    for row in rows:
        former = row.machine_id or row.former_machine_id
        row.former_machine_id = None if former == machine_id else former
        row.machine_id = machine_id or ""
        row.epoch += 1
    tx.flush()


def forget(tx: Tx, rows: Sequence[models.Host]) -> None:
    """These rows, which are held, and what their daemons applied are gone."""
    ids = [row.id for row in rows]
    tx.changed(sa.delete(models.Applied).where(models.Applied.host.in_(ids)))
    tx.changed(sa.delete(models.Host).where(models.Host.id.in_(ids)))


def fence(tx: Tx, rows: Sequence[models.Host]) -> None:
    """The daemons of these rows, which are held, may not act any more."""
    model = models.Host
    tx.changed(
        sa.update(model)
        .where(model.id.in_([row.id for row in rows]))
        .values(epoch=model.epoch + 1, fenced_at=models.now(), heartbeat=None)
    )


def fenced(tx: Tx, names: Collection[str], daemon: str) -> set[str]:
    """Those of these hosts whose daemon is fenced."""
    model = models.Host
    statement = sa.select(model.host).where(
        model.daemon == daemon, model.host.in_(names), model.fenced_at.is_not(None)
    )
    return set(tx.scalars(statement))


def hand_over(tx: Tx, names: Collection[str], daemon: str) -> set[str]:
    """Those of these hosts whose daemon is fenced, held.

    Their rows may be moved in this transaction: a daemon that is coming back meanwhile finds its
    epoch raised, and looks at all rows again before it acts.
    """
    if not fenced(tx, names, daemon):
        return set()
    held = hold(tx, models.Host, [f"{daemon}@{name}" for name in names])
    found = [row for row in held if row.fenced_at is not None]
    for row in found:
        row.epoch += 1
    tx.flush()
    return {row.host for row in found}


def store_boot_id(tx: Tx, id: str, epoch: int, boot_id: str) -> None:
    """What the machine's boot brought with it has been dealt with."""
    model = models.Host
    tx.changed(
        sa.update(model).where(model.id == id, model.epoch == epoch).values(boot_id=boot_id)
    )


def lives(tx: Tx, id: str, epoch: int) -> bool:
    """Whether no other process has taken the daemon's place since it was given this epoch."""
    row = tx.get(models.Host, id)
    return row is not None and row.epoch == epoch


def beat(tx: Tx, id: str, epoch: int, number: int, **facts: Any) -> int | None:
    """Write the heartbeat, which is the daemon's `number`th; None when another process has taken
    its place.

    Otherwise the number the row knows now: a smaller one when it knows fewer beats than this
    daemon has seen it take, and so the database is an older one.  It is not raised then: who looks
    before the daemon has said that it distrusts it finds that out too.  A beat whose answer was
    lost may be written again.
    """
    model = models.Host
    mine = sa.update(model).where(model.id == id, model.epoch == epoch)
    counted = mine.where(model.beats >= number - 1)
    if tx.changed(counted.values(heartbeat=models.now(), beats=number, **facts)):
        return number
    rows = [row for row in hold(tx, model, [id]) if row.epoch == epoch]
    if not rows:
        return None
    tx.changed(mine.values(heartbeat=models.now(), **facts))
    return rows[0].beats


def beats(tx: Tx, id: str) -> int:
    """How many heartbeats the database knows of the daemon."""
    model = models.Host
    return tx.scalars(sa.select(model.beats).where(model.id == id)).one_or_none() or 0


def beat_all(tx: Tx, beats: Mapping[str, tuple[int, Mapping[str, Any]]]) -> set[str]:
    """Write the heartbeats of many daemons of one process, id → (epoch, facts); the ids of those
    whose place another process has taken."""
    mine = [row for row in hold(tx, models.Host, list(beats)) if row.epoch == beats[row.id][0]]
    for row in mine:
        for name, value in beats[row.id][1].items():
            if getattr(row, name) != value:
                setattr(row, name, value)
    tx.flush()
    _set_heartbeat(tx, [row.id for row in mine], models.now())
    return set(beats) - {row.id for row in mine}


def leave_all(tx: Tx, epochs: Mapping[str, int]) -> None:
    """A clean stop of many, id → epoch."""
    rows = hold(tx, models.Host, list(epochs))
    _set_heartbeat(tx, [row.id for row in rows if row.epoch == epochs[row.id]], None)


def _set_heartbeat(tx: Tx, ids: Sequence[str], value: Any) -> None:
    model = models.Host
    tx.changed(sa.update(model).where(model.id.in_(ids)).values(heartbeat=value))


def leave(tx: Tx, id: str, epoch: int) -> None:
    """A clean stop: the daemon is down from now on, not only when its heartbeat is old."""
    model = models.Host
    tx.changed(sa.update(model).where(model.id == id, model.epoch == epoch).values(heartbeat=None))


def is_there(tx: Tx, model: type[Any], id: str) -> bool:
    """Whether a synced row, held from now on, was not deleted: of one that was, nobody would ever
    forget again what is remembered by a nudge that came late."""
    found = hold(tx, model, [id])
    return bool(found) and getattr(found[0], "state", "") != "deleted"


def of_daemon(tx: Tx, daemon: str) -> list[models.Host]:
    """The rows of every host's daemon of that name."""
    model = models.Host
    return list(tx.scalars(sa.select(model).where(model.daemon == daemon).order_by(model.host)))


def versions(tx: Tx, daemon: str, host: str | None) -> list[str]:
    """The interface versions that this host's daemon of that name serves, or every host's."""
    model = models.Host
    where = [model.daemon == daemon] if host is None else [model.id == f"{daemon}@{host}"]
    return list(tx.scalars(sa.select(model.version).where(*where)))


def store_applied(tx: Tx, host_id: str, thing: str, value: int) -> None:
    """Remember that the daemon, which is alive, has applied a synced row up to `value`; never
    goes back."""
    model = models.Applied
    mine = sa.and_(model.thing == thing, model.host == host_id)
    if tx.changed(sa.update(model).where(mine, model.applied < value).values(applied=value)):
        return
    if tx.scalars(sa.select(model.applied).where(mine)).one_or_none() is None:
        tx.execute(sa.insert(model), [{"thing": thing, "host": host_id, "applied": value}])


def all_applied(tx: Tx, host_id: str) -> dict[str, int]:
    """How far the daemon has applied each thing it ever did."""
    model = models.Applied
    statement = sa.select(model.thing, model.applied).where(model.host == host_id)
    return dict(iter(tx.execute(statement)))


def how_far(tx: Tx, id: str, thing: str) -> tuple[bool, int]:
    """Whether the daemon lives, and what `applied` says of it."""
    model, row = models.Applied, models.Host
    value = sa.select(model.applied).where(model.thing == thing, model.host == row.id)
    statement = sa.select(alive(), value.scalar_subquery()).where(row.id == id)
    found = tx.execute(statement).one_or_none()
    return (bool(found[0]), found[1] or 0) if found else (False, 0)


def applied(tx: Tx, host_id: str, thing: str) -> int:
    """How far the daemon has applied the row; 0 when it never did."""
    model = models.Applied
    found = tx.scalars(
        sa.select(model.applied).where(model.thing == thing, model.host == host_id)
    ).one_or_none()
    return found or 0
