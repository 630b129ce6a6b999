"""Images as the objectstore gives them to a host, over HTTP, signed by the cloud."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import time
import urllib.parse
from pathlib import Path
from typing import BinaryIO

from oslo_config import cfg

from minicloud import concurrency, config, errors
from minicloud.auth import internal
from minicloud.compute.driver import BootImage, Check

CONF = config.declare(
    "images",
    [
        cfg.IntOpt(
            "timeout_s",
            default=30,
            min=1,
            help="Seconds without a byte from the objectstore after which a download is given up"
            " and tried again later.",
        ),
    ],
)

CHUNK = 1024 * 1024
CHECK_S = 1  # a check reads the database


def fetch(image: BootImage, to: Path, check: Check) -> None:
    """The image's bytes are in the new file `to`, on the disk, of the right size and SHA-256.

    TryLater when the objectstore is away or breaks off; ImageBroken when it has no such image or
    other bytes; Final when they do not fit on the disk.  `to` may be left behind by an error.
    """
    path = internal.image_path(image.id)
    try:
        connection = _connection(image)
        try:
            connection.request("GET", path, headers=internal.headers("GET", path))
            response = connection.getresponse()
            _expect_bytes(image, response)
            with to.open("xb") as file:
                digest = _copy(image, response, file, check)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise _failure(image, error) from error
    if digest != image.sha256:
        raise errors.ImageBroken(id=image.id, reason="its bytes do not have its SHA-256")


def _connection(image: BootImage) -> http.client.HTTPConnection:
    url = urllib.parse.urlsplit(internal.image_url(image.id))
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname or "", url.port, timeout=CONF.timeout_s)


def _expect_bytes(image: BootImage, response: http.client.HTTPResponse) -> None:
    if response.status == http.client.NOT_FOUND:
        raise errors.ImageBroken(id=image.id, reason="the objectstore does not have it")
    if response.status != http.client.OK:
        raise errors.TryLater(
            reason=f"the objectstore answered {response.status} for image {image.id}"
        )


def _copy(
    image: BootImage, response: http.client.HTTPResponse, file: BinaryIO, check: Check
) -> str:
    """The SHA-256 of what was written; zeros become holes."""
    digest = hashlib.sha256()
    size, checked = 0, time.monotonic()
    while chunk := response.read(CHUNK):
        if time.monotonic() > checked + CHECK_S:
            check()
            checked = time.monotonic()
        size += len(chunk)
        if size > image.size:
            raise errors.ImageBroken(id=image.id, reason=f"it has more than {image.size} bytes")
        concurrency.blocking("files", _append, file, chunk, digest)
    if size < image.size:
        raise http.client.IncompleteRead(b"", image.size - size)
    concurrency.blocking("files", _finish, file)
    return digest.hexdigest()


def _append(file: BinaryIO, chunk: bytes, digest: hashlib._Hash) -> None:
    digest.update(chunk)
    if chunk.count(0) == len(chunk):
        file.seek(len(chunk), os.SEEK_CUR)
    else:
        file.write(chunk)


def _finish(file: BinaryIO) -> None:
    file.truncate()  # a hole at the end counts too
    file.flush()
    os.fsync(file.fileno())


def _failure(image: BootImage, error: Exception) -> errors.Error:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.Final(reason=f"This host has no room for image {image.id}")
    return errors.TryLater(reason=f"image {image.id} could not be fetched: {error}")
