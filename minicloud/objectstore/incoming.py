"""Bytes of objects and parts on their way in: row first, then file, then the row says so.

Whatever goes wrong in between, the row is given up and the file goes; when this process dies in
between, the next one's start and sweep do the same.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO

from minicloud import context, errors, ids
from minicloud.checkpoint import checkpoint
from minicloud.cloud import buckets
from minicloud.cloud.buckets import Facts
from minicloud.db import models
from minicloud.objectstore import bodies, checksums, conditions, requests, store, uploads
from minicloud.objectstore.manager import Manager
from minicloud.objectstore.requests import Call

LOG = logging.getLogger(__name__)

LARGEST_OBJECT = 5 << 40  # bytes, as S3 has it
TYPE = checksums.PREFIX + "type"


def discard(files: Sequence[str]) -> None:
    """Files that no row names any more are gone; those left by a death the sweep removes."""
    checkpoint("discard.begun")
    for name in files:
        try:
            store.remove(name)
        except OSError as error:  # what was asked for is done all the same
            LOG.warning("%s is left to the sweep: %s", name, error)


def opened(call: Call) -> tuple[models.Object, IO[bytes]]:
    """The object and its open file: an overwrite or delete from now on does not matter."""
    return open_object(call.manager, call.signed.ctx, call.bucket, call.key)


def open_object(
    manager: Manager, ctx: context.Context, bucket: str, key: bytes
) -> tuple[models.Object, IO[bytes]]:
    """The object the asker may read and its open file; Unavailable when its bytes are missing."""
    before = ""
    while True:
        row = buckets.get(ctx, bucket, key)
        if row.host != manager.me.host:
            raise errors.Unavailable(reason=f"the object is at the object store of {row.host}")
        try:
            return row, _whole(row)
        except OSError as error:
            if row.id == before:  # nobody has overwritten it meanwhile
                LOG.error("object %s: %s", row.id, error)
                raise errors.Unavailable(reason="the object's bytes are missing") from None
            before = row.id


def _whole(row: models.Object) -> IO[bytes]:
    """The object's open file; OSError unless all its bytes are there."""
    file = store.opened(row.file)
    found = os.fstat(file.fileno()).st_size
    if found != row.size:
        file.close()
        raise OSError(f"{row.file} has {found} bytes, not {row.size}")
    return file


# --- whole objects --------------------------------------------------------------------------


@contextlib.contextmanager
def _received(manager: Manager, ctx: context.Context) -> Iterator[str]:
    """An id whose row is this request's own; the row is given up unless it became active."""
    id = ids.new()
    manager.receiving.add(id)
    try:
        yield id
    except Exception as error:
        reason = str(error) if isinstance(error, errors.Error) else "internal error"
        try:
            uploads.give_up_object(ctx, id, reason)
        except errors.Error as away:
            LOG.warning("object %s: left to the next sweep: %s", id, away)
        raise
    finally:
        manager.receiving.discard(id)


def put(call: Call) -> models.Object:
    """The body is what the key means from now on."""
    requests.refuse_unbuilt(call.headers)
    ctx, headers = call.signed.ctx, requests.kept(call.headers)
    public, body = requests.public(call.headers), bodies.Body(call.request, call.signed)
    condition = functools.partial(conditions.put, call.headers)
    with _received(call.manager, ctx) as id:
        row = buckets.begin(
            ctx, call.bucket, call.key, call.manager.me, id=id, public=public, headers=headers
        )
        buckets.allows(call.bucket, call.key, condition)
        facts = _take(body, row.file)
        return _finish(ctx, row, facts, condition)


def _take(body: bodies.Body, file: str) -> Facts:
    """The body is in the file and right."""
    try:
        size = store.save(file, body.read, body.length, body.sums.update, "put_object.written")
    except store.Truncated:
        raise errors.IncompleteBody from None
    sums = body.verify()
    if sums:
        sums[TYPE] = "FULL_OBJECT"
    return Facts(size, body.sums.md5.hex(), sums)


