"""The data of an image as it comes from a client: never held in memory."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import IO

from minicloud import concurrency, config, errors, wsgi
from minicloud.cloud import image_bytes

CHUNK = 1 << 20  # bytes in memory


@contextlib.contextmanager
def received(raw: wsgi.Request) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Size and chunks of the request's body.

    The object store must know the size first, so what comes in chunks waits in a file without a
    name.  BadRequest when the client breaks off, RequestTooLarge for more than an image may have.
    """
    length = raw.length()
    if length is not None:
        _check_size(length)
        yield length, _read(raw, length)
        return
    _directory().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=_directory()) as file:
        size = _spool(raw, file)
        yield size, _copy(file)


def _read(raw: wsgi.Request, length: int) -> Iterator[bytes]:
    while length:
        chunk = _next(raw, min(CHUNK, length))
        if not chunk:
            raise errors.BadRequest(reason="The request's body ended early")
        length -= len(chunk)
        yield chunk


def _next(raw: wsgi.Request, size: int) -> bytes:
    try:
        return bytes(raw.body_file_raw.read(size))
    except (OSError, ValueError) as error:
        raise errors.BadRequest(reason="The request's body cannot be read") from error


def _spool(raw: wsgi.Request, file: IO[bytes]) -> int:
    size = 0
    try:
        while chunk := _next(raw, CHUNK):
            size += len(chunk)
            _check_size(size)
            concurrency.blocking("files", _keep, file, chunk)
        file.seek(0)
    except OSError as error:
        raise errors.Unavailable(reason="there is no room for the image's data") from error
    return size


def _keep(file: IO[bytes], chunk: bytes) -> None:
    image_bytes.check_room(_directory(), len(chunk))
    file.write(chunk)


def _directory() -> pathlib.Path:
    return pathlib.Path(config.CONF.state_path, "uploads")


def _check_size(size: int) -> None:
    if size > image_bytes.max_bytes():
        raise errors.RequestTooLarge(limit=image_bytes.max_bytes())


def _copy(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := concurrency.blocking("files", file.read, CHUNK):
        yield chunk
