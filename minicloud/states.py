"""The state tables: which moves there are, who may make them, and what each brings with it.

`move` and `create` are the only writers of a state.  They check the table, swap the row only if
nobody else moved it, write the `events` row, release what the new state releases and leave the
nudge of the daemon that ends a working state in the transaction (DESIGN sections 2 and 11).
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import errors, interfaces, rpc
from minicloud.context import Context
from minicloud.db import addresses, groups, hosts, models, tags, volumes
from minicloud.db.session import Tx, clock

BACK = "BACK"  # a final failure moves the row to its `rest`
FOUND = "FOUND"  # … to what the host shows
KEEP = "KEEP"  # there is none: what was accepted is tried for ever
ANY = frozenset(["ANY"])  # may be asked from every state but itself and those that are final

Release = Callable[[Tx, Sequence[Any]], None]
Cascade = Callable[[Tx, Sequence[Any], "Who"], None]


@dataclasses.dataclass(frozen=True)
class Daemon:
    """The identity under which a daemon moves rows: its `hosts` row and the epoch it started."""

    id: str
    host: str
    epoch: int

    def alive(self) -> Any:
        """SQL condition: no other process has taken this daemon's place, nor was it fenced."""
        return (
            sa.select(models.Host.id)
            .where(models.Host.id == self.id, models.Host.epoch == self.epoch)
            .exists()
        )

    def require(self, tx: Tx) -> None:
        """Raise Fenced when another process has this daemon's place, or it was fenced."""
        if not tx.scalars(sa.select(sa.literal(1)).where(self.alive())).one_or_none():
            raise errors.Fenced(daemon=self.id, epoch=self.epoch)


USER = "user"  # a deciding function acts for somebody
FENCE = "fence"  # the operator acts for a host that is fenced, whose daemons cannot
Who = Daemon | str


@dataclasses.dataclass(frozen=True)
class Work:
    """A working state: which daemon's `method` ends it, and how.

    `asked` are the states a user may ask it from, or ANY; `done` may be BACK; with `back`, a row
    that has a `rest` goes back to it and only a new one to `done`; `host` is the column that names
    the acting host, None for a daemon whose processes share the work; `key` is the column that
    names the thing on the host, one worker at a time on each; `every`: the method takes all
    waiting rows at once; `ending`: it frees things, so workers are kept for it.
    """

    method: Callable[..., None]
    done: str
    failed: str = "error"
    asked: frozenset[str] = frozenset()
    back: bool = False
    host: str | None = "host"
    key: str = "id"
    every: bool = False
    ending: bool = False

    def success(self, row: Any) -> str:
        """The state in which the row's work ends when all goes well."""
        return row.rest if self.done == BACK or (self.back and row.rest) else self.done

    @property
    def topic(self) -> str:
        return rpc.topic_of(self.method)

    @property
    def name(self) -> str:
        return self.method.__name__