def _finish(
    ctx: context.Context,
    row: models.Object,
    facts: Facts,
    condition: buckets.Condition,
) -> models.Object:
    done = buckets.finish(ctx, row, facts, condition)
    checkpoint("put_object.committed")
    return done


def copy(call: Call) -> models.Object:
    """The source's bytes, as they are now, are what the key means from now on."""
    requests.refuse_unbuilt(call.headers)
    ctx = call.signed.ctx
    replace = call.headers.get("x-amz-metadata-directive", "COPY").upper() == "REPLACE"
    found, public = requests.source(call.headers), requests.public(call.headers)
    if found == (call.bucket, call.key) and not replace:
        raise errors.BadRequest(
            reason="This copy changes nothing: it is an object onto itself with its metadata"
        )
    condition = functools.partial(conditions.put, call.headers)
    source, file = open_object(call.manager, ctx, *found)
    with file, _received(call.manager, ctx) as id:
        _check_source(call, source)
        headers = requests.kept(call.headers) if replace else json.loads(source.headers)
        row = buckets.begin(
            ctx, call.bucket, call.key, call.manager.me, id=id, public=public, headers=headers
        )
        buckets.allows(call.bucket, call.key, condition)
        sums = {name: value for name, value in json.loads(source.checksums).items() if value}
        composite = "-" in "".join(sums.values())
        facts = _copied(file, row.file, 0, source.size or 0)
        facts = Facts(facts.size, facts.etag, {} if composite else sums)
        return _finish(ctx, row, facts, condition)


def _check_source(call: Call, source: models.Object) -> None:
    if conditions.unchanged(call.headers, source, conditions.COPY):
        raise errors.PreconditionFailed(name="x-amz-copy-source-if-none-match")


def _copied(file: IO[bytes], to: str, start: int, length: int) -> Facts:
    sums = checksums.Sums(())
    read = store.reader(store.stream(file, start, length))
    store.save(to, read, length, sums.update, "copy_object.written")
    return Facts(length, sums.md5.hex(), {})


# --- parts ----------------------------------------------------------------------------------


def part(call: Call, number: int) -> Facts:
    """The body is this part of the upload."""
    body = bodies.Body(call.request, call.signed)
    return _store_part(call, number, lambda file: _take_part(body, file))


def _take_part(body: bodies.Body, file: str) -> Facts:
    facts = _take(body, file)
    sums = {name: value for name, value in facts.checksums.items() if name != TYPE}
    return Facts(facts.size, facts.etag, sums)


def copy_part(call: Call, number: int) -> Facts:
    """A range of an object, or all of it, is this part of the upload."""
    source, file = open_object(call.manager, call.signed.ctx, *requests.source(call.headers))
    with file:
        _check_source(call, source)
        start, length = _source_range(call, source.size or 0)
        return _store_part(call, number, lambda to: _copied(file, to, start, length))


def _source_range(call: Call, size: int) -> tuple[int, int]:
    """Start and length of what is copied; InvalidArgument, InvalidRange: S3 leaves nothing out."""
    header = call.headers.get("x-amz-copy-source-range")
    if header is None:
        return 0, size
    match = conditions.RANGE.fullmatch(header)
    if match is None or not (match[1] and match[2]) or int(match[1]) > int(match[2]):
        raise errors.InvalidArgument(
            reason="x-amz-copy-source-range must be bytes=FIRST-LAST, both from zero on"
        )
    first, last = int(match[1]), int(match[2])
    if last >= size:
        raise errors.InvalidRange(size=size)
    return first, last - first + 1


