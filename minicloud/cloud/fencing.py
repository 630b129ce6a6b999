"""A host that died: the operator says so, and what it had is handed over.

Only the operator can know that a host is dead and not only out of reach; no heartbeat says it.
`fence` takes the right to act from its daemons; after that, and only then, rows that name it are
moved without it, a few in each transaction, under the lock of its row (see
docs/decisions/019-a-host-is-handed-over-by-the-operator.md).
"""

from __future__ import annotations

import dataclasses
import secrets as random
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa

from minicloud import errors, states
from minicloud.auth import policy, secrets
from minicloud.cloud import shown
from minicloud.context import Context, new_request_id
from minicloud.db import hosts, models, networks, volumes
from minicloud.db.session import Tx, done, hold, once, reading, transaction

TOGETHER = 50  # rows moved in one transaction

Row = TypeVar("Row", models.Instance, models.Volume, models.Network)


@dataclasses.dataclass(frozen=True)
class Moved:
    """What was done about one thing: `now` is its state, or a network's new host; `rest` the
    state an instance comes back to."""

    kind: str
    id: str
    now: str | None
    rest: str | None = None


# --- the host -------------------------------------------------------------------------------


def fence(ctx: Context, host: str, force: bool = False) -> list[Moved]:
    """The host's daemons may not act any more, and what was being made on it is made elsewhere:
    instances in "building" are "scheduling", volumes in "creating" are "placing"; volumes that
    have their bytes there are in error until it is back.

    Repeating it goes on where it was cut short.  HostNotFound; StillAlive while a daemon of the
    host beats, unless `force`.
    """
    policy.require(ctx, "hosts")
    _fence(ctx, host, force)
    return [
        *_each(ctx, lambda again: _leave(again, host, frozenset({"building"}))),
        *_each(ctx, lambda again: _leave_volumes(again, host, frozenset(IN_MAKING))),
    ]


@transaction
def _fence(tx: Tx, ctx: Context, host: str, force: bool) -> None:
    if once(tx, ctx, "host fence", None, [host, force]) is not None:
        return
    acting = [row for row in _held(tx, host) if row.fenced_at is None]
    if not force:
        for row in hosts.living(tx, acting):
            raise errors.StillAlive(daemon=row.daemon, host=host)
    hosts.fence(tx, acting)


def evacuate(ctx: Context, host: str) -> list[Moved]:
    """Nothing that can be elsewhere is on the fenced host any more.

    Its instances are "scheduling" and come back to what they were, with their addresses, groups
    and volumes, but with a new root disk; what was terminating is terminated, what was deleting
    deleted.  Its networks are served by other hosts.  Repeating it goes on where it was cut
    short.  HostNotFound; NotFenced, also when the host comes back meanwhile: then what was not
    moved yet is its own again.
    """
    policy.require(ctx, "hosts")
    fenced = _fenced_daemons(ctx, host)
    found: list[Moved] = []
    if "network" in fenced:
        found += _each(ctx, lambda again: _move_networks(again, host))
    if "compute" in fenced:
        found += _each(ctx, lambda again: _leave(again, host, LEAVING))
    if "volume" in fenced:
        found += _each(ctx, lambda again: _leave_volumes(again, host, frozenset(VOLUME_ENDS)))
    return found


@reading
def _fenced_daemons(tx: Tx, ctx: Context, host: str) -> set[str]:
    rows = hosts.named(tx, host)
    if not rows:
        raise errors.HostNotFound(host=host)
    found = {row.daemon for row in rows if row.fenced_at is not None}
    if not found:
        raise errors.NotFenced(host=host, why="")
    return found


@transaction
def rebind(tx: Tx, ctx: Context, host: str, machine_id: str | None = None) -> None:
    """The host's name is free for another machine, that of `machine_id` or the first that comes;
    the one that had it cannot have it back, and ends what it has left of it when it starts.

    HostNotFound; NotFenced.
    """
    policy.require(ctx, "hosts")
    if once(tx, ctx, "host rebind", None, [host, machine_id]) is not None:
        return
    rows = _held(tx, host)
    if any(row.fenced_at is None for row in rows):
        raise errors.NotFenced(host=host, why=" (or not all of its daemons are)")
    hosts.rebind(tx, rows, machine_id)


@transaction
def enable(tx: Tx, ctx: Context, host: str, enabled: bool) -> None:
    """The scheduler gives the host new instances and volumes, or none; what it has stays there.

    HostNotFound.
    """
    policy.require(ctx, "hosts")
    if once(tx, ctx, "host enable", None, [host, enabled]) is None:
        for row in _held(tx, host):
            row.disabled = not enabled
        tx.flush()


@transaction
def forget(tx: Tx, ctx: Context, host: str) -> None:
    """No row names the host any more, nor what it has applied.

    HostNotFound; NotFenced; InUse with what is left of it, while anything is.
    """
    policy.require(ctx, "hosts")
    if once(tx, ctx, "host forget", None, [host]) is not None:
        return
    rows = _held(tx, host)
    if any(row.fenced_at is None for row in rows):
        raise errors.NotFenced(host=host, why=" (or not all of its daemons are)")
    if left := _left(tx, host):
        raise errors.InUse(kind="host", name=host, reason=", ".join(left))
    hosts.forget(tx, rows)


def _left(tx: Tx, host: str) -> list[str]:
    """In words, what names the host."""
    counted: list[tuple[Any, str, Any]] = [
        (models.Network, "host", sa.true()),
        (models.Part, "host", sa.true()),
        *(
            (machine.model, column, machine.model.state.not_in(machine.finals))
            for machine in states.MACHINES
            for column in {work.host for work in machine.work.values() if work.host is not None}
        ),
    ]
    found = []
    for model, column, living in counted:
        here = sa.and_(getattr(model, column) == host, living)
        count = tx.scalars(sa.select(sa.func.count()).select_from(model).where(here)).one()
        if count:
            found.append(f"{count} {model.__tablename__}")
    return sorted(found)