@dataclasses.dataclass(frozen=True)
class Machine:
    """The state table of one resource.

    work: working state → how it is asked and ended; at_once: state that no daemon's work leads to
    → states a user may ask it from; seen: settled state → settled states from which a host may
    report it; stamps: (state before, or None for any; state) → the column that gets the time of
    that move; fenced: state → states, or ANY, from which a row whose host is fenced is moved to
    it; created: the states a row may begin in; finals: no move leads out; releases: state → what
    entering it frees;
    cascades: state → moves of other rows that entering it brings with it, made by the same mover.
    """

    name: str
    model: type[Any]
    created: frozenset[str]
    work: Mapping[str, Work]
    at_once: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    seen: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    stamps: Mapping[tuple[str | None, str], str] = dataclasses.field(default_factory=dict)
    fenced: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)
    finals: frozenset[str] = frozenset()
    releases: Mapping[str, tuple[Release, ...]] = dataclasses.field(default_factory=dict)
    cascades: Mapping[str, tuple[Cascade, ...]] = dataclasses.field(default_factory=dict)
    wrong: type[errors.WrongState] = errors.WrongState

    @property
    def settled(self) -> frozenset[str]:
        ends = {work.done for work in self.work.values()} | {
            work.failed for work in self.work.values()
        }
        return frozenset(
            (ends | set(self.seen) | self.finals | {"error"})
            - {BACK, FOUND, KEEP}
            - set(self.work)
        )

    @property
    def states(self) -> frozenset[str]:
        return self.settled | self.created | set(self.work)

    def asked(self, to: str) -> frozenset[str]:
        """The states from which a user may ask for `to`."""
        work = self.work.get(to)
        before = self.at_once.get(to, frozenset()) | (work.asked if work else frozenset())
        return self._before(to, before)

    def handed_over(self, to: str) -> frozenset[str]:
        """The states from which a row is moved to `to` when its host is fenced."""
        return self._before(to, self.fenced.get(to, frozenset()))

    def _before(self, to: str, given: frozenset[str]) -> frozenset[str]:
        return self.states - self.finals - {to} if given >= ANY else given

    def stamp(self, before: str, to: str) -> dict[str, Any]:
        """The column, if any, that keeps when a row was moved so, and the database's time."""
        column = self.stamps.get((before, to)) or self.stamps.get((None, to))
        return {column: models.now()} if column else {}

    def allows(self, row: Any, to: str, who: Who) -> bool:
        if row.state in self.finals:
            return False
        if isinstance(who, Daemon):
            work = self.work.get(row.state)
            if work is None:
                return row.state in self.seen.get(to, ())
            if to in (work.success(row), work.failed):
                return True
            return (work.failed == BACK and to == row.rest) or (
                work.failed == FOUND and to in self.settled
            )
        return row.state in (self.handed_over(to) if who == FENCE else self.asked(to))


def _release_addresses(tx: Tx, rows: Sequence[Any]) -> None:
    for network_id in addresses.leave(tx, [row.id for row in rows]):
        touch(tx, models.Network, network_id)


def _release_groups(tx: Tx, rows: Sequence[Any]) -> None:
    for group_id, members in groups.leave(tx, [row.id for row in rows]).items():
        since = touch(tx, models.SecurityGroup, group_id)
        groups.remember_left(tx, group_id, members, since)


def _release_tags(tx: Tx, rows: Sequence[Any]) -> None:
    tags.forget(tx, [row.id for row in rows])


def _release_without_host(tx: Tx, rows: Sequence[Any]) -> None:
    """An instance that never got a host holds nothing but its bookings: give them back."""
    homeless = [row for row in rows if row.host is None]
    if homeless:
        _release_groups(tx, homeless)
        _release_addresses(tx, homeless)


def _release_volume(tx: Tx, rows: Sequence[Any]) -> None:
    """A detached volume and its device are free; its host stops exporting it, not before."""
    volumes.leave(tx, [row.id for row in rows])
    for volume_id in sorted({row.volume_id for row in rows}):
        touch(tx, models.Volume, volume_id)


def _forget_applied(tx: Tx, rows: Sequence[Any]) -> None:
    volumes.forget_applied(tx, [row.id for row in rows])


def _take_volumes_along(tx: Tx, rows: Sequence[Any], who: Who) -> None:
    """Attachments of an instance that comes from a fenced host are the new host's now."""
    for row in rows:
        if row.rest is not None:
            volumes.follow(tx, row.id, row.host)


def _detach_all(tx: Tx, rows: Sequence[Any], who: Who) -> None:
    """What is terminated holds no volume: its domain is gone, and every disk with it."""
    attached = volumes.of_instances(tx, [row.id for row in rows])
    move_all(tx, ATTACHMENT, attached, "detached", who)


