"""Real processes of a second compute host: stopped, fenced, evacuated, rebound and continued."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.running import RunningCloud, is_stopped, wait

FENCED = 75  # daemon.EXIT_FENCED
END_S = 60.0


class Host:
    """A compute host of the cloud's, pretended on this machine as another one of that id.

    A machine remembers the epochs it has seen, so each test has machines of its own."""

    def __init__(self, cloud: RunningCloud, name: str, machine: str) -> None:
        self.cloud = cloud
        self.name = name
        path = cloud.state / "lib" / machine
        path.mkdir(exist_ok=True)
        (path / "machine-id").write_text(f"{machine}\n")
        self.conf = path / "host.conf"
        self.path = path
        self.conf.write_text(
            f"[DEFAULT]\nhost = {name}\nstate_path = {path}\nlock_path = {path}/lock\n"
            f"[compute]\ninstances_path = {path}/instances\n"
            f"[daemon]\nmachine_id_file = {path}/machine-id\nheartbeat_s = 0.5\n"
        )
        shutil.chown(path, "minicloud")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, checkpoint: str = "") -> subprocess.Popen[bytes]:
        """A process like the cloud's own compute daemon, but for the host's own options."""
        running = pathlib.Path(f"/proc/{self.cloud.pid('compute')}/cmdline").read_bytes()
        command = [word.decode() for word in running.split(b"\0") if word]
        command += ["--config-file", str(self.conf)]
        log = (self.path / "log").open("ab")
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "MINICLOUD_CHECKPOINT": checkpoint},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            user="minicloud",
            group="minicloud",
            extra_groups=[],
            start_new_session=True,
        )
        return self.process

    def state(self) -> str | None:
        """As `host list` shows it; None before it was ever there."""
        found = {host["host"]: host["state"] for host in self.cloud.manage("host", "list")}
        return found.get(self.name)

    def up(self) -> None:
        self.start()
        wait(lambda: self.state() == "up", END_S, f"{self.name} is up")

    def domains(self) -> set[str]:
        return {file.stem for file in self.path.glob("instances/simulated/*/*.json")}

    def stopped(self) -> bool:
        assert self.process is not None
        stat = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] == "T"

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(END_S)


@pytest.fixture
def hosts(cloud: RunningCloud) -> Iterator[contextlib.ExitStack]:
    """What is closed afterwards; nothing of the hosts is left in the cloud."""
    with contextlib.ExitStack() as stack:
        yield stack
    cloud.command("manage", "host", "fence", "r2", "--force")
    cloud.command("manage", "host", "evacuate", "r2")
    [file] = cloud.state.rglob("minicloud.sqlite")
    with sqlite3.connect(file, timeout=30) as connection:
        connection.execute("DELETE FROM hosts WHERE host = 'r2'")


def first_host(cloud: RunningCloud) -> str:
    [name] = [row["host"] for row in cloud.manage("host", "list") if row["host"] != "r2"]
    return str(name)


def run(cloud: RunningCloud) -> str:
    """The uuid of an instance that was accepted."""
    wish = {"ImageId": "ami-tty", "MinCount": 1, "MaxCount": 1, "InstanceType": "m1.nano"}
    cloud.ec2().run_instances(**wish)
    [(uuid,)] = cloud.rows("SELECT id FROM instances WHERE state <> 'terminated'")
    return str(uuid)


def where(cloud: RunningCloud) -> list[tuple[Any, ...]]:
    """(state, host) of what is not terminated."""
    return cloud.rows("SELECT state, host FROM instances WHERE state <> 'terminated'")


def test_a_daemon_stopped_inside_a_build_finds_on_waking_that_its_host_was_handed_over(
    cloud: RunningCloud, hosts: contextlib.ExitStack
) -> None:
    here = first_host(cloud)
    second = Host(cloud, "r2", "machine-a")
    hosts.callback(second.close)
    second.up()
    second.close()
    process = second.start("spawn.domain_defined:stop")
    wait(lambda: second.state() == "up", END_S)
    refused = cloud.command("manage", "host", "fence", "r2", check=False)
    assert (refused.returncode, "still lives" in refused.stderr) == (1, True)
    cloud.command("manage", "host", "disable", here)
    uuid = run(cloud)
    wait(second.stopped, END_S, "it stopped in the middle of the build")
    assert second.domains() == {uuid}
    cloud.command("manage", "host", "enable", here)
    cloud.command("manage", "host", "fence", "r2", "--force")
    wait(lambda: where(cloud) == [("running", here)], END_S, "it is built elsewhere")
    second.signal(signal.SIGCONT)
    assert process.wait(END_S) == FENCED
    assert second.domains() == set()
    second.up()
    assert where(cloud) == [("running", here)]


def test_of_two_daemons_with_one_name_only_one_can_act(
    cloud: RunningCloud, hosts: contextlib.ExitStack
) -> None:
    here = first_host(cloud)
    a, b = Host(cloud, "r2", "machine-b"), Host(cloud, "r2", "machine-c")
    same = Host(cloud, "r2", "machine-b")
    for host in (a, b, same):
        hosts.callback(host.close)
    a.up()
    assert same.start().wait(END_S) == 1, "its lock is held"
    assert b.start().wait(END_S) == 1, "the name is another machine's"
    cloud.command("manage", "host", "disable", here)
    uuid = run(cloud)
    wait(lambda: where(cloud) == [("running", "r2")], END_S)
    cloud.command("manage", "host", "enable", here)
    with cloud.held():  # it does not hold the database when it stops
        a.signal(signal.SIGSTOP)
        wait(lambda: is_stopped(a.process.pid if a.process else 0))
    assert same.start().wait(END_S) == 1, "a stopped process still holds its lock"
    cloud.command("manage", "host", "fence", "r2", "--force")
    moved = cloud.manage("host", "evacuate", "r2")
    assert [(one["kind"], one["comes_back"]) for one in moved] == [("instance", "running")]
    cloud.command("manage", "host", "rebind", "r2", "machine-c")
    b.up()
    wait(lambda: [state for state, _ in where(cloud)] == ["running"], END_S)
    a.signal(signal.SIGCONT)
    assert a.process is not None
    assert a.process.wait(END_S) == FENCED
    assert a.domains() == set()
    assert a.start().wait(END_S) == 1, "the name was given away"
    [(_, host)] = where(cloud)
    assert (uuid in b.domains()) == (host == "r2")
