"""Instances: what a user may ask of them, each verb one transaction."""

from __future__ import annotations

import base64
import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg
from sqlalchemy import orm

from minicloud import config, errors, interfaces, rpc, states
from minicloud.auth import policy
from minicloud.cloud import filters, images, launch, lookup, names, page, shown, statuses, views
from minicloud.cloud.page import Page
from minicloud.context import Context
from minicloud.db import hosts, models, volumes
from minicloud.db.session import Tx, clock, done, hold, once, reading, transaction, visible
from minicloud.wiring import DOMAIN

CONF = config.declare(
    "instances",
    [
        cfg.IntOpt(
            "max_count",
            default=1000,
            min=1,
            help="Instances one request may ask for, whatever the quota.",
        ),
        cfg.IntOpt(
            "terminated_visible_s",
            default=3600,
            min=60,
            help="Seconds for which EC2 still shows a terminated instance: clients wait for"
            ' "terminated" and take an unknown id for an error.',
        ),
    ],
)

InstanceView = views.InstanceView

CONSOLE_BYTES = 65536  # AWS: "at least the most recent 64 KB"

_instance, _address = models.Instance, models.Address
_attachment = models.Attachment
_group, _member = models.SecurityGroup, models.GroupMember
# what lists load: no long texts, which none of them shows; ids and names
LISTED = [
    orm.defer(column, raiseload=True) for column in (_instance.user_data, _instance.public_key)
]
BRIEF = [orm.load_only(_instance.id, _instance.name, raiseload=True)]


def _in_group(match: filters.Match) -> filters.Match:
    return filters.related(
        match, _member.instance_id == _instance.id, _group.id == _member.group_id
    )


def _at_address(match: filters.Match) -> filters.Match:
    return filters.related(match, _address.instance_id == _instance.id, _address.leaving.is_(None))


def _with_volume(match: filters.Match) -> filters.Match:
    return filters.related(
        match, _attachment.instance_id == _instance.id, _attachment.state != "detached"
    )


_configured_zone: Any = sa.bindparam(
    "configured_zone", callable_=lambda: config.CONF.zone, type_=sa.String()
)

FILTERS: Mapping[str, filters.Match] = filters.Tagged(
    _instance.id,
    {
        "architecture": filters.related(
            filters.ascii_text(models.Image.architecture), models.Image.id == _instance.image_id
        ),
        "availability-zone": filters.text(
            sa.func.coalesce(_instance.zone, _instance.wanted_zone, _configured_zone)
        ),
        "block-device-mapping.device-name": _with_volume(filters.ascii_text(_attachment.shown)),
        "block-device-mapping.status": _with_volume(filters.ascii_text(_attachment.state)),
        "block-device-mapping.volume-id": _with_volume(
            filters.shown_id("vol", _attachment.volume_id)
        ),
        "client-token": filters.text(_instance.client_token),
        "group-id": _in_group(filters.shown_id("sg", _group.id)),
        "group-name": _in_group(filters.text(_group.name)),
        "image-id": images.called(_instance.image_id),
        "instance-id": filters.shown_id("i", _instance.id),
        "instance-state-code": filters.words(
            {str(code): shown.instance_in(word) for word, code in shown.INSTANCE_CODES.items()}
        ),
        "instance-state-name": filters.words(
            {word: shown.instance_in(word) for word in shown.INSTANCE_CODES}
        ),
        "instance-type": filters.text(_instance.flavor),
        "instance.group-id": _in_group(filters.shown_id("sg", _group.id)),
        "instance.group-name": _in_group(filters.text(_group.name)),
        "kernel-id": images.called(_instance.kernel_id),
        "key-name": filters.text(_instance.key_name),
        "launch-index": filters.number(_instance.launch_index),
        "owner-id": filters.ascii_text(_instance.project_id),
        "private-dns-name": _at_address(filters.ascii_text(_address.hostname + f".{DOMAIN}")),
        "private-ip-address": _at_address(filters.ascii_text(_address.address)),
        "ramdisk-id": images.called(_instance.ramdisk_id),
        "reservation-id": filters.shown_id("r", _instance.reservation_id),
    },
)


# --- running --------------------------------------------------------------------------------


