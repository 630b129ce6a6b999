"""Connections of HTTP clients: who gets a place, who loses it, who took too long."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from email.message import Message

import pytest

from minicloud import connections, errors
from minicloud.connections import Headers, Lines, Paced, Room


class Client:
    """Both ends of a connection; it is cut off when ours has been shut down."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()

    @property
    def cut_off(self) -> bool:
        self.theirs.setblocking(False)
        try:
            return self.theirs.recv(1) == b""
        except BlockingIOError:
            return False


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    made = [Client() for _ in range(6)]
    yield made
    for each in made:
        each.ours.close()
        each.theirs.close()


def enter(room: Room, client: Client, peer: str) -> bool:
    return room.enter(client.ours, peer)


def test_a_peer_with_its_share_loses_its_longest_waiting_connection(clients: list[Client]) -> None:
    room = Room(total=4, share=2)
    for client in clients[:2]:
        assert enter(room, client, "a")
    room.waits(clients[0].ours)  # it has been served once and waits again: the other one longer
    assert enter(room, clients[2], "a")
    assert [client.cut_off for client in clients[:3]] == [False, True, False]


def test_a_peer_with_its_share_of_requests_gets_no_more(
    clients: list[Client], caplog: pytest.LogCaptureFixture
) -> None:
    room = Room(total=4, share=2)
    for client in clients[:2]:
        enter(room, client, "a")
        room.works(client.ours)
    assert not enter(room, clients[2], "a")
    assert "a has 2 requests under way" in caplog.text
    assert enter(room, clients[3], "b")
    assert not any(client.cut_off for client in clients)
    room.leave(clients[0].ours)
    room.leave(clients[0].ours)
    assert enter(room, clients[4], "a")
    assert not enter(room, clients[5], "a") or clients[4].cut_off


def test_when_all_places_are_taken_the_longest_waiting_of_all_goes(clients: list[Client]) -> None:
    room = Room(total=3, share=2)
    for client, peer in zip(clients, ("a", "b", "c"), strict=False):
        enter(room, client, peer)
    room.works(clients[0].ours)
    assert enter(room, clients[3], "d")
    assert [client.cut_off for client in clients[:4]] == [False, True, False, False]


def paced(client: Client, seconds: float, slowest: int = 0) -> Paced:
    made = Paced(client.ours)
    made.allow(seconds, slowest)
    return made


def test_a_silent_client_uses_up_its_time(clients: list[Client]) -> None:
    file = paced(clients[0], 0.05)
    with pytest.raises(TimeoutError):
        file.read(1)
    clients[0].theirs.send(b"late")
    with pytest.raises(TimeoutError):
        file.read(1)


def test_bytes_bring_time_back_but_never_more_than_there_was(
    clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("minicloud.connections.time.monotonic", lambda: now)

    class Slow:
        """A second passes in each `recv_into`, which brings `count` bytes."""

        count = 10
        timeouts: list[float] = []  # noqa: RUF012

        def settimeout(self, seconds: float) -> None:
            self.timeouts.append(seconds)

        def recv_into(self, _buffer: bytearray) -> int:
            nonlocal now
            now += 1.0
            return self.count

    slow = Slow()
    file = Paced(slow)  # type: ignore[arg-type]
    file.allow(3.0, 10)
    for _ in range(5):  # at exactly the pace that is asked for, as long as it likes
        file.readinto(bytearray(10))
    assert slow.timeouts == [3.0] * 5
    slow.count = 1_000_000
    file.readinto(bytearray(10))
    slow.count = 5
    for _ in range(5):  # half of the pace
        file.readinto(bytearray(10))
    assert slow.timeouts[5:] == [3.0, 3.0, 2.5, 2.0, 1.5, 1.0]
    file.readinto(bytearray(10))
    with pytest.raises(TimeoutError):
        file.readinto(bytearray(10))


def test_a_client_that_reads_nothing_uses_up_its_time(clients: list[Client]) -> None:
    file = io.BufferedWriter(paced(clients[0], 0.05, 1 << 30))
    with pytest.raises(TimeoutError):
        file.write(b"x" * (64 << 20))


def head(text: bytes) -> Headers:
    return Headers(io.BufferedReader(io.BytesIO(text)))  # type: ignore[type-var]


def test_headers_have_a_limit_together_and_an_end() -> None:
    lines = head(b"a: b\r\n" * 10)
    assert [lines.readline() for _ in range(10)] == [b"a: b\r\n"] * 10
    with pytest.raises(ConnectionError):
        lines.readline()
    lines = head(b"a: b\r\n" * connections.HEAD_LIMIT)
    for _ in range(connections.HEAD_LIMIT // 6):
        assert lines.readline() == b"a: b\r\n"
    with pytest.raises(errors.RequestHeadTooLarge):
        lines.readline()
    with pytest.raises(errors.RequestHeadTooLarge):
        head(b"x" * (connections.HEAD_LIMIT + 1)).readline()


def test_a_line_between_chunks_has_a_limit() -> None:
    lines = Lines(io.BufferedReader(io.BytesIO(b"1f\r\n" + b"0" * 10_000)))  # type: ignore[type-var]
    assert lines.readline() == b"1f\r\n"
    with pytest.raises(OSError, match="too long"):
        lines.readline()


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        ([], None),
        ([("Content-Length", "0")], None),
        ([("Transfer-Encoding", "Chunked")], None),
        ([("Content-Length", "-1")], "not a number"),
        ([("Content-Length", "+1")], "not a number"),
        ([("Content-Length", "1_0")], "not a number"),
        ([("Content-Length", "٣")], "not a number"),
        ([("Content-Length", "")], "not a number"),
        ([("Content-Length", "3"), ("content-length", "3")], "not a number"),
        ([("Content-Length", "3"), ("Transfer-Encoding", "chunked")], "exclude"),
        ([("Transfer-Encoding", "gzip, chunked")], "only"),
        ([("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")], "only"),
    ],
)
def test_where_a_body_ends_is_clear(headers: list[tuple[str, str]], why: str | None) -> None:
    message = Message()
    for name, value in headers:
        message[name] = value
    found = connections.unclear(message)
    assert found is None if why is None else why in (found or "")
