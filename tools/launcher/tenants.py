"""Tenants of a storm: each asks for one thing after another, by both APIs, and keeps the count.

What is asked, when, and of which of its things (by a number) is drawn from the seed before the
storm begins; the answers depend on the weather.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import json
import random
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from minicloud import ids

IMAGE, FLAVOR, GROUP = "ami-tty", "m1.nano", "storm"
PAUSE_S = 1.0  # between two verbs of a tenant, on average
ANSWER_LIMIT_S = 20.0
ZONES = ("nova", "nova2")
GONE = ("shutting-down", "terminated")
# answers that say nothing about what was asked: it may have happened
SILENCE = (
    botocore.exceptions.HTTPClientError,
    botocore.exceptions.ConnectionError,
    http.client.HTTPException,
    OSError,
)


class Said(Exception):
    """An OpenStack API's refusal."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"HTTP {status}")


class NothingThere(Exception):
    """The tenant has none of what it would ask something of."""


class OpenStack:
    """The OpenStack APIs by plain HTTP; `rc` are the variables of a novarc."""

    def __init__(self, rc: Mapping[str, str], address: str, port: Callable[[str], int]) -> None:
        self._rc, self._address, self._port = rc, address, port
        self._token = ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON, None when it has none; Said when it is refused."""
        if not self._token:
            self._token = self._login()
        try:
            return self._send("compute-api", method, f"/v2.1{path}", body)[1]
        except Said as said:
            if said.status == http.HTTPStatus.UNAUTHORIZED:
                self._token = ""
            raise

    def _login(self) -> str:
        rc, domain = self._rc, {"name": "Default"}
        user = {"name": rc["OS_USERNAME"], "password": rc["OS_PASSWORD"], "domain": domain}
        asked = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": rc["OS_PROJECT_NAME"], "domain": domain}},
        }
        headers, _ = self._send("identity-api", "POST", "/v3/auth/tokens", {"auth": asked})
        return headers["x-subject-token"]

    def _send(self, port: str, method: str, path: str, body: Any) -> tuple[dict[str, str], Any]:
        connection = http.client.HTTPConnection(
            self._address, self._port(port), timeout=ANSWER_LIMIT_S
        )
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["X-Auth-Token"] = self._token
        try:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise Said(answer.status)
        told = {name.lower(): value for name, value in answer.getheaders()}
        return told, json.loads(text) if text else None


class Tenant:
    """A user with a project of its own, whose novarc it has."""

    def __init__(self, novarc: Path, address: str, port: Callable[[str], int]) -> None:
        rc = _exported(novarc)
        self.name = rc["OS_PROJECT_NAME"]
        self.counts: collections.Counter[str] = collections.Counter()
        self._stack = OpenStack(rc, address, port)
        self._ec2 = boto3.session.Session().client(
            "ec2",
            endpoint_url=rc["AWS_ENDPOINT_URL_EC2"],
            region_name=rc["AWS_DEFAULT_REGION"],
            aws_access_key_id=rc["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=rc["AWS_SECRET_ACCESS_KEY"],
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=ANSWER_LIMIT_S,
                read_timeout=ANSWER_LIMIT_S,
            ),
        )

    def live(self, seed: int, seconds: float) -> None:
        """Ask for what the seed says, when it says so, or as soon as the answer before is in."""
        began = time.monotonic()
        for at_s, verb, number in plan(seed, self.name, seconds):
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            self._ask(VERBS[verb], number)

    def _ask(self, verb: Callable[[Tenant, int], None], number: int) -> None:
        try:
            verb(self, number)
        except NothingThere:
            return
        except (botocore.exceptions.ClientError, Said) as error:
            self.counts["unavailable" if _is_unavailable(error) else "refused"] += 1
        except SILENCE:
            self.counts["unanswered"] += 1
        else:
            self.counts["accepted"] += 1
        self.counts["asked"] += 1

    # --- what is asked --------------------------------------------------------------------------

    def run(self, number: int) -> None:
        self._ec2.run_instances(
            ImageId=IMAGE,
            InstanceType=FLAVOR,
            MinCount=1,
            MaxCount=1 + number % 2,
            SecurityGroups=[GROUP] if number % 3 == 0 else [],
            Placement={"AvailabilityZone": _zone(number)} if number % 5 else {},
        )

    def terminate(self, number: int) -> None:
        self._ec2.terminate_instances(InstanceIds=[self._instance(number)])

    def start(self, number: int) -> None:
        self._ec2.start_instances(InstanceIds=[self._instance(number)])

    def stop(self, number: int) -> None:
        self._ec2.stop_instances(InstanceIds=[self._instance(number)])

    def reboot(self, number: int) -> None:
        self._ec2.reboot_instances(InstanceIds=[self._instance(number)])

    def create_volume(self, number: int) -> None:
        self._ec2.create_volume(Size=1, AvailabilityZone=_zone(number))

    def attach(self, number: int) -> None:
        volume = _nth(self._volumes(), number)
        self._ec2.attach_volume(
            VolumeId=volume,
            InstanceId=self._instance(number),
            Device=f"/dev/vd{'bcd'[number % 3]}",
        )

    def detach(self, number: int) -> None:
        self._ec2.detach_volume(VolumeId=_nth(self._volumes(), number))

    def delete_volume(self, number: int) -> None:
        self._ec2.delete_volume(VolumeId=_nth(self._volumes(), number))

    def create_group(self, number: int) -> None:
        self._ec2.create_security_group(GroupName=GROUP, Description="of a storm")

    def open_port(self, number: int) -> None:
        port = 1 + number % 100
        self._ec2.authorize_security_group_ingress(
            GroupName=GROUP, IpProtocol="tcp", FromPort=port, ToPort=port, CidrIp="0.0.0.0/0"
        )

    def delete_group(self, number: int) -> None:
        self._ec2.delete_security_group(GroupName=GROUP)

    def create_server(self, number: int) -> None:
        flavors = {
            one["name"]: one["id"] for one in self._stack.call("GET", "/flavors")["flavors"]
        }
        server = {"name": f"storm-{number}", "imageRef": IMAGE, "flavorRef": flavors[FLAVOR]}
        self._stack.call("POST", "/servers", {"server": server})

    def delete_server(self, number: int) -> None:
        self._stack.call("DELETE", f"/servers/{self._server(number)}")

    def start_server(self, number: int) -> None:
        self._act(number, {"os-start": None})

    def stop_server(self, number: int) -> None:
        self._act(number, {"os-stop": None})

    def reboot_server(self, number: int) -> None:
        self._act(number, {"reboot": {"type": "HARD" if number % 2 else "SOFT"}})

    def _act(self, number: int, action: dict[str, Any]) -> None:
        self._stack.call("POST", f"/servers/{self._server(number)}/action", action)

    # --- what it has ----------------------------------------------------------------------------

    def instances(self) -> list[str]:
        """Those that have not ended and are not about to, oldest first."""
        pages = self._ec2.get_paginator("describe_instances").paginate()
        found = [
            one for page in pages for each in page["Reservations"] for one in each["Instances"]
        ]
        alive = [one for one in found if one["State"]["Name"] not in GONE]
        return [one["InstanceId"] for one in sorted(alive, key=lambda one: one["LaunchTime"])]

    def _instance(self, number: int) -> str:
        return _nth(self.instances(), number)

    def _volumes(self) -> list[str]:
        found = self._ec2.describe_volumes()["Volumes"]
        return [one["VolumeId"] for one in sorted(found, key=lambda one: one["CreateTime"])]

    def _server(self, number: int) -> str:
        found = [one["id"] for one in self._stack.call("GET", "/servers")["servers"]]
        shown = {ids.ec2("i", id): id for id in found}
        server: str = shown[_nth([one for one in self.instances() if one in shown], number)]
        return server

    def give_all_back(self) -> bool:
        """Ask that nothing of this tenant be left; True when that is so.  May be repeated."""
        instances, volumes = self.instances(), self._volumes()
        if instances:
            self._ec2.terminate_instances(InstanceIds=instances)
        for volume in volumes:
            with contextlib.suppress(botocore.exceptions.ClientError):  # still attached
                self._ec2.delete_volume(VolumeId=volume)
        with contextlib.suppress(botocore.exceptions.ClientError):  # in use, or not there
            self._ec2.delete_security_group(GroupName=GROUP)
        return not instances and not volumes


VERBS: dict[str, Callable[[Tenant, int], None]] = {
    verb.__name__: verb
    for verb in (
        *(Tenant.run, Tenant.terminate, Tenant.start, Tenant.stop, Tenant.reboot),
        *(Tenant.create_volume, Tenant.attach, Tenant.detach, Tenant.delete_volume),
        *(Tenant.create_group, Tenant.open_port, Tenant.delete_group),
        *(Tenant.create_server, Tenant.delete_server, Tenant.start_server),
        *(Tenant.stop_server, Tenant.reboot_server),
    )
}
OFTEN = {"run": 3, "create_server": 3, "create_volume": 2, "attach": 3}  # others: once


def plan(seed: int, name: str, seconds: float) -> list[tuple[float, str, int]]:
    """What that tenant asks for: when, which verb, and the number that chooses its object."""
    chance = random.Random(f"{seed} {name}")
    weights = [OFTEN.get(verb, 1) for verb in VERBS]
    found, at_s = [], 0.0
    while (at_s := at_s + chance.expovariate(1 / PAUSE_S)) < seconds:
        [verb] = chance.choices(list(VERBS), weights)
        found.append((at_s, verb, chance.randrange(1000)))
    return found


def _zone(number: int) -> str:
    return ZONES[number % len(ZONES)]


def _nth(things: list[str], number: int) -> str:
    if not things:
        raise NothingThere
    return things[number % len(things)]


def _is_unavailable(error: Exception) -> bool:
    if isinstance(error, botocore.exceptions.ClientError):
        status = error.response["ResponseMetadata"].get("HTTPStatusCode", 0)
        return int(status) >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    return isinstance(error, Said) and error.status >= http.HTTPStatus.INTERNAL_SERVER_ERROR


def _exported(novarc: Path) -> dict[str, str]:
    """What a shell has that sourced the file."""
    script = '. "$1" && env -0'
    shown = subprocess.run(
        ["/bin/bash", "-c", script, "bash", str(novarc)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(line.split("=", 1) for line in shown.split("\0") if "=" in line)
