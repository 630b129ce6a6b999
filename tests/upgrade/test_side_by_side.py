"""Daemons of the release before are replaced one by one while their users go on.

The old ones are played by tests/upgrade/old.py; with MINICLOUD_RELEASE_BEFORE, the directory of
that release's checkout, they are its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from concurrent import futures
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa

from minicloud import context, errors, interfaces, rpc
from minicloud.context import Context
from tests.integration.running import free_offset
from tests.mariadb import mariadb
from tests.promises import play, truth
from tests.promises.bed import HOST, Cloud
from tests.promises.clients import AWAY, REFUSED, told
from tests.promises.daemons import LIMIT_S, Late, Nursery, wait
from tests.upgrade import before, keep

__all__ = ["mariadb"]

T = TypeVar("T")

# docs/upgrading.md: who applies before who decides
ORDER = ("objectstore", "volume", "network", "compute", "scheduler", "api2", "api")
NANO = {"ImageId": "ami-tty", "InstanceType": "m1.nano", "MinCount": 1, "MaxCount": 1}


@pytest.fixture(scope="session")
def old_nursery() -> Iterator[Nursery]:
    given = os.environ.get("MINICLOUD_RELEASE_BEFORE")
    made = Nursery(top=pathlib.Path(given)) if given else Nursery("tests.upgrade.old")
    yield made
    made.close()


@pytest.fixture
def cloud(
    request: pytest.FixtureRequest, old_nursery: Nursery, nursery: Nursery, url: str
) -> Iterator[Cloud]:
    """A cloud of the release before, on the engine that is asked for; what is started from now on
    is this release's."""
    database = ""
    if request.param == "mariadb":
        server: str = request.getfixturevalue("mariadb")
        with sa.create_engine(server).begin() as connection:
            connection.execute(sa.text("CREATE DATABASE side_by_side"))
        database = server.replace("/minicloud?", "/side_by_side?")
    made = Cloud(old_nursery, url, free_offset(), database)
    made.nursery = nursery
    yield made
    made.close()
    if database:
        with sa.create_engine(server).begin() as connection:
            connection.execute(sa.text("DROP DATABASE side_by_side"))


class Tenant:
    """Asks for everything, round after round; only a closed door and a clear 503 are borne."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.rounds = 0
        self.over = threading.Event()
        self.working: futures.Future[None]

    def ask(self, service: str, method: str, *already: str, **arguments: Any) -> Any:
        """The answer; `already` is what is said when it had happened, and only that was lost."""
        return self.insist(lambda: self.cloud.once(service, method, **arguments), already)

    def insist(self, call: Callable[[], T], already: Collection[str] = ()) -> T | None:
        """Called again while there is no answer, or one that says which part is away."""
        until, again = time.monotonic() + LIMIT_S, False
        while True:
            try:
                return call()
            except AWAY as error:
                refused: Exception = error
            except REFUSED as error:
                code, status = told(error)
                if again and code in already:
                    return None
                if status != 503 or not re.search("daemon of|database|h1 is down", str(error)):
                    raise
                refused = error
            if time.monotonic() > until:
                raise Late(f"not answered: {refused}") from refused
            again = True
            time.sleep(0.05)

    def instance(self, id: str) -> dict[str, Any]:
        answer = self.ask("ec2", "describe_instances", InstanceIds=[id])
        return dict(answer["Reservations"][0]["Instances"][0])

    def volume(self, id: str) -> dict[str, Any]:
        return dict(self.ask("ec2", "describe_volumes", VolumeIds=[id])["Volumes"][0])

    def run(self) -> str:
        """A new instance, which runs."""
        wish = {**NANO, "ClientToken": self.cloud.token()}
        id = str(self.ask("ec2", "run_instances", **wish)["Instances"][0]["InstanceId"])
        self.is_in("running", id)
        return id

    def is_in(self, state: str, id: str) -> None:
        wait(lambda: self.instance(id)["State"]["Name"] == state, f"{id} is {state}")

    def round(self, steady: str) -> None:
        """An instance and a volume from their beginning to their end; all of it is asked by the
        public API, and an object and another's console are looked at."""
        id = self.run()
        wish = {"AvailabilityZone": "nova", "Size": 1, "ClientToken": self.cloud.token()}
        volume = str(self.ask("ec2", "create_volume", **wish)["VolumeId"])
        wait(lambda: self.volume(volume)["State"] == "available", f"{volume} is available")
        where = {"VolumeId": volume, "InstanceId": id, "Device": "/dev/vdb"}
        self.ask("ec2", "attach_volume", "VolumeInUse", **where)
        wait(lambda: self.attachment(volume) == "attached", f"{volume} is attached")
        self.ask("ec2", "stop_instances", InstanceIds=[id])
        self.is_in("stopped", id)
        self.ask("ec2", "start_instances", InstanceIds=[id])
        self.is_in("running", id)
        assert "Output" in self.ask("ec2", "get_console_output", InstanceId=steady)
        self.ask("ec2", "detach_volume", "IncorrectState", VolumeId=volume)
        wait(lambda: self.volume(volume)["State"] == "available", f"{volume} is detached")
        self.ask("ec2", "delete_volume", "InvalidVolume.NotFound", VolumeId=volume)
        self.ask("ec2", "terminate_instances", InstanceIds=[id])
        self.is_in("terminated", id)
        key = {"Bucket": "bucket", "Key": id}
        self.ask("s3", "put_object", **key, Body=id.encode())
        assert self.insist(lambda: self.body(key)) == id.encode()
        self.ask("s3", "delete_object", **key)

    def attachment(self, volume: str) -> str:
        found = self.volume(volume)["Attachments"]
        return str(found[0]["State"]) if found else ""

    def body(self, key: dict[str, str]) -> bytes:
        return bytes(self.cloud.once("s3", "get_object", **key)["Body"].read())

    def end_round(self) -> None:
        """The round that is under way, and has hardly begun, comes to its end."""
        goal = self.rounds + 1
        wait(lambda: self.rounds >= goal or self.working.done(), "a round ends", 3 * LIMIT_S)
        if self.working.done():
            self.working.result()

    def work(self, steady: str) -> None:
        """Rounds until it is over."""
        while not self.over.is_set():
            self.round(steady)
            self.rounds += 1


