"""Bytes of images between a client and the object store: passed on as they come."""

from __future__ import annotations

import contextlib
import html
import http.client
import logging
import os
import pathlib
import re
import urllib.parse
from collections.abc import Iterable, Iterator

from oslo_config import cfg

from minicloud import config, errors
from minicloud.auth import internal
from minicloud.cloud import images
from minicloud.context import Context
from minicloud.db import models

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "objectstore",
    [
        cfg.IntOpt(
            "max_image_gib",
            default=64,
            min=1,
            help="GiB an image may have, as a file and as the disk that a guest sees.",
        ),
        cfg.IntOpt(
            "min_free_gib",
            default=1,
            min=0,
            help="GiB that stay free of a disk, here and where an API's host keeps an image's data"
            " until all of it is there: what would take them is refused.",
        ),
    ],
)

CHUNK = 1 << 20  # bytes in memory
PATIENCE_S = 30.0  # without a byte from the object store
# bytes a second that its disk takes at least: it answers when all of them are on it
DISK = 8 << 20

# what the object store's refusal becomes; any other status is BadRequest
REFUSALS: dict[int, type[errors.Error]] = {
    409: errors.Conflict,
    500: errors.Unavailable,
    503: errors.Unavailable,
}


def max_bytes() -> int:
    """The largest image that is taken."""
    return int(CONF.max_image_gib) << 30


def check_room(directory: str | pathlib.Path, size: int) -> None:
    """The disk has room for `size` bytes and keeps its reserve; OSError, Unavailable."""
    disk = os.statvfs(directory)
    kept = int(CONF.min_free_gib)
    if disk.f_bavail * disk.f_frsize - size < kept << 30:
        why = f": its last {kept} GiB stay free" if kept else ""
        raise errors.Unavailable(reason=f"the disk has no room{why}")


def check_awaited(ctx: Context, id: str) -> None:
    """The asker may `send` the bytes of the image of that uuid.

    ImageNotFound; Forbidden for another project's; Conflict when it waits for none.
    """
    image = images.shown_to(ctx, id)
    if image.project_id != ctx.project_id:
        raise errors.Forbidden(reason="the image is another project's")
    if image.state != "uploading" or image.host is not None:
        raise errors.Conflict(reason=f"The image {id} does not wait for data")


def send(id: str, chunks: Iterable[bytes], size: int, sha256: str | None = None) -> None:
    """The object store has the `size` bytes, of that SHA-256, and found them good: the image is
    active.

    Unavailable, Conflict, BadRequest; what `chunks` raises.
    """
    path = internal.image_path(id)
    headers = {**internal.headers("PUT", path), "Content-Length": str(size)}
    if sha256 is not None:
        headers["x-amz-content-sha256"] = sha256
    connection, url = _connection(id, PATIENCE_S + size / DISK)
    try:
        connection.request("PUT", url.path, iter(chunks), headers)
        response = connection.getresponse()
        answer = response.read(65536).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        raise _away(id, error) from error
    finally:
        connection.close()
    if response.status != 200:
        said = re.search(r"<Message>(.*?)</Message>", answer, re.DOTALL)
        reason = html.unescape(said[1]) if said else f"HTTP {response.status}"
        refusal = REFUSALS.get(response.status, errors.BadRequest)
        raise refusal(reason=f"The object store refused the image: {reason}")


def download(ctx: Context, id: str) -> tuple[models.Image, Iterator[bytes]]:
    """The image of that uuid and its bytes, which are fetched as they are read.

    ImageNotFound; Conflict while it is not active; Unavailable, also while the bytes are read.
    """
    image = images.shown_to(ctx, id)
    if image.state != "active":
        raise errors.Conflict(reason=f"The image {id} has no data")
    path = internal.image_path(id)
    connection, url = _connection(id, PATIENCE_S)
    try:
        connection.request("GET", url.path, headers=internal.headers("GET", path))
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        raise _away(id, error) from error
    if response.status != 200:
        connection.close()
        raise errors.Unavailable(reason=f"the object store answered {response.status}")
    return image, _read(connection, response, image.size or 0)


def _read(
    connection: http.client.HTTPConnection, response: http.client.HTTPResponse, left: int
) -> Iterator[bytes]:
    with contextlib.closing(connection):
        while chunk := response.read(CHUNK):
            left -= len(chunk)
            yield chunk
    if left:  # http.client says nothing of a body that is cut short
        raise errors.Unavailable(reason="the object store broke off within the image")


def _connection(
    id: str, patience_s: float
) -> tuple[http.client.HTTPConnection, urllib.parse.SplitResult]:
    url = urllib.parse.urlsplit(internal.image_url(id))
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname or "", url.port, timeout=patience_s), url


def _away(id: str, error: Exception) -> errors.Unavailable:
    LOG.warning("%s: %s", internal.image_url(id), error)  # the address is not for users
    return errors.Unavailable(reason="the object store does not answer, or broke off")
