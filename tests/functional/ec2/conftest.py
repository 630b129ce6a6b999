"""The EC2 API of a cloud in this process, behind a real socket, and clients of it."""

from __future__ import annotations

import dataclasses
import socketserver
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref import simple_server, validate

import boto3
import pytest
from botocore import auth, awsrequest, config, credentials

from minicloud import context
from minicloud.api.ec2 import app, endpoint
from minicloud.cloud import projects, users


@dataclasses.dataclass(frozen=True)
class Answer:
    """An HTTP answer; `find` reads its XML without caring for namespaces."""

    status: int
    headers: dict[str, str]
    body: bytes

    def find(self, path: str) -> str | None:
        found = ET.fromstring(self.body).find("/".join(f"{{*}}{part}" for part in path.split("/")))
        return None if found is None else found.text or ""

    @property
    def code(self) -> str | None:
        return self.find("Errors/Error/Code")

    @property
    def message(self) -> str:
        return self.find("Errors/Error/Message") or ""


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class _Quiet(simple_server.WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@dataclasses.dataclass(frozen=True)
class Door:
    """The EC2 API as a client finds it, and the keys of a user `bob` in his project `bobs`."""

    url: str
    keys: projects.Credentials

    def client(self, access_key: str | None = None, secret: str | None = None) -> Any:
        """An unmodified boto3 client that does not try again."""
        return boto3.client(
            "ec2",
            endpoint_url=self.url + "/services/Cloud",
            aws_access_key_id=access_key or self.keys.access_key,
            aws_secret_access_key=secret or self.keys.secret,
            config=config.Config(retries={"max_attempts": 0}, read_timeout=20),
            region_name="nova",
        )

    def ask(self, parameters: str | bytes, path: str = "/services/Cloud") -> Answer:
        """A signed POST of this form body."""
        body = parameters if isinstance(parameters, bytes) else parameters.encode()
        request = awsrequest.AWSRequest("POST", self.url + path, data=body)
        request.headers["Content-Type"] = "application/x-www-form-urlencoded"
        who = credentials.Credentials(self.keys.access_key, self.keys.secret)
        auth.SigV4Auth(who, "ec2", "nova").add_auth(request)
        return self.send("POST", path, dict(request.headers.items()), body)

    def send(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> Answer:
        """Exactly this request."""
        request = urllib.request.Request(
            self.url + path, data=body, headers=headers, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as answer:
            with answer:
                return Answer(answer.code, dict(answer.headers), answer.read())


@pytest.fixture
def door(caller: object, options: Callable[..., None]) -> Iterator[Door]:
    """An EC2 API on the database of `caller`, with no daemon behind it unless asked for."""
    server = _Server(("127.0.0.1", 0), _Quiet)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    options("api", ec2_url=url + endpoint.PATHS[0])
    server.set_app(validate.validator(app.app()))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield Door(url, _bob())
    server.shutdown()
    thread.join()
    server.server_close()


def _bob() -> projects.Credentials:
    users.create(context.admin(), "bob")
    projects.create(context.admin(), "bobs", "bob")
    return projects.credentials(context.admin(), "bobs", "bob")


@pytest.fixture
def ec2(door: Door) -> Any:
    """boto3 as `bob`."""
    return door.client()