INSTANCE = Machine(
    name="instance",
    model=models.Instance,
    created=frozenset({"scheduling"}),
    work={
        "scheduling": Work(
            interfaces.Scheduler.place_instances, done="building", host=None, every=True
        ),
        "building": Work(interfaces.Compute.build_instance, done="running", back=True),
        "starting": Work(
            interfaces.Compute.start_instance,
            asked=frozenset({"stopped"}),
            done="running",
            failed=FOUND,
        ),
        "stopping": Work(
            interfaces.Compute.stop_instance,
            asked=frozenset({"running", "error"}),
            done="stopped",
            failed=FOUND,
            ending=True,
        ),
        "rebooting": Work(
            interfaces.Compute.reboot_instance,
            asked=frozenset({"running", "stopped", "error"}),
            done="running",
            failed=FOUND,
        ),
        "terminating": Work(
            interfaces.Compute.terminate_instance,
            asked=ANY,
            done="terminated",
            failed=KEEP,
            ending=True,
        ),
    },
    at_once={"terminated": ANY},  # while no host has it: nothing to take away
    seen={
        "running": frozenset({"stopped", "error"}),
        "stopped": frozenset({"running", "error"}),
        "error": frozenset({"running", "stopped"}),
        "starting": frozenset({"running"}),  # it ran when the host went down
    },
    stamps={("building", "running"): "launched_at", (None, "terminated"): "terminated_at"},
    fenced={
        "scheduling": ANY,
        "error": frozenset({"error"}),  # it never ran: nothing is lost but its host
        "terminated": frozenset({"terminating"}),
    },
    finals=frozenset({"terminated"}),
    releases={
        # the group's `wanted` first, the network's last: the order of hold()
        "terminated": (_release_groups, _release_addresses, _release_tags),
        "error": (_release_without_host,),
    },
    # before its releases: the order of hold()
    cascades={"terminated": (_detach_all,), "building": (_take_volumes_along,)},
    wrong=errors.WrongInstanceState,
)

IMAGE = Machine(
    name="image",
    model=models.Image,
    created=frozenset({"uploading", "registering"}),
    work={
        "registering": Work(interfaces.Objectstore.register_image, done="active"),
        "deleting": Work(
            interfaces.Objectstore.delete_image, asked=ANY, done="deleted", ending=True
        ),
    },
    at_once={
        "active": frozenset({"uploading"}),  # the upload is complete: the last byte is the ask
        "deleted": frozenset({"uploading"}),  # before any daemon had a byte of it
    },
    seen={"error": frozenset({"active"}), "active": frozenset({"error"})},
    finals=frozenset({"deleted"}),
    releases={"deleted": (_release_tags,)},
)

OBJECT = Machine(
    name="object",
    model=models.Object,
    created=frozenset({"uploading"}),
    work={
        "deleting": Work(
            interfaces.Objectstore.delete_object, asked=ANY, done="deleted", ending=True
        ),
    },
    at_once={"active": frozenset({"uploading"})},  # the last byte is the ask
    seen={"active": frozenset()},
    finals=frozenset({"deleted"}),
)

VOLUME = Machine(
    name="volume",
    model=models.Volume,
    created=frozenset({"placing"}),
    work={
        "placing": Work(
            interfaces.Scheduler.place_volumes, done="creating", host=None, every=True
        ),
        "creating": Work(interfaces.Volume.create_volume, done="available"),
        "deleting": Work(
            interfaces.Volume.delete_volume,
            asked=frozenset({"creating", "available", "error"}),
            done="deleted",
            failed=FOUND,
            ending=True,
        ),
    },
    at_once={"deleted": frozenset({"placing", "error"})},  # while no host has it
    seen={"error": frozenset({"available"}), "available": frozenset({"error"})},
    fenced={
        "placing": frozenset({"creating"}),
        "error": frozenset({"available"}),
        "deleted": frozenset({"deleting"}),
    },
    finals=frozenset({"deleted"}),
    releases={"deleted": (_forget_applied, _release_tags)},
    wrong=errors.WrongVolumeState,
)

ATTACHMENT = Machine(
    name="attachment",
    model=models.Attachment,
    created=frozenset({"attaching"}),
    work={
        "attaching": Work(
            interfaces.Compute.attach_volume, done="attached", failed="detached", key="instance_id"
        ),
        "detaching": Work(
            interfaces.Compute.detach_volume,
            asked=frozenset({"attaching", "attached"}),
            done="detached",
            failed=FOUND,
            key="instance_id",
            ending=True,
        ),
    },
    at_once={"detached": ANY},  # while no host has the instance
    seen={"detached": frozenset({"attached"})},  # the guest lost it, or is terminated
    stamps={("attaching", "attached"): "attached_at"},
    fenced={"detached": ANY},
    finals=frozenset({"detached"}),
    releases={"detached": (_release_volume,)},
)

