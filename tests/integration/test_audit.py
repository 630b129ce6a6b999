"""`minicloud-manage audit` of a cloud of real daemons on a real broker."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import urllib.parse
from typing import Any

import amqp
import pytest

from tests.integration.running import RunningCloud, wait


def audit(cloud: RunningCloud, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit status and what it told as JSON."""
    done = cloud.command("manage", "audit", *words, "--json", check=False)
    assert done.stdout.startswith("{"), done.stderr
    return done.returncode, json.loads(done.stdout)


def kinds(told: dict[str, Any]) -> list[str]:
    return [one["kind"] for one in told["findings"]]


def clean(cloud: RunningCloud) -> bool:
    status, told = audit(cloud)
    return (status, told) == (0, {"findings": [], "unseen": {}, "fenced": []})


def host(cloud: RunningCloud) -> str:
    [(name,)] = cloud.rows("SELECT host FROM hosts WHERE daemon = 'compute'")
    return str(name)


def write(cloud: RunningCloud, statement: str) -> None:
    [file] = cloud.state.rglob("minicloud.sqlite")
    with contextlib.closing(sqlite3.connect(file, timeout=30)) as connection:
        connection.execute(statement)
        connection.commit()


@pytest.fixture
def guest(cloud: RunningCloud) -> str:
    ec2 = cloud.ec2(retries=3)
    made = ec2.run_instances(ImageId="ami-tty", InstanceType="m1.nano", MinCount=1, MaxCount=1)
    id = str(made["Instances"][0]["InstanceId"])
    ec2.get_waiter("instance_running").wait(InstanceIds=[id], WaiterConfig={"Delay": 1})
    wait(lambda: clean(cloud), what="nothing is wrong to begin with")
    return id


def test_rows_are_mended_and_told_with_their_request(cloud: RunningCloud, guest: str):
    [(id, request)] = cloud.rows("SELECT id, request_id FROM instances WHERE state = 'running'")
    write(cloud, f"UPDATE instances SET state = 'dreaming' WHERE id = '{id}'")
    status, told = audit(cloud)
    assert (status, kinds(told)) == (1, ["unknown-state"])
    assert told["findings"][0]["request_id"] == request
    write(cloud, f"UPDATE instances SET state = 'running' WHERE id = '{id}'")
    tag = "'t', 'p', 'instance', 'nobody', 'name', 'value'"
    write(
        cloud, f"INSERT INTO tags (id, project_id, kind, resource_id, name, value) VALUES ({tag})"
    )
    status, told = audit(cloud)
    assert (status, kinds(told)) == (1, ["tag-without-thing"])
    status, told = audit(cloud, "--fix")
    assert (status, [one["mended"] for one in told["findings"]]) == (0, [True])
    assert clean(cloud)


def test_a_daemon_that_was_stopped_is_not_looked_at(cloud: RunningCloud, guest: str):
    cloud.stop("compute")
    status, told = audit(cloud, "--fix")
    assert (status, told["unseen"]) == (2, {f"compute@{host(cloud)}": "it is stopped"})


def test_a_daemon_that_nobody_can_reach_is_named(cloud: RunningCloud):
    now = "strftime('%Y-%m-%d %H:%M:%f', 'now') || '000'"
    columns = "id, host, daemon, epoch, machine_id, boot_id, version, zone, disabled, vcpus,"
    columns += " memory_mib, disk_gib, hypervisor, created_at, heartbeat"
    values = f"'volume@ghost', 'ghost', 'volume', 1, '', '', '1.1', 'nova', 0, 0, 0, 0, '', {now}"
    write(cloud, f"INSERT INTO hosts ({columns}) VALUES ({values}, {now})")
    try:
        status, told = audit(cloud)
    finally:
        write(cloud, "DELETE FROM hosts WHERE id = 'volume@ghost'")
    assert (status, kinds(told)) == (2, ["deaf-daemon"])
    assert set(told["unseen"]) == {"volume@ghost host"}


def test_a_second_reader_of_a_queue_is_named(cloud: RunningCloud):
    conf = (cloud.state / "minicloud.conf").read_text()
    [line] = [line for line in conf.splitlines() if line.startswith("transport_url")]
    url = urllib.parse.urlsplit(line.partition("=")[2].strip())
    [tag] = [line.split()[-1] for line in conf.splitlines() if line.startswith("tag =")]
    with amqp.Connection(
        f"{url.hostname}:{url.port}",
        userid=url.username,
        password=url.password,
        virtual_host=url.path[1:],
    ) as connection:
        channel = connection.channel()
        channel.basic_qos(0, 1, False)
        channel.basic_consume(f"{tag}.volume.{host(cloud)}")
        status, told = audit(cloud)
    assert status != 0
    assert "doubled-daemon" in kinds(told)


def test_without_a_broker_rows_are_compared_and_the_rest_is_not_looked_at(cloud: RunningCloud):
    cloud.stop("rabbitmq")
    try:
        status, told = audit(cloud)
    finally:
        cloud.start("rabbitmq")
    assert (status, told["findings"]) == (2, [])
    assert {"broker", f"compute@{host(cloud)} host"} <= set(told["unseen"])
    wait(lambda: clean(cloud), 300, "all can be asked again")
