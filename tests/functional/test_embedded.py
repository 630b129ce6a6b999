"""`minicloud-all` as its users have it: a process, its files, and unmodified boto3."""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.embedded import PROGRAM, Embedded, free_offset
from tests.integration.running import wait

Start = Callable[..., Embedded]


@pytest.fixture
def start(tmp_path: pathlib.Path) -> Iterator[Start]:
    """Start an embedded cloud in a directory of the test; what still runs at the end is killed."""
    started: list[Embedded] = []

    def begin(*words: str, name: str = "one", base: int = 13000) -> Embedded:
        made = Embedded(tmp_path / name, free_offset(base), *words)
        started.append(made)
        assert made.said[:1] == ["ready"], made.process.communicate()
        return made

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        with one.process:
            one.process.wait(30)


def run(ec2: Any, count: int = 1) -> list[str]:
    answer = ec2.run_instances(
        ImageId="ami-tty", InstanceType="m1.nano", MinCount=count, MaxCount=count
    )
    return [one["InstanceId"] for one in answer["Instances"]]


def states(ec2: Any) -> dict[str, str]:
    pages = ec2.get_paginator("describe_instances").paginate()
    return {
        one["InstanceId"]: one["State"]["Name"]
        for page in pages
        for reservation in page["Reservations"]
        for one in reservation["Instances"]
    }


def test_it_says_ready_and_the_line_to_source_and_the_whole_life_of_an_instance_works(start):
    cloud = start()
    assert cloud.said == ["ready", f". {shlex.quote(str(cloud.state / 'novarc'))}"]
    ec2 = cloud.ec2()
    images = {image["ImageId"] for image in ec2.describe_images()["Images"]}
    assert images == {"ami-tty", "aki-tty", "ari-tty"}
    [id] = run(ec2)
    wait(lambda: states(ec2)[id] == "running")
    assert ec2.get_console_output(InstanceId=id)["Output"]
    ec2.stop_instances(InstanceIds=[id])
    wait(lambda: states(ec2)[id] == "stopped")
    ec2.start_instances(InstanceIds=[id])
    wait(lambda: states(ec2)[id] == "running")
    ec2.reboot_instances(InstanceIds=[id])
    ec2.terminate_instances(InstanceIds=[id])
    wait(lambda: states(ec2)[id] == "terminated")
    assert cloud.end(signal.SIGINT) == 0
    assert "Traceback" not in cloud.log


def test_the_next_start_goes_on_where_the_last_one_was_stopped(start):
    before = start()
    [id] = run(before.ec2())
    wait(lambda: states(before.ec2())[id] == "running")
    keys = before.environment["AWS_ACCESS_KEY_ID"]
    assert before.end() == 0
    after = start(base=16000)
    assert after.offset != before.offset
    assert after.environment["AWS_ACCESS_KEY_ID"] == keys
    assert states(after.ec2()) == {id: "running"}
    after.ec2().terminate_instances(InstanceIds=[id])
    wait(lambda: states(after.ec2())[id] == "terminated")
    assert after.end() == 0


def test_what_was_accepted_before_a_kill_is_done_by_the_next_start(start):
    before = start("--hosts", "3")
    ids = run(before.ec2(), 5)
    assert before.end(signal.SIGKILL) == -signal.SIGKILL
    after = start()
    wait(lambda: states(after.ec2()) == dict.fromkeys(ids, "running"))
    after.ec2().terminate_instances(InstanceIds=ids)
    after.end(signal.SIGKILL)
    last = start()
    wait(lambda: states(last.ec2()) == dict.fromkeys(ids, "terminated"))
    assert list((last.state / "instances").rglob("*.json")) == []


@pytest.mark.parametrize("after_s", [0.2, 0.5, 0.8, 1.1])
def test_a_first_start_that_was_killed_is_finished_by_the_next(start, tmp_path, after_s):
    argv = [sys.executable, str(PROGRAM), "--state", str(tmp_path / "one")]
    with subprocess.Popen([*argv, "--port-offset", str(free_offset(13000))]) as first:
        time.sleep(after_s)  # wherever it is then
        first.kill()
    cloud = start()
    [id] = run(cloud.ec2())
    wait(lambda: states(cloud.ec2())[id] == "running")