def replace(cloud: Cloud, name: str) -> None:
    """The daemon ends politely, as by its unit, and another one is in its place."""
    epoch = epochs(cloud).get(name)
    cloud.daemons[name].signal(signal.SIGTERM)
    wait(cloud.daemons[name].gone, f"{name} has ended")
    cloud.start(name)
    wait(lambda: epoch is None or epochs(cloud)[name] > epoch, f"another {name} has begun")


def epochs(cloud: Cloud) -> dict[str, int]:
    """Daemon → the number of its process; front doors have none."""
    return dict(cloud.rows("SELECT daemon, epoch FROM hosts"))


def served(cloud: Cloud) -> dict[str, str]:
    """Daemon → the version of its interface."""
    return dict(cloud.rows("SELECT daemon, version FROM hosts"))


NOW = {topic: one["version"] for topic, one in keep.messages()["topics"].items()}
BEFORE = {topic: one["version"] for topic, one in before.INTERFACES["topics"].items()}


@pytest.mark.parametrize(
    ("cloud", "order"), [("sqlite", ORDER), ("mariadb", ORDER[::-1])], indirect=["cloud"]
)
def test_daemons_are_replaced_one_by_one_and_nobody_notices(
    cloud: Cloud, order: tuple[str, ...]
) -> None:
    with working(cloud) as tenant:
        cloud.manage("db", "sync")
        assert served(cloud) == BEFORE
        tenant.end_round()
        for number, name in enumerate(order, 1):
            replace(cloud, name)
            tenant.end_round()
            old = set(order[number:]) & set(NOW)
            assert served(cloud) == NOW | {name: BEFORE[name] for name in old}
            wait(lambda old=old: unseen(cloud) == expected(old), f"all but {old} can be asked")


def unseen(cloud: Cloud) -> dict[str, str]:
    """What this release's auditor cannot look at, and why."""
    return dict(json.loads(cloud.managed("audit", "--json")[1])["unseen"])


def expected(old: Collection[str]) -> dict[str, str]:
    """The same of a cloud where these daemons are old."""
    return {
        f"{name}@{HOST} host": f"its version {BEFORE[name]} cannot be asked yet"
        for name in old
        if not rpc.serves(BEFORE[name], interfaces.Network.audit)  # which they all have
    }


@pytest.mark.exhaustive
@pytest.mark.parametrize("cloud", ["sqlite", "mariadb"], indirect=True)
def test_an_upgrade_is_taken_back_and_done_again(cloud: Cloud, old_nursery: Nursery) -> None:
    new_nursery = cloud.nursery
    with working(cloud) as tenant:
        cloud.manage("db", "sync")
        for nursery in (new_nursery, old_nursery, new_nursery):
            cloud.nursery = nursery
            for name in ORDER if nursery is new_nursery else ORDER[::-1]:
                replace(cloud, name)
                tenant.end_round()


@contextlib.contextmanager
def working(cloud: Cloud) -> Iterator[Tenant]:
    """Somebody works meanwhile, and has a guest that never stops; nothing is wrong afterwards."""
    tenant = Tenant(cloud)
    steady = tenant.run()
    address = tenant.instance(steady)["PrivateIpAddress"]
    tenant.ask("s3", "create_bucket", Bucket="bucket")
    with futures.ThreadPoolExecutor(1) as pool:
        tenant.working = pool.submit(tenant.work, steady)
        try:
            yield tenant
        finally:
            tenant.over.set()
        tenant.working.result(3 * LIMIT_S)
    play.settle(cloud)
    assert list(truth.logs(cloud, woken=False)) == []
    assert cloud.managed("audit")[0] == 0
    guest = tenant.instance(steady)
    assert (guest["State"]["Name"], guest["PrivateIpAddress"]) == ("running", address)
    [domain] = truth.on_hosts(cloud)
    assert domain["starts"] == 1
    assert cloud.rows("SELECT instance_id FROM addresses") == [(domain["id"],)]


@rpc.ask(since="1.999")
def console_output(self: interfaces.Compute, ctx: Context, *, id: str, max_bytes: int) -> str:
    """What a newer release calls by an old name is not the old thing."""
    raise NotImplementedError


console_output.rpc_topic = "compute"  # type: ignore[attr-defined]


@pytest.mark.parametrize("cloud", ["sqlite"], indirect=True)
def test_who_asks_a_daemon_for_what_it_is_too_old_for_is_told_which_daemon_it_is(
    cloud: Cloud, url: str, options: Callable[..., None]
) -> None:
    options("DEFAULT", tag=cloud.tag)
    options("rpc", transport_url=url)
    said = f"the compute daemon of {HOST} is of an older release, without console_output"
    queue = ("compute", HOST)
    wait(lambda: rpc.readers([queue]) == {queue: 1}, what="the daemon reads its queue")
    try:
        with pytest.raises(errors.Unavailable, match=said):
            rpc.ask_host(console_output, context.admin(), HOST, id="", max_bytes=1)
    finally:
        rpc.forget_transport()
