"""Buckets, objects and multipart uploads: what S3's verbs decide.

Bytes are the object store's: a row with a fresh file name is committed first ("uploading"), then
the file is written, then one transaction makes the row what its key means and sends the one before
to its end.  All that changes what is in a bucket holds the bucket's row.

Repeating any of this is harmless by itself, so nothing is remembered in `requests`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from minicloud import errors, ids, states
from minicloud.auth import policy
from minicloud.cloud import quotas
from minicloud.context import Context
from minicloud.db import models, objects
from minicloud.db.session import RunAgain, Tx, hold, reading, transaction, visible

NAME = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?:[a-z0-9]|[.-](?![.-]))*[a-z0-9]")
PARTS = 10_000  # of one upload, as S3 has it
SMALLEST_PART = 5 << 20  # bytes, of all parts but the last

DENIED = "Access Denied"
# what a put or delete wants of the object that is there: raises PreconditionFailed
Condition = Callable[[models.Object | None], None]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of bytes once they are on disk."""

    size: int
    etag: str
    checksums: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Piece:
    """One of the parts an upload is completed with, as the client names it."""

    number: int
    etag: str
    checksums: Mapping[str, str]


# --- buckets --------------------------------------------------------------------------------


def check_member(ctx: Context) -> None:
    """The asker may have buckets; AccessDenied for nobody and for who is in no project."""
    try:
        policy.require(ctx, "buckets")
    except errors.Forbidden:
        raise errors.AccessDenied(reason=DENIED) from None


@transaction
def create(tx: Tx, ctx: Context, name: str, public: bool) -> None:
    """The bucket is there; InvalidBucketName, BucketAlreadyExists, BucketAlreadyOwnedByYou,
    TooManyBuckets."""
    check_member(ctx)
    if not 3 <= len(name) <= 63 or not NAME.fullmatch(name):
        raise errors.InvalidBucketName(bucket=ascii(name[:63])[1:-1])
    if not hold(tx, models.Project, [ctx.project_id]):
        raise errors.AccessDenied(reason=DENIED)
    known = tx.scalars(sa.select(models.Bucket).where(models.Bucket.name == name)).one_or_none()
    if known is not None and known.project_id == ctx.project_id:
        raise errors.BucketAlreadyOwnedByYou(bucket=name)
    if known is not None:
        raise errors.BucketAlreadyExists(bucket=name)
    mine = models.Bucket.project_id == ctx.project_id
    quotas.refuse_more(tx, mine, errors.TooManyBuckets, "buckets")
    row = {"id": ids.new(), "name": name, "project_id": ctx.project_id, "is_public": public}
    try:
        tx.execute(sa.insert(models.Bucket), [row])
    except exc.IntegrityError:
        raise RunAgain from None


@transaction
def remove(tx: Tx, ctx: Context, name: str) -> list[str]:
    """The bucket is gone, its uploads too; BucketNotEmpty.  Names of files to remove."""
    bucket = objects.held_bucket(tx, _owned(tx, ctx, name).id)
    model = models.Object
    inside = sa.select(model.id).where(model.bucket_id == bucket.id, model.live.is_not(None))
    if tx.scalars(inside.limit(1)).first() is not None:
        raise errors.BucketNotEmpty(bucket=name)
    uploads = sa.select(models.Upload.id).where(models.Upload.bucket_id == bucket.id)
    files = [file for id in tx.scalars(uploads) for file in objects.forget_upload(tx, id)]
    tx.changed(sa.delete(models.Bucket).where(models.Bucket.id == bucket.id))
    return files


@reading
def own(tx: Tx, ctx: Context) -> list[models.Bucket]:
    """The project's buckets, by name."""
    check_member(ctx)
    mine = models.Bucket.project_id == ctx.project_id
    return list(tx.scalars(sa.select(models.Bucket).where(mine).order_by(models.Bucket.name)))


@reading
def owned(tx: Tx, ctx: Context, name: str) -> models.Bucket:
    """The asker's bucket; NoSuchBucket, AccessDenied for another project's."""
    return _owned(tx, ctx, name)


@reading
def readable(tx: Tx, ctx: Context, name: str) -> models.Bucket:
    """A bucket the asker may list; NoSuchBucket, AccessDenied."""
    return _visible(tx, ctx, name)