def _held(tx: Tx, host: str) -> list[models.Host]:
    rows = hosts.of(tx, host)
    if not rows:
        raise errors.HostNotFound(host=host)
    return rows


def _each(ctx: Context, step: Callable[[Context], list[Moved] | None]) -> list[Moved]:
    """`step`, which is one request, until it finds nothing more to do."""
    found: list[Moved] = []
    while (some := step(dataclasses.replace(ctx, request_id=new_request_id()))) is not None:
        found += some
    return found


def _found(tx: Tx, model: type[Row], host: str, condition: Any) -> list[Row]:
    """The next rows that name the host, held."""
    chosen: Any = sa.select(model.id).where(model.host == host, condition)
    rows = hold(tx, model, list(tx.scalars(chosen.order_by(model.id).limit(TOGETHER))))
    return [row for row in rows if row.host == host]


def _require_fenced(tx: Tx, host: str, daemon: str) -> None:
    if not hosts.hand_over(tx, [host], daemon):
        raise errors.NotFenced(host=host, why=f", its {daemon} daemon came back")


# --- instances ------------------------------------------------------------------------------

LEAVING = states.INSTANCE.handed_over("scheduling")


@transaction
def _leave(tx: Tx, ctx: Context, host: str, wanted: Collection[str]) -> list[Moved] | None:
    """The next instances of the host are not its any more; None when there are none."""
    arguments = [host, sorted(wanted)]
    if once(tx, ctx, "host evacuate instances", None, arguments) is not None:
        return []
    rows = _found(tx, models.Instance, host, models.Instance.state.in_(wanted))
    rows = [row for row in rows if row.state in wanted]
    if not rows:
        return None
    attached = volumes.of_instances(tx, [row.id for row in rows])
    hold(tx, models.Volume, [one.volume_id for one in attached])
    _require_fenced(tx, host, "compute")
    ending = [row for row in rows if row.state == "terminating"]
    broken = [row for row in rows if row.state == "error" and row.rest is None]
    going = [row for row in rows if row not in ending and row not in broken]
    _export_anew(tx, ctx, attached, {row.id for row in going})
    machine, mover = states.INSTANCE, states.FENCE
    rests = {row.id: {"rest": _comes_back(row)} for row in going}
    reasons = {row.id: {"reason": row.reason or "it never ran"} for row in broken}
    states.move_all(tx, machine, going, "scheduling", mover, ctx=ctx, each=rests, host=None)
    # together: what they release is locked in one order
    states.move_all(tx, machine, broken, "error", mover, ctx=ctx, each=reasons, host=None)
    states.move_all(tx, machine, ending, "terminated", mover, ctx=ctx)
    done(tx, ctx, [row.id for row in rows])
    return [
        Moved("instance", shown.instance_id(row), row.state, row.rest if row in going else None)
        for row in rows
    ]


def _comes_back(row: models.Instance) -> str | None:
    """running or stopped, as its user wished last; None for one that never was either."""
    if row.rest is None:
        return None
    work = states.INSTANCE.work.get(row.state)
    wish = work.success(row) if work else row.rest
    return "stopped" if wish == "stopped" else "running"


def _export_anew(
    tx: Tx, ctx: Context, attached: Sequence[models.Attachment], instance_ids: Collection[str]
) -> None:
    """What these instances hold is theirs by another export, which a host can enter only when the
    one the old host had is gone; what they were letting go of is free."""
    for one in attached:
        if one.instance_id not in instance_ids:
            continue
        if one.state == "detaching":
            states.move(tx, states.ATTACHMENT, one, "detached", states.FENCE, ctx=ctx)
        else:
            since = states.touch(tx, models.Volume, one.volume_id)
            volumes.export_anew(tx, one, secrets.encrypt(random.token_hex(16)), since)


# --- networks -------------------------------------------------------------------------------


@transaction
def _move_networks(tx: Tx, ctx: Context, host: str) -> list[Moved] | None:
    if once(tx, ctx, "host evacuate networks", None, [host]) is not None:
        return []
    _require_fenced(tx, host, "network")
    rows = _found(tx, models.Network, host, sa.true())
    if not rows:
        return None
    found = []
    for row in rows:
        found.append(Moved("network", row.name, networks.move(tx, row)))
        states.touch(tx, models.Network, row.id)
    done(tx, ctx, [row.id for row in rows])
    return found


# --- volumes --------------------------------------------------------------------------------

IN_MAKING = {"creating": "placing", "available": "error"}
VOLUME_ENDS = {**IN_MAKING, "deleting": "deleted"}


@transaction
def _leave_volumes(tx: Tx, ctx: Context, host: str, wanted: Collection[str]) -> list[Moved] | None:
    """The next volumes of the host in one of these states are in the one that VOLUME_ENDS says;
    None when there are none."""
    if once(tx, ctx, "host evacuate volumes", None, [host, sorted(wanted)]) is not None:
        return []
    rows = _found(tx, models.Volume, host, models.Volume.state.in_(wanted))
    rows = [row for row in rows if row.state in wanted]
    if not rows:
        return None
    _require_fenced(tx, host, "volume")
    for row in rows:
        to = VOLUME_ENDS[row.state]
        values: dict[str, Any] = {}
        if to == "placing":
            values = {"host": None}
        elif to == "error":
            values = {"reason": f"its bytes are on host {host}, which is fenced"}
        states.move(tx, states.VOLUME, row, to, states.FENCE, ctx=ctx, **values)
    done(tx, ctx, [row.id for row in rows])
    return [Moved("volume", shown.volume_id(row), row.state) for row in rows]