MACHINES = (INSTANCE, IMAGE, OBJECT, VOLUME, ATTACHMENT)

SYNCED: Mapping[type[Any], Callable[..., None]] = {
    models.Network: interfaces.Network.apply_network,
    models.SecurityGroup: interfaces.Compute.apply_group,
    models.Volume: interfaces.Volume.apply_exports,
}


def create(tx: Tx, ctx: Context, machine: Machine, rows: Sequence[dict[str, Any]]) -> None:
    """Insert new rows (dicts with `id` and `state`) with their events, in a constant number of
    statements; the nudge of their state goes out after the commit."""
    if not rows:
        return
    state = rows[0]["state"]
    if state not in machine.created or any(row["state"] != state for row in rows):
        raise RuntimeError(f"a {machine.name} does not begin as {state}")
    _require_served(tx, machine, state, rows)
    tx.execute(sa.insert(machine.model), [{**row, "request_id": ctx.request_id} for row in rows])
    events = [_event(machine, row["id"], ctx.request_id, USER, None, state, None) for row in rows]
    _tell(tx, events, rows[0].get("created_at"))
    for row in rows:
        _nudge(tx, machine, state, row)


def move(
    tx: Tx,
    machine: Machine,
    row: Any,
    to: str,
    who: Who,
    *,
    ctx: Context | None = None,
    **values: Any,
) -> None:
    """Compare-and-swap `row` to state `to`, or raise WrongState and change nothing.

    `who` is USER or FENCE (then `ctx` is the asker, and its request id becomes the row's) or the
    daemon that acts.  `row` itself shows the new state afterwards.  Fenced when the daemon may
    not act any more.
    """
    move_all(tx, machine, [row], to, who, ctx=ctx, **values)


def move_all(
    tx: Tx,
    machine: Machine,
    rows: Sequence[Any],
    to: str,
    who: Who,
    *,
    ctx: Context | None = None,
    each: Mapping[str, Mapping[str, Any]] = {},
    **values: Any,
) -> None:
    """`move` for many rows: one UPDATE for those that were in the same state, one INSERT of events
    and one release.  When one of them cannot be moved, none is.

    `each` has what single rows get, by id: the same columns for every row.
    """
    if not rows:
        return
    before = [row.state for row in rows]
    alike: dict[str, list[Any]] = collections.defaultdict(list)
    for row in rows:
        alike[row.state].append(row)
    for same in alike.values():
        _swap(tx, machine, same, to, who, ctx, values, each)
    name = who.id if isinstance(who, Daemon) else who
    _tell(
        tx,
        [
            _event(machine, row.id, row.request_id, name, was, to, row.reason)
            for row, was in zip(rows, before, strict=True)
        ],
    )
    for cascade in machine.cascades.get(to, ()):
        cascade(tx, rows, who)
    for release in machine.releases.get(to, ()):
        release(tx, rows)
    moved = [{"id": row.id, "host": getattr(row, "host", None)} for row in rows]
    if who == USER:
        _require_served(tx, machine, to, moved)
    for one in moved:
        _nudge(tx, machine, to, one)