@transaction
def publish(tx: Tx, ctx: Context, name: str, public: bool) -> None:
    """Everybody may list the bucket, or only its project."""
    row = _owned(tx, ctx, name)
    tx.changed(sa.update(models.Bucket).where(models.Bucket.id == row.id).values(is_public=public))


def _owned(tx: Tx, ctx: Context, name: str) -> models.Bucket:
    row = objects.bucket(tx, name)
    if not ctx.project_id or row.project_id != ctx.project_id:
        raise errors.AccessDenied(reason=DENIED)
    return row


def _visible(tx: Tx, ctx: Context, name: str) -> models.Bucket:
    row = objects.bucket(tx, name)
    seen = sa.select(models.Bucket.id).where(
        models.Bucket.id == row.id, visible(ctx, models.Bucket)
    )
    if tx.scalars(seen).one_or_none() is None:
        raise errors.AccessDenied(reason=DENIED)
    return row


# --- objects --------------------------------------------------------------------------------


@reading
def get(tx: Tx, ctx: Context, bucket: str, key: bytes) -> models.Object:
    """The object the asker may read; NoSuchBucket, NoSuchKey, AccessDenied.

    Who may not list the bucket is not told whether a key is there (S3 API, GetObject).
    """
    return find(tx, ctx, bucket, key)


def find(tx: Tx, ctx: Context, bucket: str, key: bytes) -> models.Object:
    """`get` within a transaction."""
    home = objects.bucket(tx, bucket)
    model = models.Object
    statement = sa.select(model).where(
        model.bucket_id == home.id, model.live == key, visible(ctx, model)
    )
    row = tx.scalars(statement).one_or_none()
    if row is None:
        _visible(tx, ctx, bucket)
        if objects.live(tx, home.id, key) is not None:
            raise errors.AccessDenied(reason=DENIED)
        raise errors.NoSuchKey
    return row


@reading
def listing(
    tx: Tx,
    ctx: Context,
    bucket: str,
    *,
    prefix: bytes,
    delimiter: bytes,
    after: bytes,
    limit: int,
) -> objects.Listing:
    """A page of the bucket's keys; NoSuchBucket, AccessDenied."""
    row = _visible(tx, ctx, bucket)
    if limit == 0:
        return objects.Listing([], [], False, b"")
    return objects.listing(tx, row.id, prefix, delimiter, after, limit)


@transaction
def begin(
    tx: Tx,
    ctx: Context,
    bucket: str,
    key: bytes,
    me: states.Daemon,
    *,
    id: str,
    public: bool,
    headers: Mapping[str, str],
) -> models.Object:
    """The row `id` waits for its bytes at this daemon; nothing is shown of it yet."""
    home = _owned(tx, ctx, bucket)
    return _insert(tx, ctx, home, key, me, id=id, is_public=public, headers=json.dumps(headers))


def _insert(
    tx: Tx, ctx: Context, home: models.Bucket, key: bytes, me: states.Daemon, **values: Any
) -> models.Object:
    row = {
        "state": "uploading",
        "bucket_id": home.id,
        "project_id": home.project_id,
        "key": key,
        "file": objects.fresh_file("object", values["id"]),
        "host": me.host,
        **values,
    }
    states.create(tx, ctx, states.OBJECT, [row])
    _alive(tx, me)
    return tx.scalars(sa.select(models.Object).where(models.Object.id == values["id"])).one()


def _alive(tx: Tx, me: states.Daemon) -> None:
    if not tx.scalars(sa.select(me.alive())).one():
        raise errors.Fenced(daemon=me.id, epoch=me.epoch)


@transaction
def finish(
    tx: Tx, ctx: Context, row: models.Object, facts: Facts, condition: Condition
) -> models.Object:
    """The object is what its key means, the one before is on its way out.

    NoSuchBucket when the bucket is gone; what `condition` raises about the one before.
    """
    objects.held_bucket(tx, row.bucket_id)
    _replace(tx, ctx, row, facts, condition)
    return row


def _replace(tx: Tx, ctx: Context, row: models.Object, facts: Facts, condition: Condition) -> None:
    before = objects.live(tx, row.bucket_id, row.key)
    condition(before)
    if before is not None:
        states.move(tx, states.OBJECT, before, "deleting", states.USER, ctx=ctx, live=None)
    states.move(
        tx,
        states.OBJECT,
        row,
        "active",
        states.USER,
        ctx=ctx,
        live=row.key,
        size=facts.size,
        etag=facts.etag,
        checksums=json.dumps(facts.checksums),
    )


