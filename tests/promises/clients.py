"""Clients of a cloud's front doors: boto3, unmodified, and the standard library for OpenStack."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from tests.promises.daemons import LIMIT_S

# there was no answer
AWAY = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    http.client.HTTPException,
    OSError,
)

REFUSED = botocore.exceptions.ClientError

_session = boto3.session.Session()  # one: it keeps the models it has read
_session_lock = threading.Lock()


def doors(rc: Mapping[str, str], port: Callable[[str], int], shift: int) -> dict[str, Any]:
    """Clients with the keys in novarc, by service; `shift` is added to the ports of the API."""
    keys = {
        "region_name": rc["AWS_DEFAULT_REGION"],
        "aws_access_key_id": rc["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": rc["AWS_SECRET_ACCESS_KEY"],
    }
    config = botocore.config.Config(
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        read_timeout=LIMIT_S,
        connect_timeout=10,
    )
    endpoints = {"ec2": port("api") + shift, "s3": port("objectstore")}
    with _session_lock:
        made = {
            service: _session.client(
                service, endpoint_url=f"http://127.0.0.1:{number}", config=config, **keys
            )
            for service, number in endpoints.items()
        }
    return {**made, "openstack": OpenStack(rc, port, shift)}


def told(error: Any) -> tuple[str, int]:
    response = error.response
    return response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]


class OpenStack:
    """A client of the OpenStack APIs, of the standard library only."""

    def __init__(self, rc: Mapping[str, str], port: Callable[[str], int], shift: int) -> None:
        self._rc = rc
        self._ports = {
            name: port(f"{name}-api") + shift for name in ("identity", "compute", "image")
        }
        self.token = ""

    def call(
        self,
        method: str,
        service: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] = {},
    ) -> Any:
        """The answer's JSON; OpenStackError when it is refused."""
        if not self.token:
            self.login()
        headers = {"X-Auth-Token": self.token, **headers}
        return self.send(method, service, path, body, headers)[1]

    def login(self) -> None:
        rc = self._rc
        domain = {"name": "Default"}
        user = {"name": rc["OS_USERNAME"], "password": rc["OS_PASSWORD"], "domain": domain}
        asked = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": rc["OS_PROJECT_NAME"], "domain": domain}},
            }
        }
        headers, _ = self.send("POST", "identity", "/v3/auth/tokens", asked, {})
        self.token = headers["x-subject-token"]

    def send(
        self, method: str, service: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> tuple[dict[str, str], Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._ports[service], timeout=LIMIT_S)
        raw = isinstance(body, bytes)
        kind = "application/octet-stream" if raw else "application/json"
        data = body if raw else json.dumps(body).encode() if body is not None else None
        try:
            connection.request(method, path, data, {**headers, "Content-Type": kind})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= 400:
            raise OpenStackError(
                {
                    "Error": {"Code": str(answer.status), "Message": text.decode()},
                    "ResponseMetadata": {"HTTPStatusCode": answer.status},
                },
                f"{method} {path}",
            )
        told = {name.lower(): value for name, value in answer.getheaders()}
        return told, json.loads(text) if text.startswith((b"{", b"[")) else text


class OpenStackError(botocore.exceptions.ClientError):  # type: ignore[misc]
    """A refusal, in the shape of boto3's."""
