"""The OpenStack APIs of a cloud in this process, behind real sockets."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socketserver
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref import simple_server, validate

import pytest

from minicloud import context, wsgi
from minicloud.api.openstack.compute import app as compute
from minicloud.api.openstack.identity import app as identity
from minicloud.api.openstack.image import app as image
from minicloud.cloud import projects, users

SERVICES = {"identity": identity, "compute": compute, "image": image}
PREFIXES = {"identity": "/v3", "compute": "/v2.1", "image": "/v2"}


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def fault(self) -> str:
        """The name of the one fault in it."""
        [name] = self.json
        return name

    @property
    def message(self) -> str:
        return self.json[self.fault]["message"]


class _Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


class _Quiet(simple_server.WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(application: wsgi.Application) -> Iterator[str]:
    """The address of a server of it."""
    server = _Server(("127.0.0.1", 0), _Quiet)
    server.set_app(validate.validator(application))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@dataclasses.dataclass(frozen=True)
class Who:
    """A user with a password, and a project."""

    user_id: str
    user: str
    password: str
    project_id: str
    project: str


@dataclasses.dataclass
class Door:
    """The three APIs as a client finds them; `ask` is `bob` in his project `bobs`."""

    urls: dict[str, str]
    bob: Who
    tokens: dict[str, str] = dataclasses.field(default_factory=dict)

    def send(
        self,
        service: str,
        method: str,
        path: str,
        body: Any = None,
        token: str | None = None,
        **headers: str,
    ) -> Answer:
        """Exactly this request; `body` is bytes, or goes as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            names["X-Auth-Token"] = token
        if data is not None:
            names.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(
            self.urls[service] + path, data=data, headers=names, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return Answer(answer.status, dict(answer.headers), answer.read())
        except urllib.error.HTTPError as answer:
            with answer:
                return Answer(answer.code, dict(answer.headers), answer.read())

    def log_in(self, who: Who, **changes: Any) -> Answer:
        """POST /v3/auth/tokens by name and password, as the clients do."""
        domain = {"id": "default"}
        user = {"name": who.user, "domain": domain, "password": who.password}
        auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": who.project, "domain": domain}},
        }
        return self.send("identity", "POST", "/v3/auth/tokens", {"auth": {**auth, **changes}})

    def token(self, who: Who | None = None) -> str:
        who = who or self.bob
        if who.user not in self.tokens:
            self.tokens[who.user] = self.log_in(who).headers["X-Subject-Token"]
        return self.tokens[who.user]

    def ask(
        self, service: str, method: str, path: str, body: Any = None, who: Who | None = None
    ) -> Answer:
        """That request below the service's prefix, with a token."""
        return self.send(service, method, PREFIXES[service] + path, body, self.token(who))


@pytest.fixture
def door(caller: object, options: Callable[..., None]) -> Iterator[Door]:
    """The APIs on the database of `caller`, with no daemon behind them unless asked for."""
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(serving(app.app())) for name, app in SERVICES.items()}
        options(
            "openstack",
            identity_url=urls["identity"] + "/v3",
            compute_url=urls["compute"] + "/v2.1",
            image_url=urls["image"],
        )
        yield Door(urls, account("bob", "bobs"))


def account(user: str, project: str, admin: bool = False) -> Who:
    users.create(context.admin(), user, is_admin=admin)
    projects.create(context.admin(), project, user)
    keys = projects.credentials(context.admin(), project, user)
    password = users.password(context.admin(), user)
    assert password is not None
    return Who(keys.user_id, user, password, keys.project_id, project)


@pytest.fixture
def root(door: Door) -> Who:
    """An admin."""
    return account("root", "roots", admin=True)


@pytest.fixture
def carol(door: Door) -> Who:
    """Somebody else."""
    return account("carol", "carols")
