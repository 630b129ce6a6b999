"""A guest that an unmodified `openstack` command starts is entered with the key it made."""

from __future__ import annotations

import pathlib
import subprocess

import pytest

from tests.conformance import clients
from tests.conformance.clients import User
from tests.host.guests import BOOT_LIMIT_S, SSH
from tests.integration.running import RunningCloud, wait

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def venv() -> pathlib.Path:
    """Where the clients are installed: here, where there is a way out."""
    return clients.installed()


def test_a_server_is_entered_by_ssh_and_shown_by_both_apis(
    venv: pathlib.Path, cloud: RunningCloud, inside_cloud: None, tmp_path: pathlib.Path
) -> None:
    user = User(venv, tmp_path, cloud.environment)

    def do(*words: str) -> str:
        return user.says("openstack", *words).strip()

    do("keypair", "create", "--private-key", "key.pem", "mine")
    (tmp_path / "key.pem").chmod(0o600)
    do(
        *("server", "create", "--image", "ami-tty", "--flavor", "m1.nano", "--key-name", "mine"),
        *("--security-group", "ssh", "--wait", "web"),
    )
    [address] = user.json("openstack", "server", "show", "web", "-f", "json")["addresses"][
        "private"
    ]

    def enter(command: str) -> subprocess.CompletedProcess[str]:
        argv = [*SSH, "-i", str(tmp_path / "key.pem"), f"root@{address}", command]
        return subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )

    wait(lambda: enter("true").returncode == 0, BOOT_LIMIT_S, "ssh into the server works")
    instance = enter("wget -q -O - http://169.254.169.254/latest/meta-data/instance-id").stdout
    [reservation] = cloud.ec2().describe_instances(InstanceIds=[instance.strip()])["Reservations"]
    [shown] = reservation["Instances"]
    assert (shown["State"]["Name"], shown["PrivateIpAddress"]) == ("running", address)
    assert shown["KeyName"] == "mine"
    wait(lambda: f"instance-id {instance.strip()}" in do("console", "log", "show", "web"))
    do("server", "delete", "--wait", "web")
    do("keypair", "delete", "mine")