@reading
def allows(tx: Tx, bucket: str, key: bytes, condition: Condition) -> None:
    """What `condition` raises about the object that is there: before bytes come in vain."""
    condition(objects.live(tx, objects.bucket(tx, bucket).id, key))


@transaction
def delete(
    tx: Tx, ctx: Context, bucket: str, asked: Sequence[tuple[bytes, Condition]]
) -> list[errors.Error | None]:
    """None of the keys is there any more but those whose condition forbids it: what it raised,
    for each key in its place.  NoSuchBucket, AccessDenied."""
    home = objects.held_bucket(tx, _owned(tx, ctx, bucket).id)
    return [_delete(tx, ctx, objects.live(tx, home.id, key), wants) for key, wants in asked]


def _delete(
    tx: Tx, ctx: Context, row: models.Object | None, condition: Condition
) -> errors.Error | None:
    try:
        condition(row)
    except errors.PreconditionFailed as error:
        return error
    if row is not None:
        states.move(tx, states.OBJECT, row, "deleting", states.USER, ctx=ctx, live=None)
    return None


@transaction
def publish_object(tx: Tx, ctx: Context, bucket: str, key: bytes, public: bool) -> None:
    """Everybody may read the object, or only its project; NoSuchKey."""
    home = objects.held_bucket(tx, _owned(tx, ctx, bucket).id)
    row = objects.live(tx, home.id, key)
    if row is None:
        raise errors.NoSuchKey
    tx.changed(sa.update(models.Object).where(models.Object.id == row.id).values(is_public=public))


# --- multipart uploads ----------------------------------------------------------------------


@transaction
def begin_upload(
    tx: Tx,
    ctx: Context,
    bucket: str,
    key: bytes,
    *,
    public: bool,
    headers: Mapping[str, str],
    checksum: str | None,
    checksum_type: str | None,
) -> str:
    """The id of a new upload; TooManyUploads."""
    home = objects.held_bucket(tx, _owned(tx, ctx, bucket).id)
    quotas.refuse_more(tx, models.Upload.bucket_id == home.id, errors.TooManyUploads, "uploads")
    id = ids.new()
    row = {
        "id": id,
        "bucket_id": home.id,
        "key": key,
        "is_public": public,
        "headers": json.dumps(headers),
        "checksum": checksum,
        "checksum_type": checksum_type,
    }
    tx.execute(sa.insert(models.Upload), [row])
    return id


@transaction
def begin_part(
    tx: Tx, ctx: Context, bucket: str, key: bytes, upload_id: str, me: states.Daemon, id: str
) -> models.Part:
    """The row `id` waits for a part's bytes at this daemon; NoSuchUpload."""
    home = objects.held_bucket(tx, _owned(tx, ctx, bucket).id)
    objects.upload(tx, home.id, key, upload_id)
    row = models.Part(
        id=id, upload_id=upload_id, file=objects.fresh_file("part", id), host=me.host
    )
    tx.add(row)
    tx.flush()
    _alive(tx, me)
    return row


@transaction
def finish_part(
    tx: Tx, ctx: Context, bucket: str, key: bytes, row: models.Part, number: int, facts: Facts
) -> list[str]:
    """The part has this number, in place of one before; the names of files to remove."""
    home = objects.held_bucket(tx, _owned(tx, ctx, bucket).id)
    objects.upload(tx, home.id, key, row.upload_id)
    model = models.Part
    before = (model.upload_id == row.upload_id, model.number == number)
    files = list(tx.scalars(sa.select(model.file).where(*before)))
    tx.changed(sa.delete(model).where(*before))
    values = {
        "number": number,
        "size": facts.size,
        "etag": facts.etag,
        "checksums": json.dumps(facts.checksums),
    }
    if tx.changed(sa.update(model).where(model.id == row.id).values(**values)) != 1:
        raise errors.NoSuchUpload
    return files


