"""Volumes: create, look, attach, detach, delete, each verb one transaction."""

from __future__ import annotations

import collections
import dataclasses
import re
import secrets as random
import string
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import errors, ids, states
from minicloud.auth import policy, secrets
from minicloud.cloud import filters, lookup, names, page, quotas, shown, zones
from minicloud.cloud import tags as labelling
from minicloud.cloud.page import Page
from minicloud.context import Context
from minicloud.db import models, volumes
from minicloud.db import tags as labels
from minicloud.db.session import Tx, done, hold, once, reading, transaction, visible

LARGEST_GIB = 16384  # AWS's own limit of most kinds
KINDS = ("standard", "gp2", "gp3")  # what they cost elsewhere is no difference here
LETTERS = string.ascii_lowercase[1:]  # a is the root disk
DEVICE = re.compile(r"(?:/dev/)?(?:sd|xvd|vd|hd)([b-z])")
# instances that have, or can be given, disks
TAKING = frozenset({"running", "stopped", "starting", "stopping", "rebooting"})

_volume, _attachment = models.Volume, models.Attachment


@dataclasses.dataclass(frozen=True)
class VolumeView:
    """`attachments` are those of which anything is left: one at most."""

    row: models.Volume
    attachments: list[models.Attachment]


def _attached_by(match: filters.Match) -> filters.Match:
    return filters.related(
        match, _attachment.volume_id == _volume.id, _attachment.state != "detached"
    )


def _held() -> Any:
    return sa.exists().where(_attachment.volume_id == _volume.id, _attachment.state != "detached")


def _status(word: str) -> Any:
    """The condition under which `shown.volume_state` says `word`."""
    named = [state for state, said in shown.VOLUME_STATES.items() if said == word]
    other = _volume.state.not_in(list(shown.VOLUME_STATES))
    if word == "in-use":
        return sa.and_(other, _held())
    if word == "available":
        return sa.and_(other, sa.not_(_held()))
    return _volume.state.in_(named)


FILTERS: Mapping[str, filters.Match] = filters.Tagged(
    _volume.id,
    {
        "attachment.device": _attached_by(filters.ascii_text(_attachment.shown)),
        "attachment.instance-id": _attached_by(filters.shown_id("i", _attachment.instance_id)),
        "attachment.status": _attached_by(filters.ascii_text(_attachment.state)),
        "availability-zone": filters.text(sa.func.coalesce(_volume.zone, _volume.wanted_zone)),
        "size": filters.number(_volume.size_gib),
        "status": filters.words(
            {
                word: _status(word)
                for word in ("creating", "available", "in-use", "deleting", "deleted", "error")
            }
        ),
        "volume-id": filters.shown_id("vol", _volume.id),
        "volume-type": filters.ascii_text(_volume.kind),
    },
)


# --- creating and finding ---------------------------------------------------------------------


def create(
    ctx: Context,
    *,
    size_gib: int,
    zone: str,
    kind: str = "standard",
    token: str | None = None,
    tags: Mapping[str, str] = {},
) -> VolumeView:
    """A volume is "placing"; repeating it with the same `token` answers with the same volume.

    InvalidValue, ZoneNotFound, VolumeLimitExceeded, TagLimitExceeded.
    """
    policy.require(ctx, "volumes")
    if not 1 <= size_gib <= LARGEST_GIB:
        raise errors.InvalidValue(
            value=size_gib, name="Size", reason=f"It is from 1 to {LARGEST_GIB} GiB."
        )
    if kind not in KINDS:
        raise errors.NotBuilt(what=f"The VolumeType {ascii(kind[:40])[1:-1]}")
    if token is not None:
        names.check_token(token)
    labelling.check(tags)
    return _create(ctx, size_gib, zone, kind, token, tags)


@transaction
def _create(
    tx: Tx,
    ctx: Context,
    size_gib: int,
    zone: str,
    kind: str,
    token: str | None,
    tags: Mapping[str, str],
) -> VolumeView:
    known = once(tx, ctx, "CreateVolume", token, [size_gib, zone, kind, dict(tags)])
    if known is None:
        if not hold(tx, models.Project, [ctx.project_id]):
            raise errors.ProjectNotFound(id=ctx.project)
        zones.check(tx, zone)
        quotas.check_volume(tx, ctx.project_id, size_gib)
        known = [ids.new()]
        row = {
            "id": known[0],
            "state": "placing",
            "project_id": ctx.project_id,
            "user_id": ctx.user_id,
            "size_gib": size_gib,
            "kind": kind,
            "wanted_zone": zone,
            "client_token": token,
        }
        states.create(tx, ctx, states.VOLUME, [row])
        labels.add(tx, ctx.project_id, "volume", known, tags)
        done(tx, ctx, known)
    return _views(tx, list(tx.scalars(sa.select(_volume).where(_volume.id.in_(known)))))[0]