def run(
    ctx: Context,
    *,
    image: str,
    count_min: int,
    count_max: int,
    flavor: str,
    kernel: str | None = None,
    ramdisk: str | None = None,
    key_name: str | None = None,
    groups: Sequence[str] = (),
    group_ids: Sequence[str] = (),
    user_data: str | None = None,
    zone: str | None = None,
    token: str | None = None,
    name: str | None = None,
    tags: Mapping[str, str] = {},
) -> list[InstanceView]:
    """From `count_min` to `count_max` instances, as many as fit, are "scheduling".

    Repeating it with the same `token` (or request id) answers with the same instances.  What is
    missing raises its own NotFound, what does not fit QuotaExceeded or NoMoreAddresses; nothing
    is left behind then.
    """
    policy.require(ctx, "instances")
    wish = launch.Wish(
        image=image,
        count_min=count_min,
        count_max=count_max,
        flavor=flavor,
        kernel=kernel,
        ramdisk=ramdisk,
        key_name=key_name,
        groups=tuple(groups),
        group_ids=tuple(group_ids),
        user_data=user_data,
        zone=zone,
        name=name,
        tags=tuple(tags.items()),
    )
    launch.check(wish, CONF.max_count)
    if token is not None:
        names.check_token(token)
    return _run(ctx, wish, token)


@transaction
def _run(tx: Tx, ctx: Context, wish: launch.Wish, token: str | None) -> list[InstanceView]:
    known = once(tx, ctx, "RunInstances", token, dataclasses.asdict(wish))
    if known is None:
        made = launch.launch(tx, ctx, wish, token)
        done(tx, ctx, [view.row.id for view in made])
        return made
    rows = tx.scalars(
        sa.select(_instance).where(_instance.id.in_(known)).order_by(_instance.launch_index)
    )
    return views.of(tx, list(rows))


# --- finding --------------------------------------------------------------------------------


@reading
def find(
    tx: Tx,
    ctx: Context,
    *,
    ids: Sequence[str] = (),
    filters: Mapping[str, Sequence[str]] = {},
    limit: int | None = None,
    after: str | None = None,
) -> Page[InstanceView]:
    """The project's instances by id, for an hour also the terminated.

    With `ids` only those; InstanceNotFound names the ones that are not there.
    """
    policy.require(ctx, "instances")
    conditions = [visible(ctx, _instance), _shown(), *_conditions(filters)]
    if ids:
        conditions.append(_instance.id.in_([row.id for row in _named(tx, ctx, ids)]))
    found = page.read(tx, _instance, conditions, limit, after, LISTED)
    return Page(views.of(tx, found.items), found.next)


def _conditions(given: Mapping[str, Sequence[str]]) -> list[Any]:
    return filters.conditions(given, FILTERS)


def _shown() -> Any:
    ended = _instance.terminated_at
    return sa.or_(ended.is_(None), ended > models.now(-CONF.terminated_visible_s))


def _named(tx: Tx, ctx: Context, ids: Sequence[str]) -> list[models.Instance]:
    return lookup.by_id(
        tx,
        ctx,
        _instance,
        "i",
        ids,
        _shown(),
        malformed=errors.InvalidInstanceIdMalformed,
        missing=errors.InstanceNotFound,
    )


@reading
def get(tx: Tx, ctx: Context, id: str) -> InstanceView:
    """The project's instance of that EC2 id or uuid; InstanceNotFound."""
    policy.require(ctx, "instances")
    return views.of(tx, _named(tx, ctx, [id]))[0]


@dataclasses.dataclass(frozen=True)
class Search:
    """What OpenStack's lists ask for; None asks for nothing.  `name` is a pattern of
    `filters.expression`, `statuses` are words of `statuses.status`."""

    ids: Sequence[str] | None = None
    name: str | None = None
    statuses: Sequence[str] | None = None
    image_id: str | None = None
    flavor: str | None = None
    key_name: str | None = None
    address: str | None = None
    reservation_id: str | None = None
    zone: str | None = None
    host: str | None = None
    project_id: str | None = None
    changed_since: datetime.datetime | None = None


@reading
def search(
    tx: Tx,
    ctx: Context,
    what: Search,
    *,
    limit: int | None = None,
    marker: str | None = None,
    everywhere: bool = False,
) -> Page[InstanceView]:
    """The project's instances but the terminated, the newest first.

    `everywhere`: those of all projects, for admins.  InvalidMarker.
    """
    found = _newest(tx, ctx, what, limit, marker, everywhere, LISTED)
    return Page(views.of(tx, found.items), found.next)


@reading
def brief(
    tx: Tx,
    ctx: Context,
    what: Search,
    *,
    limit: int | None = None,
    marker: str | None = None,
    everywhere: bool = False,
) -> Page[models.Instance]:
    """The same instances, of which only the id and the name are known."""
    return _newest(tx, ctx, what, limit, marker, everywhere, BRIEF)


def _newest(
    tx: Tx,
    ctx: Context,
    what: Search,
    limit: int | None,
    marker: str | None,
    everywhere: bool,
    options: Sequence[Any],
) -> Page[models.Instance]:
    policy.require(ctx, "instances: all" if everywhere else "instances")
    mine = sa.true() if everywhere else visible(ctx, _instance)
    conditions = [sa.and_(mine, _instance.state != "terminated"), *_wanted(what)]
    order = [(_instance.created_at, True)]
    return page.ordered(tx, _instance, conditions, order, limit, marker, options)


