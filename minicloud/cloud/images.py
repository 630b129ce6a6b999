"""Images: which there are, registering and deleting them.  Their bytes come and go by way of the
object store (`objectstore/uploads.py`)."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from minicloud import errors, ids, states
from minicloud.auth import policy
from minicloud.cloud import buckets, filters, lookup, names, page, quotas, shown
from minicloud.cloud.page import Page
from minicloud.context import Context
from minicloud.db import images as files
from minicloud.db import models
from minicloud.db.session import RunAgain, Tx, done, hold, once, reading, transaction, visible

KINDS = {prefix: kind for kind, prefix in shown.IMAGE_PREFIXES.items()}
ARCHITECTURES = ("x86_64",)
PROPERTIES = 128  # of an image

# a word must not look like the digits of an id
WORD = re.compile(r"(?!([0-9a-f]{8}|[0-9a-f]{17})$)[a-z0-9][a-z0-9.-]{0,38}")
SHOWN = re.compile(r"(ami|aki|ari)-([a-z0-9][a-z0-9.-]{0,38})")

LISTED = tuple(state for state, word in shown.IMAGE_STATES.items() if word != "deregistered")


def ec2_id(model: Any) -> Any:
    """SQL of what `shown.image_id` says."""
    prefix = sa.case(shown.IMAGE_PREFIXES, value=model.kind)
    return prefix + "-" + sa.func.coalesce(model.word, filters.shown_digits(model.id))


_image = models.Image
_part = sa.orm.aliased(models.Image)


def called(column: Any) -> filters.Match:
    """A column that names an image: matched with its EC2 id."""
    return filters.related(filters.any_id(ec2_id(_part)), _part.id == column)


FILTERS: Mapping[str, filters.Match] = filters.Tagged(
    _image.id,
    {
        "architecture": filters.ascii_text(_image.architecture),
        "image-id": filters.any_id(ec2_id(_image)),
        "image-type": filters.ascii_text(_image.kind),
        "is-public": filters.yes_or_no(_image.is_public.is_(True)),
        "kernel-id": called(_image.kernel_id),
        "name": filters.text(_image.name),
        "owner-id": filters.ascii_text(_image.project_id),
        "ramdisk-id": called(_image.ramdisk_id),
        "state": filters.words(
            {
                word: _image.state.in_(
                    [key for key, said in shown.IMAGE_STATES.items() if said == word]
                )
                for word in ("pending", "available", "failed")
            }
        ),
    },
)


@dataclasses.dataclass(frozen=True)
class ImageView:
    row: models.Image
    ec2_id: str
    kernel_ec2_id: str | None
    ramdisk_ec2_id: str | None
    owner: str


@dataclasses.dataclass(frozen=True)
class Boot:
    """What an instance boots from; all active."""

    image: models.Image
    kernel: models.Image | None
    ramdisk: models.Image | None


# --- finding --------------------------------------------------------------------------------


@reading
def find(
    tx: Tx,
    ctx: Context,
    *,
    ids: Sequence[str] = (),
    owners: Sequence[str] = (),
    executable_by: Sequence[str] = (),
    filters: Mapping[str, Sequence[str]] = {},
    limit: int | None = None,
    after: str | None = None,
) -> Page[ImageView]:
    """The project's own images and the public ones that are active, by id.

    `owners` are ids of projects or `self`; `executable_by` is `all` (the public ones) or `self`
    (the project's own).  ImageNotFound names the `ids` that are not there.
    """
    policy.require(ctx, "images")
    conditions = [_listed(ctx), *_conditions(ctx, filters)]
    if ids:
        conditions.append(_image.id.in_([row.id for row in _by_shown(tx, ctx, ids)]))
    if owners:
        conditions.append(_owned(ctx, owners))
    if executable_by:
        conditions.append(_executable(ctx, executable_by))
    found = page.read(tx, models.Image, conditions, limit, after)
    return Page(_views(tx, found.items), found.next)


@dataclasses.dataclass(frozen=True)
class Search:
    """What OpenStack's list asks for; None asks for nothing.  `begun`: bytes of it came, or are
    coming."""

    ids: Sequence[str] | None = None
    names: Sequence[str] | None = None
    states: Sequence[str] | None = None
    begun: bool | None = None
    public: bool | None = None
    owner: str | None = None
    kinds: Sequence[str] | None = None
    formats: Sequence[str] | None = None
    size_min: int | None = None
    size_max: int | None = None


# what a list may be ordered by
ORDERS: Mapping[str, Any] = {
    "created_at": _image.created_at,
    "updated_at": _image.updated_at,
    "name": _image.name,
    "size": sa.func.coalesce(_image.size, 0),
    "id": _image.id,
}


@reading
def search(
    tx: Tx,
    ctx: Context,
    what: Search,
    *,
    order: Sequence[tuple[str, bool]] = (),
    limit: int | None = None,
    marker: str | None = None,
) -> Page[models.Image]:
    """The project's own images and the public ones that are active, the newest first unless
    `order` names others of ORDERS, each with True for descending.

    InvalidMarker.
    """
    policy.require(ctx, "images")
    keys = [(ORDERS[name], down) for name, down in order or [("created_at", True)]]
    return page.ordered(tx, models.Image, [_listed(ctx), *_wanted(what)], keys, limit, marker)


def _wanted(what: Search) -> list[Any]:
    among: list[tuple[Any, Sequence[str] | None]] = [
        (_image.id, what.ids),
        (_image.state, what.states),
        (_image.kind, what.kinds),
        (_image.format, what.formats),
    ]
    found: list[Any] = [
        column.in_([one for one in values if one.isascii()])
        for column, values in among
        if values is not None
    ]
    if what.names is not None:
        found.append(_image.name.in_([one for one in what.names if filters.storable(one)]))
    if what.begun is not None:
        found.append(_image.host.is_not(None) if what.begun else _image.host.is_(None))
    if what.public is not None:
        found.append(_image.is_public.is_(what.public))
    if what.owner is not None:
        found.append(filters.exactly(_image.project_id, what.owner))
    if what.size_min is not None:
        found.append(_image.size >= what.size_min)
    if what.size_max is not None:
        found.append(_image.size <= what.size_max)
    return found


def shown_to(ctx: Context, id: str) -> models.Image:
    """The image of that uuid, if the asker's project sees it; ImageNotFound."""
    found = search(ctx, Search(ids=[id])).items if lookup.UUID.fullmatch(id) else []
    if not found:
        raise errors.ImageNotFound(id=id[:80])
    return found[0]


def _conditions(ctx: Context, given: Mapping[str, Sequence[str]]) -> list[Any]:
    found = filters.conditions(given, FILTERS)
    if filters.by_tags(given):  # nobody sees another project's tags, though its image be public
        found.append(_image.project_id == ctx.project_id)
    return found


def _listed(ctx: Context) -> Any:
    own = _image.project_id == ctx.project_id
    return sa.and_(
        visible(ctx, models.Image),
        _image.state.in_(LISTED),
        sa.or_(own, _image.state == "active"),
    )


def _owned(ctx: Context, owners: Sequence[str]) -> Any:
    wanted = [ctx.project_id if owner == "self" else owner for owner in owners]
    return _image.project_id.in_([owner for owner in wanted if owner.isascii()])


def _executable(ctx: Context, who: Sequence[str]) -> Any:
    known = {"all": _image.is_public.is_(True), "self": _image.project_id == ctx.project_id}
    return sa.or_(sa.false(), *[known[one] for one in who if one in known])


def _views(tx: Tx, rows: Sequence[models.Image]) -> list[ImageView]:
    parts = {id for row in rows for id in (row.kernel_id, row.ramdisk_id) if id}
    named = shown_ids(tx, parts)
    return [
        ImageView(
            row=row,
            ec2_id=shown.image_id(row),
            kernel_ec2_id=named.get(row.kernel_id or ""),
            ramdisk_ec2_id=named.get(row.ramdisk_id or ""),
            owner=row.project_id,
        )
        for row in rows
    ]


def shown_ids(tx: Tx, image_ids: set[str]) -> dict[str, str]:
    """uuid → EC2 id of these images, also of deleted ones; one statement."""
    if not image_ids:
        return {}
    found = tx.scalars(sa.select(models.Image).where(_image.id.in_(image_ids)))
    return {row.id: shown.image_id(row) for row in found}


def own(tx: Tx, ctx: Context, given: Sequence[str]) -> list[models.Image]:
    """The project's images called so; ImageNotFound, Forbidden for another's public one."""
    found = _by_shown(tx, ctx, given)
    for row in found:
        if row.project_id != ctx.project_id:
            raise errors.Forbidden(reason=f"{shown.image_id(row)} is another project's")
    return found


@reading
def everything(tx: Tx, ctx: Context) -> list[models.Image]:
    """All images of all projects but the deleted, by name: for the operator."""
    policy.require(ctx, "images: all")
    statement = sa.select(models.Image).where(_image.state != "deleted")
    return list(tx.scalars(statement.order_by(_image.name, _image.id)))


@reading
def by_word(tx: Tx, ctx: Context, kind: str, word: str) -> models.Image | None:
    """The image that has this word now: `machine`, `tty` for `ami-tty`.  For the operator."""
    policy.require(ctx, "images: all")
    return _with_word(tx, kind, word)


@reading
def named(tx: Tx, ctx: Context, id: str) -> models.Image:
    """The image called `ami-tty`, `aki-0123…`, or its uuid; ImageNotFound."""
    policy.require(ctx, "images: change")
    return _by_shown(tx, ctx, [id])[0]


def _with_word(tx: Tx, kind: str, word: str) -> models.Image | None:
    statement = sa.select(models.Image).where(_image.kind == kind, _image.word == word)
    return tx.scalars(statement).one_or_none()


def _by_shown(tx: Tx, ctx: Context, given: Sequence[str]) -> list[models.Image]:
    """Visible rows (an admin sees all) in the order given; ImageNotFound names the others."""
    lookup.bound(given)
    seen = sa.true() if ctx.is_admin else visible(ctx, models.Image)
    conditions = [_condition(one) for one in given]
    rows: dict[str, models.Image | None] = {}
    for start in range(0, len(given), lookup.TOGETHER):
        some = conditions[start : start + lookup.TOGETHER]
        statement = sa.select(models.Image).where(seen, _image.state.in_(LISTED), sa.or_(*some))
        for row in tx.scalars(statement):
            rows |= dict.fromkeys(_callable(row), row)
    absent = [one for one in given if rows.get(one) is None]
    if absent:
        raise errors.ImageNotFound(id=", ".join(absent))
    return [row for row in (rows[one] for one in given) if row is not None]


def _condition(given: str) -> Any:
    match = SHOWN.fullmatch(given)
    if match and WORD.fullmatch(match[2]):
        return sa.and_(_image.kind == KINDS[match[1]], _image.word == match[2])
    prefix = match[1] if match else "ami"
    low, high = lookup.id_range(prefix, given, errors.InvalidImageIdMalformed)
    return sa.and_(_image.id >= low, _image.id < high)


def _callable(row: models.Image) -> set[str]:
    """All that a row may be called; of two with the same short form either may come."""
    prefix = shown.IMAGE_PREFIXES[row.kind]
    whole = ids.ec2(prefix, row.id)
    return {shown.image_id(row), whole, whole[: len(prefix) + 9], row.id}


# --- deciding -------------------------------------------------------------------------------


def bootable(tx: Tx, ctx: Context, image: str, kernel: str | None, ramdisk: str | None) -> Boot:
    """The active images an instance boots from, held until the transaction ends.

    `kernel` and `ramdisk` take the place of the image's own.  ImageNotFound for what is not
    there, not active or of another kind; InvalidCombination for a ramdisk without a kernel.
    """
    machine = _of_kind(tx, ctx, image, "machine")
    kernel_id = _of_kind(tx, ctx, kernel, "kernel").id if kernel else machine.kernel_id
    ramdisk_id = _of_kind(tx, ctx, ramdisk, "ramdisk").id if ramdisk else machine.ramdisk_id
    if ramdisk_id and not kernel_id:
        raise errors.InvalidCombination(reason="A ramdisk needs a kernel")
    wanted = [id for id in (machine.id, kernel_id, ramdisk_id) if id]
    rows = {row.id: row for row in hold(tx, models.Image, wanted)}
    for row in rows.values():
        if row.state != "active":
            raise errors.ImageNotFound(id=shown.image_id(row))
    return Boot(rows[machine.id], rows.get(kernel_id or ""), rows.get(ramdisk_id or ""))


def _of_kind(tx: Tx, ctx: Context, id: str, kind: str) -> models.Image:
    [row] = _by_shown(tx, ctx, [id])
    if row.kind != kind:
        raise errors.ImageNotFound(id=id)
    return row


def register(
    ctx: Context,
    *,
    name: str,
    kind: str,
    word: str | None = None,
    kernel: str | None = None,
    ramdisk: str | None = None,
    public: bool = False,
    architecture: str = "x86_64",
    format: str | None = None,
    properties: Mapping[str, str] | None = None,
) -> models.Image:
    """A new image of the asker's project waits for its bytes ("uploading").

    With a word: an image that has it and is active, or whose upload has not begun, is returned if
    it is the same but for its bytes; another active one raises NameTaken; any other gives the
    word up and is deleted (an upload that broke off, or that somebody else is at).  `format` is
    what is said of the bytes until they are there; `properties` are the maker's own texts.
    ImageLimitExceeded.
    """
    policy.require(ctx, "images: publish" if public or word else "images: register")
    names.check(name, "Name")
    _check_choice(kind, "kind", list(KINDS.values()))
    _check_choice(architecture, "Architecture", ARCHITECTURES)
    if word is not None and not WORD.fullmatch(word):
        raise errors.InvalidValue(
            value=ascii(word[:40])[1:-1],
            name="word",
            reason="It has up to 39 of a-z, 0-9, . and -, and does not look like an id.",
        )
    facts = {
        "name": name,
        "kind": kind,
        "word": word,
        "is_public": public,
        "architecture": architecture,
        "project_id": ctx.project_id,
    }
    if format is not None:
        facts["format"] = format
    if properties:
        facts["properties"] = _checked_properties(properties)
    return _register(ctx, facts, kernel, ramdisk)


def register_object(
    ctx: Context,
    *,
    location: str,
    name: str,
    kernel: str | None = None,
    ramdisk: str | None = None,
    architecture: str = "x86_64",
) -> str:
    """The EC2 id of a new machine image made of the object `location` ("BUCKET/KEY": a raw or
    qcow2 disk, or a bundle's manifest); the object store copies and inspects it ("registering").

    InvalidValue when the asker may not read such an object.
    """
    policy.require(ctx, "images: register")
    names.check(name, "Name")
    _check_choice(architecture, "Architecture", ARCHITECTURES)
    facts = {
        "name": name,
        "kind": "machine",
        "word": None,
        "is_public": False,
        "architecture": architecture,
        "project_id": ctx.project_id,
        "state": "registering",
        "location": location.strip("/"),
    }
    return shown.image_id(_register(ctx, facts, kernel, ramdisk))


def _host_of(tx: Tx, ctx: Context, location: str) -> str:
    """The host whose object store has the object; InvalidValue, the same for one that is not
    there and for one of another project's."""
    bucket, _, key = location.partition("/")
    try:
        return buckets.find(tx, ctx, bucket, key.encode()).host
    except (errors.NotFound, errors.Unauthorized) as error:
        raise errors.InvalidValue(
            value=ascii(location[:80])[1:-1],
            name="ImageLocation",
            reason="It is not the bucket and key of an object that you may read.",
        ) from error


def _checked_properties(given: Mapping[str, str]) -> str:
    """JSON of them; BadRequest when they are too many or too long."""
    if len(given) > PROPERTIES:
        raise errors.BadRequest(reason=f"An image has at most {PROPERTIES} properties")
    for name, value in given.items():
        if not name or len(name) > names.LONGEST or len(value) > names.LONGEST:
            raise errors.BadRequest(
                reason=f"Names and values of properties have up to {names.LONGEST} characters"
            )
        if not filters.storable(name + value):
            raise errors.BadRequest(reason="A property has characters that are not allowed")
    return json.dumps(dict(given), sort_keys=True)


def _check_choice(value: str, parameter: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise errors.InvalidValue(
            value=ascii(value[:40])[1:-1],
            name=parameter,
            reason=f"It is one of {', '.join(choices)}.",
        )


@transaction
def _register(
    tx: Tx,
    ctx: Context,
    facts: dict[str, Any],
    kernel: str | None,
    ramdisk: str | None,
) -> models.Image:
    known = once(tx, ctx, "RegisterImage", None, [facts, kernel, ramdisk])
    if known is None:
        if not hold(tx, models.Project, [ctx.project_id]):
            raise errors.ProjectNotFound(id=ctx.project)
        parts = {
            "kernel_id": _of_kind(tx, ctx, kernel, "kernel").id if kernel else None,
            "ramdisk_id": _of_kind(tx, ctx, ramdisk, "ramdisk").id if ramdisk else None,
        }
        if "location" in facts:
            parts["host"] = _host_of(tx, ctx, facts["location"])
        before = _with_word(tx, facts["kind"], facts["word"]) if facts["word"] else None
        # all at once: one that is being deleted is not named by a new one
        named = [id for id in (parts["kernel_id"], parts["ramdisk_id"]) if id is not None]
        held = hold(tx, models.Image, [*named, *([before.id] if before else [])])
        for row in held:
            if row.id in named and row.state != "active":
                raise errors.ImageNotFound(id=shown.image_id(row))
        all_facts = facts | parts
        there = None
        if before is not None and before.word == facts["word"]:  # still, now that it is held
            there = _take_word(tx, ctx, before, all_facts)
        if there is None:
            mine = sa.and_(_image.project_id == ctx.project_id, _image.state != "deleted")
            quotas.refuse_more(tx, mine, errors.ImageLimitExceeded, "images")
            there = _insert(tx, ctx, all_facts)
        known = [there]
        done(tx, ctx, known)
    return tx.scalars(sa.select(models.Image).where(_image.id == known[0])).one()


def _take_word(tx: Tx, ctx: Context, row: models.Image, facts: Mapping[str, Any]) -> str | None:
    """The word of `row`, which is held, is free, or its id is returned: it is there already."""
    same = all(getattr(row, name) == value for name, value in facts.items())
    if same and (row.state == "active" or (row.state == "uploading" and row.host is None)):
        return row.id
    if row.state == "active":
        raise errors.NameTaken(kind="image", name=shown.image_id(row))
    _remove(tx, ctx, row)
    return None


def _insert(tx: Tx, ctx: Context, facts: Mapping[str, Any]) -> str:
    id = ids.new()
    row = {"id": id, "state": "uploading", "file": files.fresh_file(id), **facts}
    try:
        states.create(tx, ctx, states.IMAGE, [row])
    except exc.IntegrityError:  # another took the word meanwhile
        raise RunAgain from None
    return id


@transaction
def delete(tx: Tx, ctx: Context, id: str) -> None:
    """The image is "deleting", or gone at once when nobody has bytes of it.

    ImageNotFound; Forbidden for another project's public image; InUse while instances are being
    built from it, or an image names it as its kernel or ramdisk.
    """
    policy.require(ctx, "images: change")
    if once(tx, ctx, "DeregisterImage", None, [id]) is None:
        [found] = _by_shown(tx, ctx, [id])
        [row] = hold(tx, models.Image, [found.id])
        if row.project_id != ctx.project_id and not ctx.is_admin:
            raise errors.Forbidden(reason=f"The image {id} is another project's")
        _refuse_used(tx, ctx, row)
        if row.state not in ("deleting", "deleted"):
            _remove(tx, ctx, row)
        done(tx, ctx, [row.id])


def _remove(tx: Tx, ctx: Context, row: models.Image) -> None:
    """Its word is free at once, its bytes are the object store's to remove."""
    to = "deleted" if row.state == "uploading" and row.host is None else "deleting"
    states.move(tx, states.IMAGE, row, to, states.USER, ctx=ctx, word=None)


def _refuse_used(tx: Tx, ctx: Context, row: models.Image) -> None:
    instance = models.Instance
    waiting = sa.select(instance).where(
        instance.state.in_(("scheduling", "building")),
        sa.or_(
            instance.image_id == row.id,
            instance.kernel_id == row.id,
            instance.ramdisk_id == row.id,
        ),
    )
    user = tx.scalars(waiting.limit(1)).first()
    if user is not None:
        what = _named_to(ctx, user, "instance", shown.instance_id)
        reason = f"{what} is being built from it"
        raise errors.InUse(kind="image", name=shown.image_id(row), reason=reason)
    naming = sa.select(models.Image).where(
        sa.or_(_image.kernel_id == row.id, _image.ramdisk_id == row.id),
        _image.state.in_(states.IMAGE.states - {"deleting", "deleted", "error"}),
    )
    image = tx.scalars(naming.limit(1)).first()
    if image is not None:
        what = _named_to(ctx, image, "image", shown.image_id)
        raise errors.InUse(kind="image", name=shown.image_id(row), reason=f"{what} boots with it")


def _named_to(ctx: Context, row: Any, kind: str, id: Callable[[Any], str]) -> str:
    """A thing in words; of another project's nobody learns which."""
    if row.project_id == ctx.project_id or ctx.is_admin:
        return f"the {kind} {id(row)}"
    return f"another project's {kind}"
