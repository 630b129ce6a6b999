"""Connections of HTTP clients: how many there may be, how long they may take, what a head may be.

No server is known here; `concurrency.serve_wsgi` joins these with one.
"""

from __future__ import annotations

import collections
import contextlib
import io
import logging
import re
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from minicloud import errors

if TYPE_CHECKING:
    from email.message import Message

LOG = logging.getLogger(__name__)

TOTAL = 1000  # connections of a server
SHARE = TOTAL // 2  # of one address, so that it can never have all
HEAD_S = 20.0  # for a request's head, from its first byte, of a new connection from its beginning
IDLE_S = 60.0  # between two requests
PATIENCE_S = 60.0  # that a body may stand still, either way; it comes back as bytes pass
SLOWEST = 1024  # bytes a second: who is faster may take as long as it takes
HEAD_LIMIT = 16384  # bytes of the first line; of all headers
CHUNK_LINE = 4096  # bytes before a chunk, or of a trailing header
# what no header may have in it; a line break is that of one which goes over several lines
CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
LENGTH = re.compile("[0-9]{1,18}")  # the header Content-Length
LEFTOVER_S = 2.0  # that we wait for what a client still sends after it was refused
LEFTOVERS = 64  # pieces of it that are taken


class Paced(io.RawIOBase):
    """A socket as a file of one direction, for a client that must not take for ever.

    Every wait is taken out of a reserve of seconds; TimeoutError when that is empty.  The time
    that we take ourselves between two reads costs the client nothing.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._left = self._most = 0.0
        self._slowest = 0

    def allow(self, seconds: float, slowest: int = 0) -> None:
        """The reserve is `seconds` from now on; with `slowest`, each that many bytes bring a
        second back."""
        self._left = self._most = seconds
        self._slowest = slowest

    @override
    def readable(self) -> bool:
        return True

    @override
    def writable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        return self._paced(self._connection.recv_into, buffer)

    @override
    def write(self, data: Any) -> int:
        return self._paced(self._connection.send, data)

    def _paced(self, transfer: Callable[[Any], int], data: Any) -> int:
        if self._left <= 0:
            raise TimeoutError("the client is too slow")
        self._connection.settimeout(self._left)
        began = time.monotonic()
        try:
            count = transfer(data)
        finally:
            self._left -= time.monotonic() - began
        if self._slowest:
            self._left = min(self._most, self._left + count / self._slowest)
        return count


class Room:
    """Which connections there are: `total` at most, `share` of one peer.

    One that waits for its client to ask something has to go when another needs its place, the
    longest waiting first; one whose request is under way never.
    """

    def __init__(self, total: int, share: int) -> None:
        self._total, self._share = total, share
        self._peers: dict[socket.socket, str] = {}
        self._counts: collections.Counter[str] = collections.Counter()
        self._waiting: dict[socket.socket, None] = {}  # in the order in which they began to

    def enter(self, connection: socket.socket, peer: str) -> bool:
        """Whether there is room; the connection counts from now on.

        With all places taken by requests under way there is still room, once one of them ends.
        """
        if self._counts[peer] >= self._share and not self._cut(peer):
            LOG.warning("%s has %d requests under way: one more is cut off", peer, self._share)
            return False
        if len(self._peers) >= self._total:
            self._cut(None)
        self._peers[connection] = peer
        self._counts[peer] += 1
        self.waits(connection)
        return True

    def waits(self, connection: socket.socket) -> None:
        """Its client has to say something now."""
        if connection in self._peers:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def works(self, connection: socket.socket) -> None:
        """It has a request under way."""
        self._waiting.pop(connection, None)

    def leave(self, connection: socket.socket) -> None:
        """It is over; may be repeated."""
        self._waiting.pop(connection, None)
        peer = self._peers.pop(connection, None)
        if peer is not None:
            self._counts[peer] -= 1
            if not self._counts[peer]:
                del self._counts[peer]

    def _cut(self, peer: str | None) -> bool:
        """Whether there was one that waits, of this peer or of any, and it is cut off."""
        for connection in self._waiting:
            if peer in (None, self._peers[connection]):
                self.leave(connection)
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                return True
        return False


class Lines:
    """A body whose lines (those between its chunks) are short, or raise OSError."""

    def __init__(self, file: io.BufferedReader) -> None:
        self.read = file.read
        self._file = file

    def readline(self, size: int = -1) -> bytes:
        line = self._file.readline(CHUNK_LINE if size < 0 else min(size, CHUNK_LINE))
        if len(line) == CHUNK_LINE:
            raise OSError("a line between chunks is too long")
        return line


class Headers:
    """The lines of a head after its first; RequestHeadTooLarge, or ConnectionError when they end
    early."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._left = HEAD_LIMIT

    def readline(self, _size: int = -1) -> bytes:
        line = self._file.readline(self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise errors.RequestHeadTooLarge(limit=HEAD_LIMIT)
        if not line:
            raise ConnectionError("the head ended early")
        return line


def unclear(headers: Message) -> str | None:
    """Why nobody can say what these headers are (RFC 9110, 5.5) or where the body ends (RFC 9112,
    6.3)."""
    if any(CONTROL.search(text) for header in headers.items() for text in header):
        return "A header has a control character in it, or goes over several lines"
    lengths = headers.get_all("content-length", [])
    codings = headers.get_all("transfer-encoding", [])
    if lengths and codings:
        return "Content-Length and Transfer-Encoding exclude each other"
    if len(lengths) > 1 or not all(LENGTH.fullmatch(one) for one in lengths):
        return "The header Content-Length is not a number"
    if codings and [one.lower() for one in codings] != ["chunked"]:
        return "The only Transfer-Encoding understood is chunked"
    return None
