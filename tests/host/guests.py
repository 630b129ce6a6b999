"""A guest as its user sees it: by the EC2 API, by ssh, by its ports."""

from __future__ import annotations

import socket
import subprocess
import time
from typing import Any

from tests.integration.running import RunningCloud, wait

BOOT_LIMIT_S = 240.0  # emulated, on shared cores
ECHO = 9000
USER_DATA = """#!/bin/sh
echo said >> /root/said
"""
SSH = (
    *("ssh", "-q", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"),
    *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
    *("-o", "ConnectTimeout=60"),
)


class Guest:
    """An instance of the cloud; call from inside the cloud's network namespace."""

    def __init__(self, cloud: RunningCloud, ec2: Any, id: str) -> None:
        self.cloud = cloud
        self.ec2 = ec2
        self.id = id

    @property
    def described(self) -> dict[str, Any]:
        answer = self.ec2.describe_instances(InstanceIds=[self.id])
        found: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
        return found

    @property
    def state(self) -> str:
        return str(self.described["State"]["Name"])

    @property
    def address(self) -> str:
        return str(self.described["PrivateIpAddress"])

    @property
    def mac(self) -> str:
        return str(self.described["NetworkInterfaces"][0]["MacAddress"])

    def console(self) -> str:
        return str(self.ec2.get_console_output(InstanceId=self.id).get("Output", ""))

    def ssh(
        self, command: str, user: str = "root", key: str = "", limit_s: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """One command in the guest, however it ends; 255 is ssh's own failure."""
        identity = key or str(self.cloud.state / "admin.pem")
        argv = [*SSH, "-i", identity, f"{user}@{self.address}", command]
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def run(self, command: str, user: str = "root") -> str:
        """What a command in the guest says; it must succeed."""
        done = self.ssh(command, user)
        assert done.returncode == 0, f"{command}: {done.returncode} {done.stdout}{done.stderr}"
        return done.stdout

    def listen(self) -> None:
        """Its echo service runs; repeating changes nothing."""
        self.run(f"pidof nc || nc -ll -p {ECHO} -e cat > /dev/null 2>&1 < /dev/null &")

    def boot_id(self) -> str:
        """Another one after each boot."""
        return self.run("cat /proc/sys/kernel/random/boot_id").strip()

    def wait_state(self, state: str, limit_s: float = BOOT_LIMIT_S) -> None:
        wait(lambda: self.state == state, limit_s, f"{self.id} is {state}")

    def wait_ssh(self) -> None:
        """It can be entered: its boot is over as far as its user is concerned."""
        wait(
            lambda: self.ssh("true").returncode == 0,
            BOOT_LIMIT_S,
            f"ssh into {self.id} works; its console ends: {self.console()[-500:]}",
        )

    def wait_up(self) -> None:
        """Also what comes after ssh is done: user data, power button."""
        self.wait_ssh()
        wait(lambda: self.ssh("test -e /run/up").returncode == 0, BOOT_LIMIT_S, "the guest is up")


def launch(cloud: RunningCloud, ec2: Any, count: int = 1, **more: Any) -> list[Guest]:
    """New guests, if not said otherwise of the tiny image with our key and user data, not waited
    for."""
    asked = {
        "ImageId": "ami-tty",
        "SecurityGroups": ["ssh"],
        "KeyName": "admin",
        "UserData": USER_DATA,
        **more,
    }
    answer = ec2.run_instances(InstanceType="m1.nano", MinCount=count, MaxCount=count, **asked)
    return [Guest(cloud, ec2, instance["InstanceId"]) for instance in answer["Instances"]]


class Echo:
    """An open connection to the echo port of a guest."""

    def __init__(self, address: str) -> None:
        self.socket = socket.create_connection((address, ECHO), timeout=3)

    def answers(self, limit_s: float = 3.0) -> bool:
        """Whether a byte still goes there and back."""
        self.socket.settimeout(limit_s)
        try:
            self.socket.sendall(b".")
            return self.socket.recv(1) == b"."
        except OSError:
            return False

    def close(self) -> None:
        self.socket.close()


def opens(address: str, port: int, limit_s: float = 2.0) -> bool:
    """Whether a TCP connection to that port can be made."""
    try:
        socket.create_connection((address, port), timeout=limit_s).close()
    except OSError:
        return False
    return True


def stays_closed(address: str, port: int, seconds: float = 4.0) -> bool:
    """Whether no connection to that port can be made for that long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if opens(address, port, 1.0):
            return False
    return True