@reading
def find(
    tx: Tx,
    ctx: Context,
    *,
    ids: Sequence[str] = (),
    filters: Mapping[str, Sequence[str]] = {},
    limit: int | None = None,
    after: str | None = None,
) -> Page[VolumeView]:
    """The project's volumes by id, but the deleted; with `ids` only those, or VolumeNotFound."""
    policy.require(ctx, "volumes")
    conditions = [visible(ctx, _volume), _volume.state != "deleted", *_conditions(filters)]
    if ids:
        conditions.append(_volume.id.in_([row.id for row in _named(tx, ctx, ids)]))
    found = page.read(tx, _volume, conditions, limit, after)
    return Page(_views(tx, found.items), found.next)


def _conditions(given: Mapping[str, Sequence[str]]) -> list[Any]:
    return filters.conditions(given, FILTERS)


def _views(tx: Tx, found: Sequence[models.Volume]) -> list[VolumeView]:
    """One statement for all."""
    attached: dict[str, list[models.Attachment]] = collections.defaultdict(list)
    for one in volumes.of_volumes(tx, [row.id for row in found]):
        attached[one.volume_id].append(one)
    return [VolumeView(row, attached[row.id]) for row in found]


def _named(tx: Tx, ctx: Context, ids: Sequence[str]) -> list[models.Volume]:
    return lookup.by_id(
        tx,
        ctx,
        _volume,
        "vol",
        ids,
        _volume.state != "deleted",
        malformed=errors.InvalidVolumeIdMalformed,
        missing=errors.VolumeNotFound,
    )


def _hold(tx: Tx, named: models.Volume) -> models.Volume:
    """The volume as it is now; VolumeNotFound when it was deleted meanwhile."""
    [held] = hold(tx, _volume, [named.id])
    if held.state == "deleted":
        raise errors.VolumeNotFound(id=shown.volume_id(held))
    return held


# --- attaching ------------------------------------------------------------------------------


def attach(ctx: Context, volume: str, instance: str, device: str | None) -> models.Attachment:
    """The volume is "attaching" to the instance, at `device` or at the first that is free.

    VolumeNotFound, InstanceNotFound; VolumeInUse when anything of an attachment is left;
    WrongVolumeState, WrongState; ZoneMismatch; InvalidValue for a device that is none or taken.
    """
    policy.require(ctx, "volumes")
    letter = None if device is None else letter_of(device)
    password = random.token_hex(16)
    wish = _Wish(volume, instance, letter, device, secrets.encrypt(password))
    return _attach(ctx, wish)


@dataclasses.dataclass(frozen=True)
class _Wish:
    volume: str
    instance: str
    letter: str | None
    device: str | None
    secret: str = dataclasses.field(repr=False)


def letter_of(device: str) -> str:
    """`b` for /dev/sdb, /dev/xvdb, /dev/vdb, sdb; InvalidValue for what is no place of a disk."""
    match = DEVICE.fullmatch(device)
    if match is None:
        raise errors.InvalidValue(
            value=ascii(device[:40])[1:-1],
            name="device",
            reason="It is not a valid attachment point, such as /dev/vdb to /dev/vdz.",
        )
    return match[1]


@transaction
def _attach(tx: Tx, ctx: Context, wish: _Wish) -> models.Attachment:
    arguments = [wish.volume, wish.instance, wish.device]
    known = once(tx, ctx, "AttachVolume", None, arguments)
    if known is None:
        known = [_attach_new(tx, ctx, wish)]
        done(tx, ctx, known)
    return tx.scalars(sa.select(_attachment).where(_attachment.id.in_(known))).one()


def _attach_new(tx: Tx, ctx: Context, wish: _Wish) -> str:
    [named] = _named(tx, ctx, [wish.volume])
    [found] = lookup.by_id(
        tx,
        ctx,
        models.Instance,
        "i",
        [wish.instance],
        malformed=errors.InvalidInstanceIdMalformed,
        missing=errors.InstanceNotFound,
    )
    [instance] = hold(tx, models.Instance, [found.id])
    volume = _hold(tx, named)
    _check_sides(tx, volume, instance)
    letter = _place(tx, instance, wish)
    id = ids.new()
    since = states.touch(tx, _volume, volume.id)
    states.create(
        tx,
        ctx,
        states.ATTACHMENT,
        [
            {
                "id": id,
                "state": "attaching",
                "project_id": ctx.project_id,
                "user_id": ctx.user_id,
                "volume_id": volume.id,
                "instance_id": instance.id,
                "host": instance.host,
                "device": letter,
                "shown": wish.device or f"/dev/vd{letter}",
                "secret": wish.secret,
                "since": since,
                "holds_volume": volume.id,
                "holds_device": volumes.place(instance.id, letter),
            }
        ],
    )
    return id


