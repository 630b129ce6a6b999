"""A client that costs little: what is measured is the cloud."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any

LIMIT_S = 300


class Door:
    """The OpenStack APIs, a connection each that is kept, as a service's client does."""

    def __init__(self, rc: Mapping[str, str], port: Callable[[str], int], token: str = "") -> None:
        self._rc = rc
        self._ports = {name: port(f"{name}-api") for name in ("identity", "compute", "image")}
        self._open: dict[str, http.client.HTTPConnection] = {}
        self.token = token or self.login()

    def login(self) -> str:
        """A new token, by password."""
        domain = {"name": "Default"}
        rc = self._rc
        user = {"name": rc["OS_USERNAME"], "password": rc["OS_PASSWORD"], "domain": domain}
        scope = {"project": {"name": rc["OS_PROJECT_NAME"], "domain": domain}}
        methods = {"methods": ["password"], "password": {"user": user}}
        body = {"auth": {"identity": methods, "scope": scope}}
        answer = self._send("identity", "POST", "/v3/auth/tokens", body, {})
        answer.read()
        return str(answer.headers["X-Subject-Token"])

    def call(self, service: str, method: str, path: str, body: Any = None) -> bytes:
        """The body of the answer; RuntimeError when it is a refusal."""
        headers = {"X-Auth-Token": self.token, "X-Subject-Token": self.token}
        answer = self._send(service, method, path, body, headers)
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()[:500]}")
        return text

    def _send(
        self, service: str, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        data = None if body is None else json.dumps(body)
        kind = {"Content-Type": "application/json"} if data else {}
        if service in self._open:
            try:
                self._open[service].request(method, path, data, {**headers, **kind})
                return self._open[service].getresponse()
            except (http.client.RemoteDisconnected, ConnectionError):
                pass  # it was closed while nobody used it
        link = http.client.HTTPConnection("127.0.0.1", self._ports[service], timeout=LIMIT_S)
        self._open[service] = link
        link.request(method, path, data, {**headers, **kind})
        return link.getresponse()
