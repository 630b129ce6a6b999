"""Bytes on disk: written once under a name that never comes back, then read or removed.

Whoever names a file commits the row first; a file is complete when `receive` has returned.  Every
call that waits for the disk runs in a native thread, and no body is ever held in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import logging
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO

from oslo_config import cfg

from minicloud import concurrency, config, errors
from minicloud.checkpoint import checkpoint
from minicloud.cloud import image_bytes

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "objectstore",
    [
        cfg.StrOpt(
            "path",
            default="$state_path/objectstore",
            help="Directory of the object store's files; nothing else belongs in it.",
        ),
    ],
)

CHUNK = 1 << 20  # bytes in memory for each transfer
HEAD = 1 << 20  # bytes kept for inspection: the formats we know say who they are within them


@dataclasses.dataclass(frozen=True)
class Received:
    """What came in: `head` is its first bytes."""

    size: int  # bytes
    sha256: str
    head: bytes


class Truncated(Exception):
    """The sender went away before the last byte."""


def prepare() -> None:
    """The directory is there, and only its owner may look into it."""
    directory().mkdir(mode=0o700, parents=True, exist_ok=True)


def directory() -> pathlib.Path:
    return pathlib.Path(CONF.path)


def receive(name: str, read: Callable[[int], bytes], length: int) -> Received:
    """Write `length` bytes from `read` to the new file `name`; they are on disk afterwards.

    Truncated when the sender ends early, Unavailable when the disk has no room or fails; what was
    written until then stays for whoever cleans up.  A file of that name must not exist.
    """
    digest, head = hashlib.sha256(), bytearray()

    def take(chunk: bytes) -> None:
        digest.update(chunk)
        head.extend(chunk[: HEAD - len(head)])

    save(name, read, length, take, "upload.written")
    return Received(length, digest.hexdigest(), bytes(head))


def save(
    name: str,
    read: Callable[[int], bytes],
    length: int | None,
    take: Callable[[bytes], None],
    step: str,
) -> int:
    """`receive` for whoever keeps his own digests: `take` sees all bytes, in a native thread.

    Without a length the first empty read is the end.  The bytes there are; `step` is the name of
    the checkpoint before they are forced to disk.
    """
    size = 0
    try:
        file = concurrency.blocking("files", _create, directory() / name, length or 0)
        with file:
            while length is None or size < length:
                chunk = _next(read, CHUNK if length is None else min(CHUNK, length - size))
                if not chunk and length is None:
                    break
                if not chunk:
                    raise Truncated
                size += len(chunk)
                concurrency.blocking("files", _append, file, take, chunk)
            checkpoint(step)
            concurrency.blocking("files", _settle, file)
    except OSError as error:
        LOG.error("%s cannot be written: %s", name, error)  # its path is not for users
        reason = f"the object store cannot write: {error.strerror}"
        raise errors.Unavailable(reason=reason) from error
    return size


def _next(read: Callable[[int], bytes], size: int) -> bytes:
    try:
        chunk = read(size)
    except (OSError, ValueError) as error:  # a reset, a time-out, chunks that make no sense
        raise Truncated from error
    return chunk


def _create(path: pathlib.Path, length: int) -> IO[bytes]:
    image_bytes.check_room(path.parent, length)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0)


def _append(file: IO[bytes], take: Callable[[bytes], None], chunk: bytes) -> None:
    take(chunk)
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _settle(file: IO[bytes]) -> None:
    os.fsync(file.fileno())
    _settle_directory()


def _settle_directory() -> None:
    descriptor = os.open(directory(), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def size(name: str) -> int:
    """Bytes of a file; FileNotFoundError."""
    return concurrency.blocking("files", os.stat, directory() / name).st_size


def send(name: str, start: int, length: int) -> Iterator[bytes]:
    """The `length` bytes of a file from `start`; it is opened with the first of them."""
    yield from stream(opened(name), start, length)


def opened(name: str) -> IO[bytes]:
    """The file, open: its bytes stay whatever becomes of the name.

    FileNotFoundError; Unavailable when the disk does not give it.
    """
    try:
        return concurrency.blocking("files", open, directory() / name, "rb", buffering=0)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _unreadable(error) from error


def stream(file: IO[bytes], start: int, length: int) -> Iterator[bytes]:
    """The `length` bytes of an open file from `start`; it is closed afterwards.

    Unavailable when the disk does not give them, or has fewer.
    """
    with file:
        while length:
            chunk = _read(file, min(CHUNK, length), start)
            yield chunk
            start += len(chunk)
            length -= len(chunk)


def _read(file: IO[bytes], size: int, start: int) -> bytes:
    try:
        chunk = concurrency.blocking("files", os.pread, file.fileno(), size, start)
        if not chunk:
            raise OSError(errno.EIO, "a file is shorter than its row says")
    except OSError as error:
        raise _unreadable(error) from error
    return chunk


def _unreadable(error: OSError) -> errors.Unavailable:
    LOG.error("cannot read: %s", error)  # its path is not for users
    return errors.Unavailable(reason=f"the object store cannot read: {error.strerror}")


def reader(chunks: Iterator[bytes]) -> Callable[[int], bytes]:
    """What reads `chunks`, which are shorter than CHUNK, for `save`."""
    buffer = bytearray()

    def read(size: int) -> bytes:
        while len(buffer) < size:
            chunk = next(chunks, b"")
            if not chunk:
                break
            buffer.extend(chunk)
        piece = bytes(buffer[:size])
        del buffer[:size]
        return piece

    return read


def remove(name: str) -> None:
    """The file is gone, also after a power cut; it may be gone already."""
    concurrency.blocking("files", _remove, directory() / name)


def _remove(path: pathlib.Path) -> None:
    path.unlink(missing_ok=True)
    _settle_directory()


def names() -> list[str]:
    """The names of all files that are here."""
    return concurrency.blocking("files", os.listdir, directory())


def sizes(names: Iterable[str]) -> dict[str, int]:
    """The bytes of those of these files that are here; FileNotFoundError without the directory."""
    return concurrency.blocking("files", _sizes, directory(), list(names))


def _sizes(path: pathlib.Path, names: Sequence[str]) -> dict[str, int]:
    path.stat()
    found = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            found[name] = (path / name).stat().st_size
    return found