def _check_sides(tx: Tx, volume: models.Volume, instance: models.Instance) -> None:
    """Both are held, and can be joined."""
    vol = shown.volume_id(volume)
    for other in volumes.of_volumes(tx, [volume.id]):
        raise errors.VolumeInUse(id=vol, instance=ids.ec2("i", other.instance_id))
    if volume.state != "available":
        raise errors.WrongVolumeState(
            kind="volume", id=vol, state=shown.volume_state(volume.state, False), to="attached"
        )
    if instance.host is None or instance.state not in TAKING:
        word = shown.instance_state(instance.state, instance.rest)
        raise errors.Conflict(
            reason=f"Instance '{shown.instance_id(instance)}' is {word}, not 'running'."
        )
    if volume.zone != instance.zone:
        raise errors.ZoneMismatch(id=vol, zone=volume.zone, other=instance.zone)


def _place(tx: Tx, instance: models.Instance, wish: _Wish) -> str:
    taken = {one.device for one in volumes.of_instances(tx, [instance.id])}
    if wish.letter is None:
        free = [letter for letter in LETTERS if letter not in taken]
        if not free:
            raise errors.AttachmentLimitExceeded(
                resource="volumes in an instance", limit=len(LETTERS), used=len(taken), wanted=1
            )
        return free[0]
    if wish.letter in taken:
        raise errors.InvalidValue(
            value=wish.device,
            name="device",
            reason=f"Attachment point {wish.device} is already in use.",
        )
    return wish.letter


@transaction
def detach(
    tx: Tx,
    ctx: Context,
    volume: str,
    instance: str | None = None,
    device: str | None = None,
) -> models.Attachment:
    """The volume's attachment is "detaching", or was already; or it is detached at once, when the
    instance has no host.

    VolumeNotFound; WrongVolumeState when it is not attached; AttachmentNotFound when it is
    attached to another instance, or at another device, than is said.
    """
    policy.require(ctx, "volumes")
    known = once(tx, ctx, "DetachVolume", None, [volume, instance, device])
    if known:
        return tx.scalars(sa.select(_attachment).where(_attachment.id.in_(known))).one()
    [named] = _named(tx, ctx, [volume])
    instances = [one.instance_id for one in volumes.of_volumes(tx, [named.id])]
    homeless = {row.id for row in hold(tx, models.Instance, instances) if row.host is None}
    held = _hold(tx, named)
    found = volumes.of_volumes(tx, [held.id])
    if not found:
        word = shown.volume_state(held.state, False)
        raise errors.WrongVolumeState(
            kind="volume", id=shown.volume_id(held), state=word, to="detached"
        )
    [attachment] = found
    _check_same(attachment, instance, device)
    if attachment.instance_id in homeless:
        states.move(tx, states.ATTACHMENT, attachment, "detached", states.USER, ctx=ctx)
    elif attachment.state != "detaching":
        states.move(tx, states.ATTACHMENT, attachment, "detaching", states.USER, ctx=ctx)
    done(tx, ctx, [attachment.id])
    return attachment


def _check_same(attachment: models.Attachment, instance: str | None, device: str | None) -> None:
    vol = ids.ec2("vol", attachment.volume_id)
    if instance is not None:
        low, high = lookup.id_range("i", instance, errors.InvalidInstanceIdMalformed)
        if not low <= attachment.instance_id < high:
            raise errors.AttachmentNotFound(id=vol, to=instance)
    if device is not None and letter_of(device) != attachment.device:
        raise errors.AttachmentNotFound(id=vol, to=f"device {device}")


# --- deleting -------------------------------------------------------------------------------


@transaction
def delete(tx: Tx, ctx: Context, volume: str) -> None:
    """The volume is "deleting", or deleted at once when no host has it.

    VolumeNotFound; VolumeInUse while anything of an attachment is left.
    """
    policy.require(ctx, "volumes")
    if once(tx, ctx, "DeleteVolume", None, [volume]) is not None:
        return
    [named] = _named(tx, ctx, [volume])
    held = _hold(tx, named)
    for other in volumes.of_volumes(tx, [held.id]):
        raise errors.VolumeInUse(
            id=shown.volume_id(held), instance=ids.ec2("i", other.instance_id)
        )
    if held.host is None:
        states.move(tx, states.VOLUME, held, "deleted", states.USER, ctx=ctx)
    elif held.state != "deleting":
        states.move(tx, states.VOLUME, held, "deleting", states.USER, ctx=ctx)
    done(tx, ctx, [held.id])