def _wanted(what: Search) -> list[Any]:
    zone = sa.func.coalesce(_instance.zone, _instance.wanted_zone, _configured_zone)
    same = (
        (_instance.image_id, what.image_id),
        (_instance.flavor, what.flavor),
        (_instance.key_name, what.key_name),
        (_instance.reservation_id, what.reservation_id),
        (_instance.host, what.host),
        (_instance.project_id, what.project_id),
        (zone, what.zone),
    )
    found = [filters.exactly(column, value) for column, value in same if value is not None]
    if what.ids is not None:
        found.append(_instance.id.in_([one for one in what.ids if one.isascii()]))
    if what.name is not None:
        found.append(filters.expression(_instance.name, what.name))
    if what.statuses is not None:
        found.append(statuses.condition(what.statuses))
    if what.address is not None:
        found.append(
            _at_address(lambda some: filters.expression(_address.address, some[0]))([what.address])
        )
    if what.changed_since is not None:
        found.append(_instance.updated_at >= what.changed_since)
    return found


def alive(ctx: Context, id: str) -> InstanceView:
    """The project's instance of that uuid; InstanceNotFound, also once it is terminated."""
    found = search(ctx, Search(ids=[id])).items if lookup.UUID.fullmatch(id) else []
    if not found:
        raise errors.InstanceNotFound(id=id[:80])
    return found[0]


# --- how they are ---------------------------------------------------------------------------

_host_alive: Any = (
    sa.select(models.Host.id)
    .where(models.Host.daemon == "compute", models.Host.host == _instance.host, hosts.alive())
    .exists()
)
_running = shown.instance_in("running")
_pending = shown.instance_in("pending")

# AWS's word → when it is said of an instance
HEALTH: Mapping[str, Any] = {
    "ok": sa.and_(_running, _host_alive),
    "insufficient-data": sa.and_(_running, sa.not_(_host_alive)),
    "initializing": _pending,
    "not-applicable": sa.not_(sa.or_(_running, _pending)),
}

HEALTH_FILTERS: Mapping[str, filters.Match] = filters.Tagged(
    _instance.id,
    {
        **{
            name: FILTERS[name]
            for name in ("availability-zone", "instance-state-code", "instance-state-name")
        },
        "instance-status.status": filters.words(HEALTH),
        "system-status.status": filters.words(HEALTH),
    },
)


@reading
def health(
    tx: Tx,
    ctx: Context,
    *,
    ids: Sequence[str] = (),
    filters: Mapping[str, Sequence[str]] = {},
    every: bool = False,
    limit: int | None = None,
    after: str | None = None,
) -> Page[tuple[models.Instance, str]]:
    """The project's running instances, or `every` one, with a key of HEALTH: "ok" says that it
    runs and that its host lives, not that the guest answers.  InstanceNotFound."""
    policy.require(ctx, "instances")
    conditions = [visible(ctx, _instance), _shown(), *_health_conditions(filters)]
    if not every:
        conditions.append(_running)
    if ids:
        conditions.append(_instance.id.in_([row.id for row in _named(tx, ctx, ids)]))
    found = page.read(tx, _instance, conditions, limit, after)
    of_id = _health_of(tx, [row.id for row in found.items])
    return Page([(row, of_id[row.id]) for row in found.items], found.next)


def _health_conditions(given: Mapping[str, Sequence[str]]) -> list[Any]:
    return filters.conditions(given, HEALTH_FILTERS)


def _health_of(tx: Tx, ids: Sequence[str]) -> dict[str, str]:
    said = sa.case(*[(condition, word) for word, condition in HEALTH.items()])
    statement = sa.select(_instance.id, said).where(_instance.id.in_(ids))
    found: dict[str, str] = dict(iter(tx.execute(statement)))
    return found


def console_output(ctx: Context, id: str) -> tuple[bytes, datetime.datetime]:
    """The last 64 KiB of the instance's console, and the time; empty before it has a host.

    InstanceNotFound; Unavailable when its host is down or does not answer.
    """
    row, lives, now = _looked_at(ctx, id)
    if row.host is None or row.state == "terminated" or ctx.dry_run:
        return b"", now
    if not lives:
        raise errors.Unavailable(reason=f"host {row.host} is down")
    output = rpc.ask_host(
        interfaces.Compute.console_output, ctx, row.host, id=row.id, max_bytes=CONSOLE_BYTES
    )
    return base64.b64decode(output), now


