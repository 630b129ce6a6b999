"""A cloud with real guests, in a network namespace of its own, once for all host tests."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.host import guests, spaces
from tests.host.guests import Guest
from tests.integration.running import RunningCloud


def _missing() -> str:
    if os.geteuid() != 0:
        return "not root: a network namespace and real guests need it"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun: guests' network cards are taps"
    return ""


@pytest.fixture(scope="session")
def places() -> Iterator[tuple[str, str]]:
    """The namespace the cloud lives in, and the outside world its default route leads to."""
    reason = _missing()
    if reason:
        pytest.skip(reason)
    with spaces.uplinked() as names:
        yield names


@pytest.fixture(scope="session")
def cloud(places: tuple[str, str]) -> Iterator[RunningCloud]:
    """A running cloud with its first instance; nothing of it is left afterwards."""
    # a short path: unix sockets lie below it
    state = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    state.chmod(0o755)  # the daemons have a user of their own
    made = RunningCloud(state, LIBVIRT_TYPE="qemu")
    made.command("install")  # here, where there is a way out
    try:
        with spaces.inside(places[0]):
            made.command("run_detached")
        yield made
    finally:
        with spaces.inside(places[0]):
            made.command("scrub")
            left = made.command("scrub", "--list").stdout
            links = spaces.sh("ip", "-o", "link", "show")
            tables = spaces.sh("nft", "list", "tables")
            made.command("scrub", "--all")
        shutil.rmtree(state, ignore_errors=True)
    assert left == "", f"scrub left: {left}"
    assert {line.split()[1].split("@")[0] for line in links.splitlines()} == {"lo:", "uplink"}
    assert tables == ""


@pytest.fixture(scope="session")
def ec2(cloud: RunningCloud) -> Any:
    """An unmodified boto3 client; use it inside the cloud's namespace."""
    return cloud.ec2(retries=5)


@pytest.fixture
def inside_cloud(places: tuple[str, str], cloud: RunningCloud) -> Iterator[None]:
    """The test runs in the cloud's namespace."""
    with spaces.inside(places[0]):
        yield


@pytest.fixture(scope="session")
def first(places: tuple[str, str], cloud: RunningCloud, ec2: Any) -> Guest:
    """The instance that run_detached started."""
    with spaces.inside(places[0]):
        found = [
            instance
            for reservation in ec2.describe_instances()["Reservations"]
            for instance in reservation["Instances"]
        ]
        oldest = min(found, key=lambda instance: instance["LaunchTime"])
        guest = Guest(cloud, ec2, oldest["InstanceId"])
        guest.wait_up()
        return guest


@pytest.fixture(scope="session")
def pair(places: tuple[str, str], cloud: RunningCloud, ec2: Any) -> list[Guest]:
    """Two guests in the groups `ssh` and `doors` (which has no rule)."""
    with spaces.inside(places[0]):
        ec2.create_security_group(GroupName="doors", Description="opened and closed by tests")
        found = guests.launch(cloud, ec2, count=2, SecurityGroups=["ssh", "doors"])
        for guest in found:
            guest.wait_up()
        return found


@pytest.fixture
def echoing(places: tuple[str, str], pair: list[Guest]) -> list[Guest]:
    """The pair with its echo service, also after a test that booted one of them again."""
    with spaces.inside(places[0]):
        for guest in pair:
            guest.listen()
    return pair
