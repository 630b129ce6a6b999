"""The S3 port of a cloud in this process, behind a real socket, and clients of it."""

from __future__ import annotations

import dataclasses
import http.client
import pathlib
import socketserver
import threading
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref import simple_server

import boto3
import pytest
from botocore import auth, awsrequest, config, credentials

from minicloud import context, daemon
from minicloud.cloud import projects, users
from minicloud.objectstore import app
from minicloud.objectstore.manager import Manager
from tests.conftest import InProcessCloud


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class _Handler(simple_server.WSGIRequestHandler):
    """One request a connection; `Expect: 100-continue` is answered as the daemon's server does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def get_environ(self) -> dict[str, Any]:
        made = super().get_environ()
        made["RAW_PATH_INFO"] = self.path.partition("?")[0]
        if self.headers.get("content-type") is None:
            del made["CONTENT_TYPE"]
        return made


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclasses.dataclass(frozen=True)
class Store:
    """S3 as a client finds it, and the keys of the users `bob` and `eve` in a project each."""

    port: int
    bob: projects.Credentials
    eve: projects.Credentials
    life: daemon.Life
    files: pathlib.Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, who: projects.Credentials | None = None, **settings: Any) -> Any:
        """An unmodified boto3 client that does not try again."""
        keys = who or self.bob
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=keys.access_key,
            aws_secret_access_key=keys.secret,
            config=config.Config(
                retries={"max_attempts": 0}, read_timeout=30, s3={"addressing_style": "path"}
            ).merge(config.Config(**settings)),
            region_name="nova",
        )

    def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        """Exactly this request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return Answer(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            connection.close()

    def before_the_body(self, method: str, path: str) -> int:
        """The status of the answer to that unsigned request, whose body never comes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path)
            connection.putheader("Content-Length", str(4 << 20))
            connection.endheaders()
            return connection.getresponse().status
        finally:
            connection.close()

    def signed(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """This request, signed with version 4 as `bob`."""
        request = awsrequest.AWSRequest(method, self.url + path, data=body)
        for name, value in headers.items():
            request.headers[name.replace("_", "-")] = value
        who = credentials.Credentials(self.bob.access_key, self.bob.secret)
        auth.S3SigV4Auth(who, "s3", "nova").add_auth(request)
        return self.send(method, path, dict(request.headers.items()), body)

    def settled(self, count: int) -> bool:
        """Exactly `count` files are left."""
        return len(list(self.files.iterdir())) == count


@pytest.fixture
def store(
    bare_cloud: InProcessCloud,
    caller: object,
    options: Callable[..., None],
    tmp_path: pathlib.Path,
) -> Iterator[Store]:
    """An object store daemon in this process."""
    files = tmp_path / "files"
    options("objectstore", path=str(files))
    manager = Manager()
    bare_cloud._live(manager, "h1")
    server = _Server(("127.0.0.1", 0), _Handler)
    server.set_app(app.app(manager))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    life = bare_cloud.lives["objectstore@h1"]
    yield Store(server.server_address[1], _user("bob"), _user("eve"), life, files)
    server.shutdown()
    thread.join()
    server.server_close()


def _user(name: str) -> projects.Credentials:
    users.create(context.admin(), name)
    projects.create(context.admin(), f"{name}s", name)
    return projects.credentials(context.admin(), f"{name}s", name)


@pytest.fixture
def s3(store: Store) -> Any:
    """boto3 as `bob`, with the bucket `box`."""
    made = store.client()
    made.create_bucket(Bucket="box")
    return made