def _store_part(call: Call, number: int, take: Callable[[str], Facts]) -> Facts:
    ctx, id, receiving = call.signed.ctx, ids.new(), call.manager.receiving
    where = (ctx, call.bucket, call.key)
    receiving.add(id)
    try:
        row = buckets.begin_part(*where, call.query["uploadId"], call.manager.me, id)
        try:
            facts = take(row.file)
            files = buckets.finish_part(*where, row, number, facts)
        except Exception:
            _forget_part(row)
            raise
    finally:
        receiving.discard(id)
    discard(files)
    return facts


def _forget_part(row: models.Part) -> None:
    try:
        gone = buckets.forget_part(row.id)
    except errors.Error as away:
        LOG.warning("part %s: left to the next sweep: %s", row.id, away)
        return
    if gone:
        store.remove(row.file)


# --- completing -----------------------------------------------------------------------------


def complete(call: Call, pieces: Sequence[buckets.Piece]) -> models.Object:
    """The parts are one object, and the upload is gone."""
    where = (call.signed.ctx, call.bucket, call.key, call.query["uploadId"])
    with call.manager.completing(call.bucket, call.query["uploadId"]):
        return buckets.completed(*where) or _complete(call, pieces)


def _complete(call: Call, pieces: Sequence[buckets.Piece]) -> models.Object:
    where = (call.signed.ctx, call.bucket, call.key, call.query["uploadId"])
    condition = functools.partial(conditions.put, call.headers)
    ctx = call.signed.ctx
    with _received(call.manager, ctx) as id:
        row, upload, parts = buckets.begin_complete(*where, call.manager.me, id=id, pieces=pieces)
        sums = _join(row.file, parts, upload)
        _check_whole(call.headers, sums)
        facts = Facts(sum(one.size or 0 for one in parts), _etag(parts), sums)
        files = buckets.complete(ctx, row, facts, {one.id for one in parts}, condition)
        checkpoint("complete_upload.committed")
    discard(files)
    return row


def _join(file: str, parts: Sequence[models.Part], upload: models.Upload) -> dict[str, str]:
    """The parts' bytes are in the file, in this order; the object's checksum."""
    full = upload.checksum is not None and upload.checksum_type == "FULL_OBJECT"
    sums = checksums.Sums([upload.checksum] if full and upload.checksum else [])
    length = sum(part.size or 0 for part in parts)
    if length > LARGEST_OBJECT:
        raise errors.EntityTooLarge(limit=LARGEST_OBJECT)
    try:
        store.save(
            file, store.reader(_bytes(parts)), length, sums.update, "complete_upload.written"
        )
    except (FileNotFoundError, store.Truncated):
        raise errors.NoSuchUpload from None  # aborted, or a part was replaced
    if full:
        return {**sums.values(), TYPE: "FULL_OBJECT"}
    return _composite(parts, upload.checksum)


def _bytes(parts: Sequence[models.Part]) -> Iterator[bytes]:
    for part in parts:
        yield from store.send(part.file, 0, part.size or 0)


def _composite(parts: Sequence[models.Part], algorithm: str | None) -> dict[str, str]:
    name = checksums.PREFIX + (algorithm or "")
    given = [json.loads(part.checksums).get(name) for part in parts]
    known = [value for value in given if value]
    if algorithm is None or len(known) < len(parts):
        return {}
    return {name: checksums.composite(algorithm, known), TYPE: "COMPOSITE"}


def _check_whole(headers: Mapping[str, str], sums: Mapping[str, str]) -> None:
    for algorithm in checksums.ALGORITHMS:
        name = checksums.PREFIX + algorithm
        given = headers.get(name)
        if (
            given is not None
            and sums.get(name, given).partition("-")[0] != given.partition("-")[0]
        ):
            raise errors.BadDigest(name=name)


def _etag(parts: Sequence[models.Part]) -> str:
    """S3's: the MD5 of the parts' MD5s, and how many they are."""
    sums = checksums.Sums(())
    sums.update(b"".join(bytes.fromhex(part.etag or "") for part in parts))
    return f"{sums.md5.hex()}-{len(parts)}"
