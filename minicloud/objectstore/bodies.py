"""The body of an S3 request as it comes in: its length, its chunks, and all it is checked for.

`aws-chunked` (S3 API reference, "Signature calculations: transferring payload in multiple
chunks") is `SIZE[;chunk-signature=…]`, the bytes, and so on; a chunk of size 0 ends it, with
trailing headers after it when the payload's name says so.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable

from minicloud import errors, wsgi
from minicloud.auth import s3
from minicloud.objectstore import checksums

LARGEST = 5 << 30  # bytes of one request, as S3 has it
SMALLEST_CHUNK = 8 << 10  # bytes of a chunk of aws-chunked, except the last, as S3 has it
LINE = 4096  # bytes of a chunk's head or a trailing header
TRAILERS = 20
READ = 1 << 16
_HEAD = re.compile(rb"([0-9a-fA-F]{1,15})(?:;chunk-signature=([0-9a-f]{64}))?")


class Body:
    """A body to be read once: `read` until it returns nothing, then `verify`.

    `length` is that of the object's bytes, None when only the end tells; `sums` sees them all.
    """

    def __init__(self, request: wsgi.Request, signed: s3.Signed, checked: bool = True) -> None:
        self._headers, self._payload = request.headers, signed.payload
        given = checksums.named(request.headers) if checked else {}
        self._trailer = _trailer(request.headers, signed.payload)
        names = {*given, *([self._trailer] if self._trailer else [])}
        self._given, self._left = given, request.length()
        self._read_raw = request.body_file_raw.read
        self._taken = 0  # bytes, of a body that does not say its length
        whole = len(signed.payload) == 64
        self.sums = checksums.Sums(sorted(names), sha256=whole)
        self.length = self._left
        self._chunks: _Chunks | None = None
        if signed.payload in s3.STREAMS:
            self.length = _decoded_length(request.headers)
            self._chunks = _Chunks(self._raw, signed.chain, self._payload.endswith(s3.TRAILER))
        elif self.length is None and "chunked" not in request.headers.get("transfer-encoding", ""):
            raise errors.MissingContentLength
        if self.length is not None and self.length > LARGEST:
            raise errors.EntityTooLarge(limit=LARGEST)

    def read(self, size: int) -> bytes:
        """At most `size` bytes of the object, nothing at the end."""
        return self._raw(size) if self._chunks is None else self._chunks.read(size)

    def _raw(self, size: int) -> bytes:
        if self._left is None:
            chunk = bytes(self._read_raw(size))
            self._taken += len(chunk)
            if self._taken > LARGEST:
                raise errors.EntityTooLarge(limit=LARGEST)
            return chunk
        chunk = bytes(self._read_raw(min(size, self._left)))
        self._left -= len(chunk)
        return chunk

    def verify(self) -> dict[str, str]:
        """All digests that the client gave are those of the bytes; the checksums to remember.

        BadDigest, InvalidDigest, ContentSHA256Mismatch, SignatureWrong for the last chunk.
        """
        given = dict(self._given)
        if self._chunks is not None:
            given |= checksums.named(self._chunks.end())
            if self._trailer is not None and self._trailer not in given:
                raise errors.BadDigest(name=checksums.PREFIX + self._trailer)
        if self.sums.sha256 and not hmac.compare_digest(self.sums.sha256, self._payload):
            raise errors.ContentSHA256Mismatch
        md5 = self._headers.get("content-md5")
        if md5 is not None:
            digest = checksums.decoded("Content-MD5", md5)
            if len(digest) != 16:
                raise errors.InvalidDigest(name="Content-MD5")
            if not hmac.compare_digest(digest, self.sums.md5):
                raise errors.BadDigest(name="Content-MD5")
        found = self.sums.values()
        for name, value in given.items():
            if found.get(checksums.PREFIX + name) != value:
                raise errors.BadDigest(name=checksums.PREFIX + name)
        return found


def _trailer(headers: dict[str, str], payload: str) -> str | None:
    """The checksum algorithm that a trailing header will give."""
    name = headers.get("x-amz-trailer", "").strip().lower()
    if not payload.endswith(s3.TRAILER) or not name:
        return None
    algorithm = name.removeprefix(checksums.PREFIX)
    if algorithm not in checksums.ALGORITHMS:
        raise errors.InvalidArgument(reason="x-amz-trailer names no checksum this cloud knows")
    return algorithm


def _decoded_length(headers: dict[str, str]) -> int:
    given = headers.get("x-amz-decoded-content-length", "")
    if not re.fullmatch("[0-9]{1,15}", given):
        raise errors.MissingContentLength
    return int(given)


class _Chunks:
    """Takes aws-chunked apart, in bounded memory; what it finds wrong is IncompleteBody,
    InvalidChunkSize or SignatureWrong."""

    def __init__(
        self, raw: Callable[[int], bytes], chain: s3.Chain | None, trailing: bool
    ) -> None:
        self._raw, self._chain, self._trailing = raw, chain, trailing
        self._buffer = bytearray()
        self._size = SMALLEST_CHUNK  # of the present chunk, or more: none came before the first
        self._left = 0  # of the present chunk
        self._digest = hashlib.sha256()
        self._signature: str | None = None  # of the present chunk
        self._began = self._ended = False

    def read(self, size: int) -> bytes:
        if self._left == 0 and not self._ended:
            self._next_chunk()
        if self._ended:
            return b""
        if not self._buffer:
            self._fill(min(size, READ))
        chunk = bytes(self._buffer[: min(size, self._left)])
        del self._buffer[: len(chunk)]
        self._left -= len(chunk)
        if self._chain is not None:
            self._digest.update(chunk)
        return chunk

    def end(self) -> dict[str, str]:
        """The last chunk has been seen and its signature is right; the trailing headers."""
        if self._left or self.read(1):
            raise errors.IncompleteBody
        found: dict[str, str] = {}
        signed = b""
        given = ""
        while self._trailing:
            line = self._line()
            if not line:
                break
            name, _, value = line.decode("latin-1").partition(":")
            name = name.strip().lower()
            if name == "x-amz-trailer-signature":
                given = value.strip()
                continue
            found[name] = value.strip()
            signed += f"{name}:{value.strip()}\n".encode("latin-1")
            if len(found) > TRAILERS:
                raise errors.IncompleteBody
        if self._chain is not None and self._trailing:
            self._chain.check_trailer(signed, given)
        return found

    def _next_chunk(self) -> None:
        if self._began:
            self._check()
            if self._line():
                raise errors.IncompleteBody
        self._began = True
        match = _HEAD.fullmatch(self._line())
        if match is None:
            raise errors.IncompleteBody
        if self._size < SMALLEST_CHUNK and int(match[1], 16):
            raise errors.InvalidChunkSize(limit=SMALLEST_CHUNK)
        self._size = self._left = int(match[1], 16)
        self._signature = None if match[2] is None else match[2].decode()
        self._digest = hashlib.sha256()
        if self._left == 0:
            self._check()
            self._ended = True

    def _check(self) -> None:
        if self._chain is not None:
            self._chain.check_chunk(self._digest.hexdigest(), self._signature or "")

    def _line(self) -> bytes:
        """The next line without its end; the end of the body is an empty line."""
        while (at := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > LINE:
                raise errors.IncompleteBody
            before = len(self._buffer)
            self._fill(READ)
            if len(self._buffer) == before:
                at = before
                break
        line = bytes(self._buffer[:at])
        del self._buffer[: at + 2]
        return line

    def _fill(self, size: int) -> None:
        self._buffer += self._raw(size)


def small(request: wsgi.Request, signed: s3.Signed, checked: bool = True) -> bytes:
    """The whole of a short body, checked like a long one.

    Not `checked`: checksums in the headers are not the body's, but those of an object.
    """
    body = Body(request, signed, checked)
    if (body.length or 0) > request.body_limit:
        raise errors.EntityTooLarge(limit=request.body_limit)
    read = bytearray()
    try:
        while chunk := body.read(READ):
            read += chunk
            if len(read) > request.body_limit:
                raise errors.EntityTooLarge(limit=request.body_limit)
    except (OSError, ValueError) as error:  # gone, too slow, or its chunks make no sense
        raise errors.IncompleteBody from error
    if body.length is not None and len(read) != body.length:
        raise errors.IncompleteBody
    body.sums.update(bytes(read))
    body.verify()
    return bytes(read)