@transaction
def forget_part(tx: Tx, id: str) -> bool:
    """A part whose bytes did not all come has no row; False: it is whole, and has its row still.

    That is so when only the answer to `finish_part` was lost.
    """
    model = models.Part
    tx.changed(sa.delete(model).where(model.id == id, model.number.is_(None)))
    return tx.scalars(sa.select(model.id).where(model.id == id)).one_or_none() is None


@reading
def parts(
    tx: Tx, ctx: Context, bucket: str, key: bytes, id: str
) -> tuple[models.Upload, list[models.Part]]:
    """The upload and its parts by number; NoSuchUpload."""
    found = objects.upload(tx, _owned(tx, ctx, bucket).id, key, id)
    return found, objects.parts(tx, id)


@reading
def uploads(tx: Tx, ctx: Context, bucket: str, prefix: bytes) -> list[models.Upload]:
    """The uploads of the bucket that are not complete, by key."""
    home = _owned(tx, ctx, bucket)
    model = models.Upload
    statement = sa.select(model).where(model.bucket_id == home.id)
    found = [row for row in tx.scalars(statement) if row.key.startswith(prefix)]
    return sorted(found, key=lambda row: (row.key, row.id))


@transaction
def abort(tx: Tx, ctx: Context, bucket: str, key: bytes, id: str) -> list[str]:
    """The upload is gone; the names of files to remove.  NoSuchUpload."""
    home = objects.held_bucket(tx, _owned(tx, ctx, bucket).id)
    return objects.forget_upload(tx, objects.upload(tx, home.id, key, id).id)


@reading
def completed(tx: Tx, ctx: Context, bucket: str, key: bytes, id: str) -> models.Object | None:
    """The object that the upload became, if its answer was lost and it is still there."""
    row = objects.live(tx, _owned(tx, ctx, bucket).id, key)
    return row if row is not None and row.upload_id == id else None


@transaction
def begin_complete(
    tx: Tx,
    ctx: Context,
    bucket: str,
    key: bytes,
    upload_id: str,
    me: states.Daemon,
    *,
    id: str,
    pieces: Sequence[Piece],
) -> tuple[models.Object, models.Upload, list[models.Part]]:
    """The row `id` waits for the bytes of these parts, which are returned in their order.

    NoSuchUpload, InvalidPartOrder, InvalidPart, EntityTooSmall.
    """
    home = objects.held_bucket(tx, _owned(tx, ctx, bucket).id)
    found = objects.upload(tx, home.id, key, upload_id)
    chosen = _chosen({row.number: row for row in objects.parts(tx, upload_id)}, pieces)
    row = _insert(
        tx,
        ctx,
        home,
        key,
        me,
        id=id,
        is_public=found.is_public,
        headers=found.headers,
        upload_id=upload_id,
    )
    return row, found, chosen


def _chosen(parts: Mapping[int | None, models.Part], pieces: Sequence[Piece]) -> list[models.Part]:
    numbers = [piece.number for piece in pieces]
    if numbers != sorted(set(numbers)):
        raise errors.InvalidPartOrder
    for piece in pieces:
        part = parts.get(piece.number)
        if part is None or part.etag != piece.etag:
            raise errors.InvalidPart(number=piece.number)
        stored = json.loads(part.checksums)
        if any(stored.get(name, value) != value for name, value in piece.checksums.items()):
            raise errors.InvalidPart(number=piece.number)
    chosen = [parts[number] for number in numbers]
    for part in chosen[:-1]:
        if (part.size or 0) < SMALLEST_PART:
            raise errors.EntityTooSmall(number=part.number, limit=SMALLEST_PART)
    return chosen


@transaction
def complete(
    tx: Tx,
    ctx: Context,
    row: models.Object,
    facts: Facts,
    chosen: Collection[str],
    condition: Condition,
) -> list[str]:
    """The upload is an object and no upload any more; the names of files to remove.

    NoSuchUpload when it was aborted meanwhile, InvalidPart when one of the parts `chosen` (ids)
    was replaced.
    """
    objects.held_bucket(tx, row.bucket_id)
    upload_id = row.upload_id or ""
    objects.upload(tx, row.bucket_id, row.key, upload_id)
    left = {part.id for part in objects.parts(tx, upload_id)}
    if not left.issuperset(chosen):
        raise errors.InvalidPart(number="of this upload")
    _replace(tx, ctx, row, facts, condition)
    return objects.forget_upload(tx, upload_id)
