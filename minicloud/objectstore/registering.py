"""The bytes of an image that is registered from an object, or from the parts of a manifest.

The manifest is that of AWS's image bundles (`….manifest.xml`) with its parts in clear, which are
the image cut in pieces; an encrypted bundle is refused.  Parts lie beside their manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from minicloud import errors
from minicloud.cloud import image_bytes
from minicloud.db import models, objects
from minicloud.db.session import Tx, reading
from minicloud.objectstore import formats, store, xml

MANIFEST = ".manifest.xml"
MANIFEST_BYTES = 4 << 20
PARTS = 10_000
SECRETS = ("ec2_encrypted_key", "user_encrypted_key", "ec2_encrypted_iv", "user_encrypted_iv")
CHECK_EVERY = 64  # chunks between two looks whether the image is still wanted


@dataclasses.dataclass(frozen=True)
class _Part:
    key: bytes
    sha1: str | None


def fetch(image: models.Image, host: str, check: Callable[[], None]) -> dict[str, Any]:
    """The image's file is whole and inspected: size, sha256, format and virtual size.

    May be repeated.  ImageBroken when the object is not there or no guest may have it; what
    `check` raises when nobody wants it any more.
    """
    store.remove(image.file)
    try:
        return _fetched(image, host, check)
    except (errors.BadRequest, errors.NotFound, store.Truncated, FileNotFoundError) as error:
        store.remove(image.file)
        reason = str(error) or "the object changed while it was read"
        raise errors.ImageBroken(id=image.id, reason=reason) from error


def _fetched(image: models.Image, host: str, check: Callable[[], None]) -> dict[str, Any]:
    bucket, _, key = (image.location or "").partition("/")
    chunks, size = _source(image, host, bucket, key.encode())
    with contextlib.closing(chunks):
        if size > image_bytes.max_bytes():
            raise errors.RequestTooLarge(limit=image_bytes.max_bytes())
        read = store.reader(_checked(chunks, check))
        received = store.receive(image.file, read, size)
        if read(1):  # only now the last part has been compared with its digest
            raise store.Truncated
    format, virtual_size = formats.inspect(
        image.kind, received.size, received.head, image_bytes.max_bytes()
    )
    return {
        "size": received.size,
        "sha256": received.sha256,
        "format": format,
        "virtual_size": virtual_size,
    }


def _checked(chunks: Iterator[bytes], check: Callable[[], None]) -> Iterator[bytes]:
    for number, chunk in enumerate(chunks):
        if number % CHECK_EVERY == 0:
            check()
        yield chunk


def _source(image: models.Image, host: str, bucket: str, key: bytes) -> tuple[Any, int]:
    """The bytes, to be closed, and how many they are."""
    row, file = _opened(image, host, bucket, key)
    size = row.size or 0
    if not key.endswith(MANIFEST.encode()):
        return store.stream(file, 0, size), size
    with file:
        if size > MANIFEST_BYTES:
            raise errors.BadRequest(reason="The manifest is too large")
        text = b"".join(store.stream(file, 0, size))
    parts = _parts(xml.parse(text, "manifest"), key)
    rows = [_object(image, host, bucket, part.key) for part in parts]
    total = sum(row.size or 0 for row in rows)
    return _joined(image, host, bucket, parts), total


def _joined(image: models.Image, host: str, bucket: str, parts: list[_Part]) -> Iterator[bytes]:
    for part in parts:
        row, file = _opened(image, host, bucket, part.key)
        digest = hashlib.sha1(usedforsecurity=False)
        for chunk in store.stream(file, 0, row.size or 0):
            digest.update(chunk)
            yield chunk
        if part.sha1 is not None and part.sha1 != digest.hexdigest():
            name = part.key.decode()
            raise errors.BadRequest(reason=f"The part {name} has another SHA-1 than the manifest")


def _parts(manifest: xml.Element, key: bytes) -> list[_Part]:
    folder = key[: key.rfind(b"/") + 1]
    found: list[_Part] = []
    for image in manifest.children("image"):
        for name in SECRETS:
            if image.text(name) is not None:
                raise errors.BadRequest(
                    reason=f"The manifest has {name}: encrypted bundles are not supported"
                )
        if image.text("type") not in (None, "machine"):
            raise errors.BadRequest(reason="Only manifests of machine images are supported")
        for parts in image.children("parts"):
            for part in parts.children("part"):
                name = part.text("filename") or ""
                if not name or "/" in name:
                    raise errors.MalformedXML
                found.append(_Part(folder + name.encode(), part.text("digest")))
    if not 0 < len(found) <= PARTS:
        raise errors.BadRequest(reason=f"The manifest names no part, or more than {PARTS}")
    return found


def _opened(
    image: models.Image, host: str, bucket: str, key: bytes
) -> tuple[models.Object, IO[bytes]]:
    row = _object(image, host, bucket, key)
    return row, store.opened(row.file)


@reading
def _object(tx: Tx, image: models.Image, host: str, bucket: str, key: bytes) -> models.Object:
    """The object, if the image's project may read it; NoSuchBucket, NoSuchKey."""
    row = objects.live(tx, objects.bucket(tx, bucket).id, key)
    if row is None or not (row.is_public or row.project_id == image.project_id):
        raise errors.BadRequest(reason=f"The object {bucket}/{key.decode()} is not there")
    if row.host != host:
        raise errors.BadRequest(reason=f"The object is at the object store of {row.host}")
    return row
