"""Tags: labels that a project puts on its own things, and finds them by.

What may be said in one: EC2 user guide, "Tag your Amazon EC2 resources", tag restrictions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import errors, ids
from minicloud.auth import policy
from minicloud.cloud import filters, images, lookup, page
from minicloud.cloud.page import Page
from minicloud.context import Context
from minicloud.db import models
from minicloud.db import tags as labels
from minicloud.db.session import Tx, done, hold, once, reading, transaction, visible

MOST = 50  # tags of a thing
LONGEST_NAME = 127  # characters
LONGEST_VALUE = 255
RESERVED = "aws:"

_tag = models.Tag


@dataclasses.dataclass(frozen=True)
class Kind:
    """Things that can have tags.  `named` finds their rows, of the asker's project, by EC2 id;
    `gone` is the state in which they have given back all they had, `locked` that they can be
    held (a key pair's project is held instead)."""

    name: str
    prefixes: tuple[str, ...]
    model: Any
    named: Callable[[Tx, Context, Sequence[str]], list[Any]]
    missing: type[errors.NotFound]
    gone: str | None = None
    locked: bool = True


def _by_id(
    model: Any, prefix: str, malformed: type[errors.MalformedId], missing: type[errors.NotFound]
) -> Callable[[Tx, Context, Sequence[str]], list[Any]]:
    def named(tx: Tx, ctx: Context, shown: Sequence[str]) -> list[Any]:
        return lookup.by_id(tx, ctx, model, prefix, shown, malformed=malformed, missing=missing)

    return named


# in the order in which rows are held
KINDS = (
    Kind(
        name="instance",
        prefixes=("i",),
        model=models.Instance,
        named=_by_id(
            models.Instance, "i", errors.InvalidInstanceIdMalformed, errors.InstanceNotFound
        ),
        missing=errors.InstanceNotFound,
        gone="terminated",
    ),
    Kind(
        name="volume",
        prefixes=("vol",),
        model=models.Volume,
        named=_by_id(models.Volume, "vol", errors.InvalidVolumeIdMalformed, errors.VolumeNotFound),
        missing=errors.VolumeNotFound,
        gone="deleted",
    ),
    Kind(
        name="image",
        prefixes=("ami", "aki", "ari"),
        model=models.Image,
        named=images.own,
        missing=errors.ImageNotFound,
        gone="deleted",
    ),
    Kind(
        name="security-group",
        prefixes=("sg",),
        model=models.SecurityGroup,
        named=_by_id(
            models.SecurityGroup, "sg", errors.InvalidGroupIdMalformed, errors.GroupNotFound
        ),
        missing=errors.GroupNotFound,
    ),
    Kind(
        name="key-pair",
        prefixes=("key",),
        model=models.KeyPair,
        named=_by_id(models.KeyPair, "key", errors.MalformedId, errors.KeyPairNotFound),
        missing=errors.KeyPairNotFound,
        locked=False,
    ),
)

_image_id: Any = (
    sa.select(images.ec2_id(models.Image))
    .where(models.Image.id == _tag.resource_id)
    .correlate(_tag)
    .scalar_subquery()
)
_plain_id: Any = (
    sa.case({kind.name: kind.prefixes[0] for kind in KINDS}, value=_tag.kind)
    + "-"
    + filters.shown_digits(_tag.resource_id)
)

FILTERS: Mapping[str, filters.Match] = {
    "key": filters.text(_tag.name),
    "resource-id": filters.any_id(sa.func.coalesce(_image_id, _plain_id)),
    "resource-type": filters.ascii_text(_tag.kind),
    "value": filters.text(_tag.value),
}


def check(tags: Mapping[str, str]) -> None:
    """Return when names and values are such as tags may have; InvalidValue, TagLimitExceeded."""
    _refuse_more(0, tags)
    for name, value in tags.items():
        _check_text(name, "Tag.Key", LONGEST_NAME)
        _check_text(value, "Tag.Value", LONGEST_VALUE)
        if not name:
            raise errors.InvalidValue(value="", name="Tag.Key", reason="It is empty.")
        if name.lower().startswith(RESERVED):
            raise errors.InvalidValue(
                value=name, name="Tag.Key", reason=f"Names with {RESERVED} are reserved."
            )


def _check_text(text: str, parameter: str, longest: int) -> None:
    # databases disagree on whether a blank at the end counts
    if len(text) > longest or text != text.strip() or not filters.storable(text):
        raise errors.InvalidValue(
            value=ascii(text[:40])[1:-1],
            name=parameter,
            reason=f"It has at most {longest} characters, none of them a control character, and"
            " neither begins nor ends with a blank.",
        )


def _refuse_more(used: int, wanted: Mapping[str, str]) -> None:
    if used + len(wanted) > MOST:
        raise errors.TagLimitExceeded(
            resource="tags of a thing", limit=MOST, used=used, wanted=len(wanted)
        )


# --- finding --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class TagView:
    row: models.Tag
    resource_ec2_id: str


@reading
def find(
    tx: Tx,
    ctx: Context,
    *,
    filters: Mapping[str, Sequence[str]] = {},
    limit: int | None = None,
    after: str | None = None,
) -> Page[TagView]:
    """The project's tags, in no order that means anything."""
    policy.require(ctx, "tags")
    found = page.read(tx, _tag, [visible(ctx, _tag), *_conditions(filters)], limit, after)
    named = images.shown_ids(tx, {row.resource_id for row in found.items if row.kind == "image"})
    prefixes = {kind.name: kind.prefixes[0] for kind in KINDS}
    views = [
        TagView(
            row,
            named.get(row.resource_id) or ids.ec2(prefixes.get(row.kind, "x"), row.resource_id),
        )
        for row in found.items
    ]
    return Page(views, found.next)


def _conditions(given: Mapping[str, Sequence[str]]) -> list[Any]:
    return filters.conditions(given, FILTERS)


@reading
def of(tx: Tx, ctx: Context, resource_ids: Sequence[str]) -> Mapping[str, Mapping[str, str]]:
    """uuid → name → value of the tags that the project has on these things."""
    return labels.of(tx, ctx.project_id, resource_ids)


# --- deciding -------------------------------------------------------------------------------


@transaction
def create(tx: Tx, ctx: Context, ids: Sequence[str], tags: Mapping[str, str]) -> None:
    """Each of the things has each of the tags, whatever value it had before.

    ThingNotFound or the kind's own NotFound; InvalidValue; TagLimitExceeded.  All or nothing.
    """
    policy.require(ctx, "tags")
    check(tags)
    if once(tx, ctx, "CreateTags", None, [list(ids), dict(tags)]) is None:
        hold(tx, models.Project, [ctx.project_id])
        for kind, rows in _named(tx, ctx, ids):
            _put(tx, ctx, kind, _held(tx, kind, rows), tags)
        done(tx, ctx, [])


def _put(tx: Tx, ctx: Context, kind: Kind, things: list[str], tags: Mapping[str, str]) -> None:
    labels.forget(tx, things, _tag.name.in_(list(tags)))
    there = labels.of(tx, ctx.project_id, things)
    for thing in things:
        _refuse_more(len(there.get(thing, {})), tags)
    labels.add(tx, ctx.project_id, kind.name, things, tags)


def _held(tx: Tx, kind: Kind, rows: Sequence[Any]) -> list[str]:
    """The uuids, locked where that can be; what is gone, or went meanwhile, is not there."""
    if not kind.locked:
        return [row.id for row in rows]
    held = hold(tx, kind.model, [row.id for row in rows])
    alive = [row.id for row in held if kind.gone is None or row.state != kind.gone]
    absent = {row.id for row in rows} - set(alive)
    if absent:
        shown = ", ".join(ids.ec2(kind.prefixes[0], id) for id in sorted(absent))
        raise kind.missing(id=shown)
    return alive


@transaction
def delete(
    tx: Tx,
    ctx: Context,
    ids: Sequence[str],
    tags: Sequence[tuple[str, str | None]],
) -> None:
    """None of the things has any of these tags (name, and value unless that is None), without
    `tags` none at all; what it never had is a success.  ThingNotFound or the kind's own."""
    policy.require(ctx, "tags")
    if once(tx, ctx, "DeleteTags", None, [list(ids), list(tags)]) is None:
        which = [
            _tag.name == name if value is None else sa.and_(_tag.name == name, _tag.value == value)
            for name, value in tags
        ]
        conditions = [sa.or_(*which)] if which else []
        for _, rows in _named(tx, ctx, ids):
            labels.forget(tx, [row.id for row in rows], *conditions)
        done(tx, ctx, [])


def _named(tx: Tx, ctx: Context, given: Sequence[str]) -> list[tuple[Kind, list[Any]]]:
    """The rows of these things, kind by kind."""
    lookup.bound(given)
    by_prefix = {prefix: kind for kind in KINDS for prefix in kind.prefixes}
    asked: dict[str, list[str]] = {}
    for one in given:
        prefix = one.partition("-")[0]
        if prefix not in by_prefix:
            raise errors.ThingNotFound(id=one[:80])
        asked.setdefault(by_prefix[prefix].name, []).append(one)
    return [(kind, kind.named(tx, ctx, asked[kind.name])) for kind in KINDS if kind.name in asked]
