"""Bytes that are nearly HTTP, at the server of every front door."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterator

import pytest

from tests.functional.fuzz import chance as chances
from tests.functional.fuzz.chance import Chance
from tests.functional.test_slow_clients import Doors, running

BODY = b"Action=DescribeRegions&Version=2016-11-15"
CHUNKS = b"5\r\n12345\r\n3;a=b\r\n678\r\n0\r\nA: b\r\n\r\n"
SIGNED = (
    b"Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/nova/ec2/aws4_request, Signature=1"
)
REQUESTS = (
    b"GET /services/Cloud HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /?Action=DescribeRegions HTTP/1.1\r\nHost: x\r\n" + SIGNED + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 41\r\n\r\n" + BODY,
    b"POST /v2.1/servers HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    b"PUT /v2/x HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n",
)
PIECES = (
    *(b"\r", b"\n", b"\r\n\r\n", b"\0", b"\xff", b" ", b"\t", b":", b"HTTP/9.9", b"HTTP/1.1.1"),
    *(
        b"9" * 30,
        b"9" * 5000,
        b"-1",
        b"+1",
        b"0x10",
        b"1_0",
        b"\r\n folded: x",
        b"%",
        b"#",
        b"//x",
    ),
    *(b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n"),
    *(
        b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
        b"ffffffffffffffff\r\n",
        b"Content-Type: ;;=\r\n",
    ),
    *(b"Host: a\r\nHost: b\r\n", b"Expect: x\r\n", b"Expect: 100-continue\r\n", b"A_B: c\r\n"),
)
HEAD = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) (.*?)\r\n\r\n", re.DOTALL)


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    with running(tmp_path_factory.mktemp("doors") / "log") as made:
        yield made


def garbled(chance: Chance) -> bytes:
    request = chance.choice(REQUESTS)
    if chance.random() < 0.4:
        return chances.garbled_bytes(chance, request)
    words = re.split(rb"([ :\r\n/?;=]+)", request)
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(words))
        words[at] = chance.choice((chance.choice(PIECES), b"", words[at] * 2))
    return b"".join(words)


def came(doors: Doors, door: str, said: bytes) -> bytes:
    """All that comes back for these bytes, until the server hangs up."""
    back = b""
    with doors.connect(door) as client, contextlib.suppress(ConnectionError):
        client.sendall(said)
        client.shutdown(socket.SHUT_WR)
        while some := client.recv(65536):
            back += some
    return back


@pytest.mark.parametrize("door", ["ec2", "compute"])
def test_bytes_that_are_nearly_a_request_are_answered_or_hung_up_on(
    doors: Doors, door: str
) -> None:
    told = 0
    for chance in chances.examples(200):
        said = garbled(chance)
        back = came(doors, door, said)
        for status, head in HEAD.findall(back):
            fine = int(status) < 500 or status == b"501"
            own = status == b"100" or b"x-amzn-requestid: req-" in head
            assert fine, f"{chance.example}: {said!r}\n{back!r}"
            assert own, f"{chance.example}: {said!r}\n{back!r}"
            told += 1
    assert told > 100
    log = doors.log.read_text()
    assert "Traceback" not in log, log[-3000:]
    assert doors.served()