def _require_served(
    tx: Tx, machine: Machine, state: str, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Unavailable when a daemon that is to end the state is of a release without its method: the
    row would stand in a state that those who act for it do not know.

    Where any process shares the work, one that knows it is enough; one that never started will.
    """
    work = machine.work.get(state)
    if work is None or rpc.serves(rpc.FIRST, work.method):
        return
    for host in {row.get(work.host) if work.host else None for row in rows}:
        versions = hosts.versions(tx, work.topic, host)
        if versions and not any(rpc.serves(version, work.method) for version in versions):
            raise rpc.too_old(work.method, host)


def _swap(
    tx: Tx,
    machine: Machine,
    rows: Sequence[Any],
    to: str,
    who: Who,
    ctx: Context | None,
    values: Mapping[str, Any],
    each: Mapping[str, Mapping[str, Any]],
) -> None:
    """The compare-and-swap of rows that are in the same state: of all of them, or it raises."""
    for row in rows:
        if not machine.allows(row, to, who):
            raise machine.wrong(kind=machine.name, id=row.id, state=row.state, to=to)
    model, before = machine.model, rows[0].state
    new: dict[str, Any] = {
        "state": to,
        "generation": model.generation + 1,
        "attempts": 0,
        "waits": 0,
        "not_before": None,
        "reason": None,
        "updated_at": models.now(),
        **machine.stamp(before, to),
        **values,
        **_by_row(model, each),
    }
    if ctx is not None:
        new["request_id"] = ctx.request_id
    if to in machine.settled and to != "error":
        new["rest"] = to
    conditions = [
        model.id.in_([row.id for row in rows]),
        model.state == before,
        sa.tuple_(model.id, model.generation).in_([(row.id, row.generation) for row in rows]),
    ]
    if isinstance(who, Daemon):
        conditions.append(who.alive())
    if tx.changed(sa.update(model).where(*conditions).values(**new)) != len(rows):
        if isinstance(who, Daemon):
            who.require(tx)
        raise machine.wrong(kind=machine.name, id=rows[0].id, state="changing", to=to)
    shown = {
        name: value for name, value in new.items() if not isinstance(value, sa.sql.ClauseElement)
    }
    for row in rows:
        mine = shown | {"generation": row.generation + 1} | dict(each[row.id] if each else {})
        tx.undo.append((row, {name: getattr(row, name) for name in mine}))
        for name, value in mine.items():
            sa.orm.attributes.set_committed_value(row, name, value)


def _by_row(model: type[Any], each: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Column → SQL for the value that the row's own id has in `each`."""
    columns = next(iter(each.values()), {})
    return {
        column: sa.case({id: own[column] for id, own in each.items()}, value=model.id)
        for column in columns
    }


def _tell(tx: Tx, events: list[dict[str, Any]], at: dt.datetime | None = None) -> None:
    """One INSERT for all of them: drivers join rows only when every column is a value, so many
    share a time that was asked for, and one takes the column's default."""
    if at is None and len(events) > 1:
        at = clock(tx)
    time = {} if at is None else {"at": at}
    tx.execute(sa.insert(models.Event), [event | time for event in events])


def _event(
    machine: Machine,
    id: str,
    request_id: str,
    who: str,
    before: str | None,
    to: str,
    reason: str | None,
) -> dict[str, Any]:
    return {
        "kind": machine.name,
        "resource_id": id,
        "request_id": request_id,
        "who": who,
        "from_state": before,
        "to_state": to,
        "reason": reason,
    }


def _nudge(tx: Tx, machine: Machine, state: str, row: Mapping[str, Any]) -> None:
    work = machine.work.get(state)
    if work is None:
        return
    if work.every and any(nudge.method is work.method for nudge in tx.after):
        return  # the method takes every waiting row: one nudge a transaction
    host = row.get(work.host) if work.host else None
    tx.after.append(rpc.Nudge(work.method, str(row["id"]), host))


def touch(tx: Tx, model: type[Any], id: str) -> int:
    """Raise `wanted` of a synced row and nudge the hosts that have a part in it.

    The value returned is what this change's joins wait for (`since`) or leave with (`leaving`).
    """
    tx.changed(sa.update(model).where(model.id == id).values(wanted=model.wanted + 1))
    wanted = int(tx.scalars(sa.select(model.wanted).where(model.id == id)).one())
    for host in hosts_of(tx, model, id):
        tx.after.append(rpc.Nudge(SYNCED[model], id, host))
    return wanted


def touch_held(tx: Tx, row: Any, **values: Any) -> int:
    """`touch` of a row that this transaction holds, which also gets these values: one UPDATE."""
    row.wanted += 1
    for name, value in values.items():
        setattr(row, name, value)
    tx.flush()
    model = type(row)
    told = groups.hosts(tx, row.id) if model is models.SecurityGroup else [row.host]
    tx.after += [rpc.Nudge(SYNCED[model], row.id, host) for host in told if host]
    return int(row.wanted)


def hosts_of(tx: Tx, model: type[Any], id: str) -> list[str]:
    """The hosts that have a part in a synced row."""
    if model is models.SecurityGroup:
        return groups.hosts(tx, id)
    return [host for host in tx.scalars(sa.select(model.host).where(model.id == id)) if host]