def test_it_goes_on_on_another_machine(start, tmp_path):
    first = start("--hosts", "1")
    first.end()
    kept = (tmp_path / "one" / "machine-id").read_text()
    assert kept.strip()
    assert (
        f"machine_id_file = {tmp_path}/one/machine-id"
        in first.state.joinpath("minicloud.conf").read_text()
    )
    start()
    assert (tmp_path / "one" / "machine-id").read_text() == kept


def test_two_at_a_time_know_nothing_of_each_other(start):
    one, two = start(), start(name="two", base=16000)
    [id] = run(one.ec2())
    wait(lambda: states(one.ec2()) == {id: "running"})
    assert states(two.ec2()) == {}
    assert one.end() == 0
    assert states(two.ec2()) == {}


def test_a_second_process_on_the_same_directory_is_refused_and_changes_nothing(start):
    cloud = start()
    conf = (cloud.state / "minicloud.conf").read_text()
    other = Embedded(cloud.state, free_offset(16000))
    assert other.process.communicate()[1].startswith(
        "error: another minicloud-all of this cloud runs here"
    )
    assert other.process.returncode == 1
    assert (cloud.state / "minicloud.conf").read_text() == conf


def test_a_taken_port_is_named_and_nothing_is_written(tmp_path):
    offset = free_offset(13000)
    with socket.create_server(("127.0.0.1", 3333 + offset)):
        other = Embedded(tmp_path / "one", offset)
        said = other.process.communicate()[1]
    assert said.count("\n") == 1
    assert other.process.returncode == 1
    assert f"port {3333 + offset}" in said
    assert "--port-offset" in said
    assert not (tmp_path / "one" / "minicloud.conf").exists()


def test_a_path_that_cannot_be_an_option_is_refused(tmp_path):
    other = Embedded(tmp_path / "what?", free_offset(13000))
    assert "what?" in other.process.communicate()[1]
    assert other.process.returncode == 1
    assert os.listdir(tmp_path) == []


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "diary").write_text("mine")
    other = Embedded(tmp_path / "one", free_offset(13000))
    assert "no embedded cloud's" in other.process.communicate()[1]
    assert other.process.returncode == 1
    assert os.listdir(tmp_path / "one") == ["diary"]


@pytest.mark.parametrize(
    "words", [["--hosts", "0"], ["--port-offset", "60000"], ["--hosts", "x"], ["nonsense"]]
)
def test_wrong_usage_is_2(tmp_path, words):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--state", str(tmp_path / "one"), *words],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert not (tmp_path / "one").exists()


def test_fifty_hosts_share_the_work_and_are_kept(start):
    cloud = start("--hosts", "50")
    ec2 = cloud.ec2()
    ids = run(ec2, 10)
    wait(lambda: states(ec2) == dict.fromkeys(ids, "running"))
    hosts = cloud.manage("host", "list")
    assert [host["state"] for host in hosts] == ["up"] * 50
    assert [host["instances"] for host in hosts].count(1) == 10
    assert cloud.end() == 0
    assert {host["state"] for host in cloud.manage("host", "list")} == {"down"}
    again = start()
    assert [host["state"] for host in again.manage("host", "list")] == ["up"] * 50


def test_only_the_owner_can_look_into_the_directory(start):
    cloud = start()
    assert cloud.state.stat().st_mode & 0o777 == 0o700
    for name in ("novarc", "minicloud.conf"):
        assert (cloud.state / name).stat().st_mode & 0o777 == 0o600


def test_it_stays_small(start):
    cloud = start()
    [id] = run(cloud.ec2())
    wait(lambda: states(cloud.ec2())[id] == "running")
    status = pathlib.Path(f"/proc/{cloud.process.pid}/status").read_text()
    [resident] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    assert int(resident.split()[1]) < 150 * 1024  # KiB; seen: 150 with every API


def test_every_door_that_novarc_names_is_open(start):
    given = start().environment
    [ec2, s3, identity] = [
        given[name] for name in ("AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_S3", "OS_AUTH_URL")
    ]
    assert answer(ec2)[0] == 200
    assert answer(s3)[0] == 403  # S3 lists buckets for nobody
    assert json.loads(answer(identity)[1])["version"]["id"].startswith("v3")


def answer(url: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
