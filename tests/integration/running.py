"""A simulated cloud of real daemons, as `tools/minicloud.sh run_detached` makes it."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, TypeVar

import boto3
import botocore.config

TOP = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = TOP / "tools" / "minicloud.sh"
# what a cloud on SQLite listens on, before the offset
PORTS = (8773, 5000, 8774, 9292, 3333, 5672, 13677, 14369)

T = TypeVar("T")


def wait(condition: Callable[[], T], limit_s: float = 60.0, what: str = "") -> T:
    """The first true value of `condition`."""
    until = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < until, f"not true within {limit_s} s: {what or condition}"
        time.sleep(0.05)


def is_stopped(pid: int) -> bool:
    """The process stands still, by a signal."""
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "T"


def free_offset(given: Collection[int] = ()) -> int:
    """A PORT_OFFSET at which none of a cloud's ports is taken, or among those `given` out before.

    All stay below 32768, where the kernel takes the ports of outgoing connections from.  Test
    runs beside this one begin to look elsewhere, so that two do not find the same ones.
    """
    offsets = range(2000, 18000, 37)
    first = os.getpid() * 7 % len(offsets)
    for offset in (*offsets[first:], *offsets[:first]):
        if any(port + offset in given for port in PORTS):
            continue
        try:
            for port in PORTS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
        except OSError:
            continue
        return offset
    raise AssertionError("no free ports")


def exported(rc: pathlib.Path) -> dict[str, str]:
    """The environment of a shell that has sourced the file."""
    shown = subprocess.run(
        ["/bin/bash", "-c", f". {shlex.quote(str(rc))} && env -0"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(line.split("=", 1) for line in shown.split("\0") if "=" in line)


class RunningCloud:
    """One cloud, by its state directory; `settings` are nova.sh's variables."""

    def __init__(self, state: pathlib.Path, **settings: str) -> None:
        self.state = state
        self.settings = settings

    def command(
        self, *words: str, check: bool = True, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `tools/minicloud.sh WORDS` for this cloud."""
        done = subprocess.run(
            [str(SCRIPT), *words],
            env={
                **os.environ,
                "MINICLOUD_STATE": str(self.state),
                **self.settings,
                **(environment or {}),
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(
                f"{shlex.join(words)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
            )
        return done

    def manage(self, *words: str) -> Any:
        """What `minicloud-manage WORDS --json` prints."""
        return json.loads(self.command("manage", *words, "--json").stdout)

    def start(self, daemon: str, checkpoint: str = "") -> None:
        """Start a daemon; `checkpoint` is the MINICLOUD_CHECKPOINT it gets."""
        self.command("start", daemon, environment={"MINICLOUD_CHECKPOINT": checkpoint})

    def stop(self, daemon: str) -> None:
        self.command("stop", daemon)

    def pid(self, daemon: str) -> int | None:
        """The pid of a living daemon."""
        try:
            pid = int((self.state / "run" / f"{daemon}.pid").read_text())
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return None if state == "Z" else pid

    def kill(self, daemon: str) -> None:
        """SIGKILL, and wait until it is dead."""
        pid = self.pid(daemon)
        assert pid is not None, f"{daemon} does not run"
        os.kill(pid, signal.SIGKILL)
        wait(lambda: self.pid(daemon) is None, what=f"{daemon} is dead")

    def set_option(self, group: str, name: str, value: object) -> None:
        """Put an option into minicloud.conf, at the head of its group."""
        conf = self.state / "minicloud.conf"
        text = conf.read_text()
        line = f"{name} = {value}\n"
        if f"[{group}]\n" in text:
            text = text.replace(f"[{group}]\n", f"[{group}]\n{line}", 1)
        else:
            text += f"\n[{group}]\n{line}"
        conf.write_text(text)

    @property
    def environment(self) -> dict[str, str]:
        """What novarc exports."""
        return exported(self.state / "novarc")

    def ec2(self, retries: int = 0, rc: pathlib.Path | None = None) -> Any:
        """An unmodified boto3 client of this cloud's EC2 API, with the keys in novarc or `rc`."""
        return self._client("ec2", retries, rc)

    def s3(self, rc: pathlib.Path | None = None) -> Any:
        """The same of its S3."""
        return self._client("s3", 0, rc)

    def _client(self, service: str, retries: int, rc: pathlib.Path | None) -> Any:
        given = exported(rc) if rc else self.environment
        return boto3.client(
            service,
            endpoint_url=given[f"AWS_ENDPOINT_URL_{service.upper()}"],
            region_name=given["AWS_DEFAULT_REGION"],
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
            config=botocore.config.Config(
                retries={"total_max_attempts": retries + 1, "mode": "standard"},
                connect_timeout=10,
                read_timeout=60,
                s3={"addressing_style": "path"},
            ),
        )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A look into the cloud's SQLite database."""
        [file] = self.state.rglob("minicloud.sqlite")
        with sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=30) as connection:
            return connection.execute(query).fetchall()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Nobody else can write to the cloud's SQLite database meanwhile."""
        [file] = self.state.rglob("minicloud.sqlite")
        connection = sqlite3.connect(file, isolation_level=None, timeout=30)
        with contextlib.closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            yield

    def domains(self) -> dict[str, str]:
        """The simulated domains: instance id → state."""
        found = {}
        for file in self.state.rglob("instances/simulated/*/*.json"):
            domain = json.loads(file.read_text())
            found[domain["id"]] = domain["state"]
        return found

    def log(self, daemon: str) -> str:
        return (self.state / "logs" / f"{daemon}.log").read_text(errors="replace")


@contextlib.contextmanager
def simulated() -> Iterator[RunningCloud]:
    """A cloud without guests that sweeps every second; nothing is left of it afterwards."""
    # a short path: unix sockets lie below it
    state = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    state.chmod(0o755)  # the daemons have a user of their own
    cloud = RunningCloud(state, CONNECTION_TYPE="simulated", PORT_OFFSET=str(free_offset()))
    try:
        cloud.command("run_detached")
        cloud.set_option("work", "sweep_s", 1)
        cloud.set_option("daemon", "heartbeat_s", 0.5)
        cloud.command("restart")
        yield cloud
    finally:
        cloud.command("scrub", "--all", check=False)
        shutil.rmtree(state, ignore_errors=True)


def run(ec2: Any) -> str:
    """The id of a new instance of the small image; `ec2` is a boto3 client, here and below."""
    asked = {"ImageId": "ami-tty", "InstanceType": "m1.nano", "MinCount": 1, "MaxCount": 1}
    id: str = ec2.run_instances(**asked)["Instances"][0]["InstanceId"]
    return id


def shown(ec2: Any, id: str) -> dict[str, Any]:
    """The instance as DescribeInstances tells it."""
    [reservation] = ec2.describe_instances(InstanceIds=[id])["Reservations"]
    instance: dict[str, Any] = reservation["Instances"][0]
    return instance


def state(ec2: Any, id: str) -> str:
    """EC2's word for how the instance is."""
    word: str = shown(ec2, id)["State"]["Name"]
    return word


def emptied(cloud: RunningCloud) -> None:
    """Everything is up and no instance is left."""
    cloud.command("start")
    no_instances(cloud.ec2(retries=3))


def no_instances(ec2: Any) -> None:
    """All that ran are terminated; `ec2` is a boto3 client."""
    left = [
        instance["InstanceId"]
        for page in ec2.get_paginator("describe_instances").paginate()
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
        if instance["State"]["Name"] != "terminated"
    ]
    if left:
        ec2.terminate_instances(InstanceIds=left)
        ec2.get_waiter("instance_terminated").wait(
            InstanceIds=left, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
        )
