"""The server of every front door against clients that are slow, silent or talk nonsense."""

from __future__ import annotations

import contextlib
import http.client
import json
import pathlib
import re
import resource
import socket
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import pytest

from minicloud import connections
from tests.integration.running import wait

TOP = pathlib.Path(__file__).resolve().parents[2]
LIMIT_S = 30.0
PEER, OTHER = "127.0.0.1", "127.0.0.2"
CHUNK = b"x" * 65536

# doors of which nothing but their errors is asked, and one that takes what comes and gives as much
# back; with the limits in its arguments, on ports that it says
SCRIPT = f"""
from minicloud import concurrency
concurrency.patch()
import json, logging, sys, threading
from oslo_config import cfg
from minicloud import connections, log, wsgi
from minicloud.api.ec2 import app as ec2
from minicloud.api.openstack.compute import app as compute
from minicloud.objectstore import app as s3

cfg.CONF([], project="minicloud", default_config_files=[])
logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
for name, value in json.loads(sys.argv[1]).items():
    setattr(connections, name, value)

def echo(environ, start_response):
    given = environ["wsgi.input"]
    size = 0
    try:
        while chunk := given.read(65536):
            size += len(chunk)
    except OSError as error:
        chunk = str(error).encode()
        start_response("400 Bad Request", [("Content-Length", str(len(chunk)))])
        return [chunk]
    start_response("200 OK", [("Content-Length", str(size))])
    return answer(size // 65536)

def answer(count):
    try:
        for _ in range(count):
            yield b"x" * 65536
    except GeneratorExit:
        logging.info("an answer was not taken")

ports = dict()
for name, application in dict(
    ec2=ec2.app(), compute=compute.app(), s3=s3.app(None), echo=echo
).items():
    listener = concurrency.listen("{PEER}", 0)
    concurrency.serve_wsgi(listener, application)
    ports[name] = listener.getsockname()[1]
print(json.dumps(ports), flush=True)
threading.Event().wait()
"""


class Doors:
    def __init__(self, ports: dict[str, int], log: pathlib.Path) -> None:
        self.ports = ports
        self.log = log

    def connect(self, door: str = "echo", source: str = PEER) -> socket.socket:
        return socket.create_connection((PEER, self.ports[door]), LIMIT_S, (source, 0))

    def say(self, door: str, said: bytes) -> http.client.HTTPResponse:
        """The answer to these bytes; its body is read."""
        with self.connect(door) as client:
            client.sendall(said)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            self.body = answer.read()
            assert client.recv(1) == b""  # it is not listened to any more
            return answer

    def served(self, source: str = PEER) -> bool:
        with self.connect(source=source) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            return client.recv(12) == b"HTTP/1.1 200"


@contextlib.contextmanager
def running(log: pathlib.Path, **limits: float) -> Iterator[Doors]:
    argv = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(limits)]
    with (
        log.open("w") as said,
        subprocess.Popen(argv, cwd=TOP, stdout=subprocess.PIPE, stderr=said, text=True) as server,
    ):
        assert server.stdout is not None
        guard = threading.Timer(90, server.kill)
        guard.start()
        try:
            ports = json.loads(server.stdout.readline())
            guard.cancel()
            yield Doors(ports, log)
        finally:
            guard.cancel()
            server.kill()


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """With the limits of the product."""
    with running(tmp_path_factory.mktemp("doors") / "log") as made:
        yield made


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """In a hurry."""
    log = tmp_path_factory.mktemp("strict") / "log"
    with running(log, HEAD_S=1.0, PATIENCE_S=1.0) as made:
        yield made


NONSENSE = {
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n": "Bad request",  # TLS
    b"GET /x HTTP/1.1 more\r\n\r\n": "Bad request version",
    b"PRI * HTTP/2.0\r\n\r\n": "Invalid HTTP version",
    b"POST /x HTTP/1.1\r\nContent-Length: -1\r\n\r\n": "Content-Length is not a number",
    b"POST /x HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n": "not a number",
    b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n": "not a number",
    b"POST /x HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n": "exclude",
    b"POST /x HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n": "chunked",
    b"GET /x HTTP/1.1\r\nA: b\r\n c: d\r\n\r\n": "several lines",
    b"GET /x HTTP/1.1\r\nA: b\0c\r\n\r\n": "control character",
    b"GET /x HTTP/1.1\r\nA: \x1b[31m\r\n\r\n": "control character",
    b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n": "larger than 16384 bytes",
    b"GET /x HTTP/1.1\r\n"
    + (b"a: " + b"b" * 3_000 + b"\r\n") * 6
    + b"\r\n": "larger than 16384 bytes",
    b"GET /x HTTP/1.1\r\n" + b"a: b\r\n" * 150 + b"\r\n": "Too many headers",
    b"GET /x HTTP/1.1\r\nA: " + b"b" * 200_000 + b"\r\n\r\n": "larger than 16384 bytes",
}


