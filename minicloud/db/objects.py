"""Rows of the object store: which object a key means now, which files belong to somebody."""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Collection

import sqlalchemy as sa

from minicloud import errors
from minicloud.db import models
from minicloud.db.session import Tx, hold

FILE = re.compile(r"(object|part)-[0-9a-f-]{36}-[0-9a-f]{8}")
BUCKET = re.compile(r"[a-z0-9.-]{3,63}")
BATCH = 1000  # rows of one statement


def fresh_file(kind: str, id: str) -> str:
    """A name in the object store for an "object" or "part" that was never used before."""
    return f"{kind}-{id}-{secrets.token_hex(4)}"


def bucket(tx: Tx, name: str) -> models.Bucket:
    """The bucket of that name; NoSuchBucket."""
    if not BUCKET.fullmatch(name):
        raise errors.NoSuchBucket(bucket=ascii(name[:63])[1:-1])
    row = tx.scalars(sa.select(models.Bucket).where(models.Bucket.name == name)).one_or_none()
    if row is None:
        raise errors.NoSuchBucket(bucket=name)
    return row


def held_bucket(tx: Tx, id: str) -> models.Bucket:
    """The bucket, locked until the transaction ends: whoever changes what is in it takes turns.
    NoSuchBucket when it is gone."""
    rows = hold(tx, models.Bucket, [id])
    if not rows:
        raise errors.NoSuchBucket(bucket="")
    return rows[0]


def live(tx: Tx, bucket_id: str, key: bytes) -> models.Object | None:
    """The object that a GET of the key finds."""
    model = models.Object
    statement = sa.select(model).where(model.bucket_id == bucket_id, model.live == key)
    return tx.scalars(statement).one_or_none()


def upload(tx: Tx, bucket_id: str, key: bytes, id: str) -> models.Upload:
    """The multipart upload; NoSuchUpload."""
    model = models.Upload
    statement = sa.select(model).where(model.id == id, model.bucket_id == bucket_id)
    row = tx.scalars(statement).one_or_none() if id.isascii() else None
    if row is None or row.key != key:
        raise errors.NoSuchUpload
    return row


def parts(tx: Tx, upload_id: str) -> list[models.Part]:
    """The parts that are whole, by number."""
    model = models.Part
    statement = sa.select(model).where(model.upload_id == upload_id, model.number.is_not(None))
    return list(tx.scalars(statement.order_by(model.number)))


def forget_upload(tx: Tx, upload_id: str) -> list[str]:
    """The upload and its parts have no rows any more; the names of the files to remove."""
    found = sa.select(models.Part.file).where(models.Part.upload_id == upload_id)
    files = list(tx.scalars(found))
    tx.changed(sa.delete(models.Part).where(models.Part.upload_id == upload_id))
    tx.changed(sa.delete(models.Upload).where(models.Upload.id == upload_id))
    return files


# --- listing --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Listing:
    """A page of a bucket in the order of keys: `last` is its last key or common prefix."""

    objects: list[models.Object]
    prefixes: list[bytes]
    truncated: bool
    last: bytes


def after_all(prefix: bytes) -> bytes | None:
    """The first text that is greater than everything beginning with `prefix`; None: there is
    none."""
    cut = prefix.rstrip(b"\xff")
    return cut[:-1] + bytes([cut[-1] + 1]) if cut else None


def listing(
    tx: Tx, bucket_id: str, prefix: bytes, delimiter: bytes, after: bytes, limit: int
) -> Listing:
    """At most `limit` keys and common prefixes that come after `after`.

    What a common prefix stands for is stepped over by the index, not read.
    """
    found: list[models.Object] = []
    prefixes: list[bytes] = []
    start, inclusive, last = max(prefix, after), after < prefix, b""
    while True:
        rows = _from(tx, bucket_id, prefix, start, inclusive, min(BATCH, limit + 1))
        for row in rows:
            key = bytes(row.live or b"")
            common = _common(key, prefix, delimiter)
            if common is not None and (common == after or common in prefixes[-1:]):
                continue
            if len(found) + len(prefixes) == limit:
                return Listing(found, prefixes, True, last)
            last = key if common is None else common
            if common is None:
                found.append(row)
            else:
                prefixes.append(common)
        if len(rows) < min(BATCH, limit + 1):
            return Listing(found, prefixes, False, last)
        start, inclusive = _next(bytes(rows[-1].live or b""), prefix, delimiter)


def _next(key: bytes, prefix: bytes, delimiter: bytes) -> tuple[bytes, bool]:
    common = _common(key, prefix, delimiter)
    beyond = None if common is None else after_all(common)
    return (key, False) if beyond is None else (beyond, True)


def _common(key: bytes, prefix: bytes, delimiter: bytes) -> bytes | None:
    at = key.find(delimiter, len(prefix)) if delimiter else -1
    return None if at < 0 else key[: at + len(delimiter)]


def _from(
    tx: Tx, bucket_id: str, prefix: bytes, start: bytes, inclusive: bool, limit: int
) -> list[models.Object]:
    model = models.Object
    conditions = [
        model.bucket_id == bucket_id,
        model.live >= start if inclusive else model.live > start,
    ]
    end = after_all(prefix)
    if end is not None:
        conditions.append(model.live < end)
    return list(tx.scalars(sa.select(model).where(*conditions).order_by(model.live).limit(limit)))


# --- what the daemon looks after ------------------------------------------------------------


def get(tx: Tx, id: str) -> models.Object | None:
    """The object's row, whatever its state."""
    return tx.scalars(sa.select(models.Object).where(models.Object.id == id)).one_or_none()


def uploading(tx: Tx, host: str) -> list[models.Object]:
    """The objects whose bytes come in at this host, or came when it died."""
    model = models.Object
    return list(tx.scalars(sa.select(model).where(model.state == "uploading", model.host == host)))


def whole(tx: Tx, host: str) -> list[tuple[str, str, int | None]]:
    """(id, file, size) of the complete objects and parts of the object store of `host`."""
    object, part = models.Object, models.Part
    objects = sa.select(object.id, object.file, object.size).where(
        object.state == "active", object.host == host
    )
    parts = sa.select(part.id, part.file, part.size).where(
        part.number.is_not(None), part.host == host
    )
    rows = [*tx.execute(objects), *tx.execute(parts)]
    return [(id, file, size) for id, file, size in rows]


def incoming_parts(tx: Tx, host: str) -> list[str]:
    """Ids of the parts whose bytes come in at this host, or came when it died."""
    model = models.Part
    return list(tx.scalars(sa.select(model.id).where(model.number.is_(None), model.host == host)))


def forget_parts(tx: Tx, host: str, ids: Collection[str]) -> None:
    """These parts, unless they are whole, have no row: the sweep finds their files."""
    model = models.Part
    unfinished = (model.id.in_(ids), model.number.is_(None), model.host == host)
    tx.changed(sa.delete(model).where(*unfinished))


def named(tx: Tx, files: Collection[str]) -> set[str]:
    """Those of `files` that are the bytes of an object which is not deleted, or of a part."""
    model = models.Object
    objects = sa.select(model.file).where(model.file.in_(files), model.state != "deleted")
    parts = sa.select(models.Part.file).where(models.Part.file.in_(files))
    return set(tx.scalars(objects)) | set(tx.scalars(parts))