@reading
def _looked_at(tx: Tx, ctx: Context, id: str) -> tuple[models.Instance, bool, datetime.datetime]:
    """The instance, whether its host lives, and the time."""
    policy.require(ctx, "instances")
    [row] = _named(tx, ctx, [id])
    lives = tx.scalars(sa.select(_host_alive).where(_instance.id == row.id)).one()
    return row, bool(lives), clock(tx)


# --- verbs ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Change:
    """What a verb did to an instance: (state, rest) before and after it; equal when the instance
    was, or was going, where it was asked to be."""

    id: str
    ec2_id: str
    before: tuple[str, str | None]
    after: tuple[str, str | None]


@dataclasses.dataclass(frozen=True)
class Verb:
    """`to` is the working state it asks for; in one of `there` nothing is left to ask."""

    action: str
    past: str
    to: str
    there: frozenset[str]


START = Verb(
    "StartInstances",
    "started",
    "starting",
    frozenset({"scheduling", "building", "starting", "rebooting", "running"}),
)
STOP = Verb("StopInstances", "stopped", "stopping", frozenset({"stopping", "stopped"}))
REBOOT = Verb("RebootInstances", "rebooted", "rebooting", frozenset({"rebooting"}))
TERMINATE = Verb(
    "TerminateInstances",
    "terminated",
    "terminating",
    frozenset({"terminating", "terminated"}),
)


def start(ctx: Context, ids: Sequence[str], *, strict: bool = False) -> list[Change]:
    """All of them are "starting", or run, or are on their way to it.

    This and the other verbs: InstanceNotFound, WrongInstanceState, and nothing is changed when
    one of the instances cannot; repeating is harmless; a guest that does not obey is forced;
    `strict` takes one that is there already for wrong, as OpenStack does.
    """
    return _ask(ctx, _strict(START) if strict else START, ids)


def stop(ctx: Context, ids: Sequence[str], *, strict: bool = False) -> list[Change]:
    """All of them are "stopping" or stopped."""
    return _ask(ctx, _strict(STOP) if strict else STOP, ids)


def reboot(ctx: Context, ids: Sequence[str], *, strict: bool = False) -> list[Change]:
    """All of them are "rebooting"."""
    return _ask(ctx, _strict(REBOOT) if strict else REBOOT, ids)


def terminate(ctx: Context, ids: Sequence[str]) -> list[Change]:
    """All of them are "terminating" or terminated; at once when no host has them, or one that is
    fenced."""
    return _ask(ctx, TERMINATE, ids)


def _strict(verb: Verb) -> Verb:
    return dataclasses.replace(verb, there=frozenset())


@transaction
def _ask(tx: Tx, ctx: Context, verb: Verb, ids: Sequence[str]) -> list[Change]:
    policy.require(ctx, "instances")
    if not ids:
        raise errors.MissingParameter(name="InstanceId")
    known = once(tx, ctx, verb.action, None, list(ids))
    named = [row.id for row in _named(tx, ctx, ids)]
    held = {row.id: row for row in hold(tx, _instance, named)}
    rows = [held[id] for id in named]
    before = {row.id: (row.state, row.rest) for row in rows}
    if known is None:
        _move(tx, ctx, verb, [row for row in rows if row.state not in verb.there])
        done(tx, ctx, named)
    return [
        Change(row.id, shown.instance_id(row), before[row.id], (row.state, row.rest))
        for row in rows
    ]


def _on_fenced(tx: Tx, rows: Sequence[models.Instance]) -> set[str]:
    """Those of the instances' hosts that are fenced, held: nobody there can end anything, and
    what is left there goes before they act again."""
    names = {row.host for row in rows if row.host is not None}
    if not hosts.fenced(tx, names, "compute"):
        return set()
    attached = volumes.of_instances(tx, [row.id for row in rows])
    hold(tx, models.Volume, [one.volume_id for one in attached])
    return hosts.hand_over(tx, names, "compute")


def _move(tx: Tx, ctx: Context, verb: Verb, rows: Sequence[models.Instance]) -> None:
    fenced = _on_fenced(tx, rows) if verb is TERMINATE else set()
    homeless = [row for row in rows if row.host is None or row.host in fenced]
    housed = [row for row in rows if row not in homeless]
    if verb is not TERMINATE:
        for row in rows:
            if row.host is None or not states.INSTANCE.allows(row, verb.to, states.USER):
                raise errors.WrongInstanceState(
                    kind="instance", id=shown.instance_id(row), state=row.state, to=verb.past
                )
    else:
        states.move_all(tx, states.INSTANCE, homeless, "terminated", states.USER, ctx=ctx)
    states.move_all(tx, states.INSTANCE, housed, verb.to, states.USER, ctx=ctx)