@pytest.mark.parametrize("said", NONSENSE, ids=lambda said: ascii(said[:30]))
@pytest.mark.parametrize("door", ["ec2", "s3", "compute"])
def test_what_is_no_request_is_refused_in_the_doors_own_form(
    doors: Doors, door: str, said: bytes
) -> None:
    lines = len(doors.log.read_text().splitlines())
    answer = doors.say(door, said)
    assert 400 <= answer.status < 500
    body = doors.body.decode()
    if door == "ec2":
        found = ET.fromstring(body)
        text, id = found.findtext("Errors/Error/Message"), found.findtext("RequestID")
    elif door == "s3":
        found = ET.fromstring(body)
        text, id = found.findtext("Message"), found.findtext("RequestId")
    else:
        [fault] = json.loads(body).values()
        text, id = fault["message"], answer.headers["x-openstack-request-id"]
    assert NONSENSE[said] in (text or "")
    assert re.fullmatch("req-[0-9a-f-]{36}", id or "")
    logged = doors.log.read_text().splitlines()[lines:]
    assert len(logged) == 1
    assert f" {answer.status} " in logged[0]


def test_a_head_that_does_not_end_is_given_up(strict: Doors) -> None:
    answer = strict.say("s3", b"GET /x HTTP/1.1\r\nHost:")
    assert (answer.status, b"<Code>RequestTimeout</Code>" in strict.body) == (408, True)
    with strict.connect() as silent:
        assert silent.recv(1) == b""


def test_a_head_in_small_pieces_has_no_more_time_than_another(strict: Doors) -> None:
    with strict.connect("s3") as client:
        client.sendall(b"GET / HTTP/1.1\r\nA: ")
        client.settimeout(0.1)
        for _ in range(int(LIMIT_S / 0.1)):
            client.sendall(b"b")
            with contextlib.suppress(TimeoutError):
                assert client.recv(12) == b"HTTP/1.1 408"
                return
        raise AssertionError("it is still listened to")


@pytest.fixture
def descriptors() -> Iterator[None]:
    """Enough of them for a crowd of clients."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(soft, 4096)), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most))


@pytest.mark.usefixtures("descriptors")
def test_silent_clients_of_one_address_lock_nobody_out(doors: Doors) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(connections.TOTAL + 200):
            stack.enter_context(doors.connect()).sendall(b"GET / HTT")
        assert doors.served(OTHER)
        assert doors.served()


@pytest.mark.usefixtures("descriptors")
def test_requests_of_one_address_that_never_end_lock_no_other_out(doors: Doors) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(connections.SHARE):
            client = stack.enter_context(doors.connect())
            client.sendall(b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 100"  # its body is waited for
        assert doors.served(OTHER)
        with doors.connect() as refused, contextlib.suppress(ConnectionError):
            assert refused.recv(1) == b""
    assert f"{PEER} has {connections.SHARE} requests under way" in doors.log.read_text()
    wait(doors.served, LIMIT_S)


def test_a_body_that_stands_still_is_given_up(strict: Doors) -> None:
    answer = strict.say("echo", b"PUT / HTTP/1.1\r\nContent-Length: 9\r\n\r\n1")
    assert answer.status == 400


def test_an_answer_that_nobody_reads_is_given_up(strict: Doors) -> None:
    size = 64 << 20
    with strict.connect() as client:
        client.sendall(b"PUT / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // len(CHUNK)):
            client.sendall(CHUNK)
        assert client.recv(12, socket.MSG_WAITALL) == b"HTTP/1.1 200"
        wait(lambda: "an answer was not taken" in strict.log.read_text(), LIMIT_S)


def test_a_line_between_chunks_without_end_is_given_up(doors: Doors) -> None:
    with doors.connect() as client:
        client.sendall(b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"0" * 10_000)
        assert client.recv(12) == b"HTTP/1.1 400"
