"""Directories and files that a daemon's user may not enter any more: what needs them is refused or
ends in error, who cannot begin without them says so, and given back all is as before."""

from __future__ import annotations

import concurrent.futures
import configparser
import contextlib
import pathlib
from collections.abc import Iterator

import pytest
from botocore import exceptions

from tests.integration.running import RunningCloud, run, shown, wait

pytestmark = pytest.mark.timeout(600)

DENIED = "[Errno 13] Permission denied"


@contextlib.contextmanager
def closed(path: pathlib.Path, mode: int = 0) -> Iterator[None]:
    """The daemons' user has no right to it: they are not root."""
    before = path.stat().st_mode & 0o7777
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)


def found(cloud: RunningCloud, name: str) -> pathlib.Path:
    """The directory or file of that name below the cloud's; * is the name of its own host, and
    hosts that other tests have had lie deeper."""
    conf = configparser.RawConfigParser(strict=False)
    conf.read(cloud.state / "minicloud.conf")
    paths = cloud.state.rglob(name.replace("*", conf.get("DEFAULT", "host")))
    return min(paths, key=lambda path: len(path.parts))


def test_objects_are_refused_while_their_directory_is_closed(cloud: RunningCloud) -> None:
    s3 = cloud.s3()
    s3.create_bucket(Bucket="closed")
    s3.put_object(Bucket="closed", Key="before", Body=b"before")
    [(file,)] = cloud.rows(
        "SELECT file FROM objects WHERE state = 'active' AND bucket_id ="
        " (SELECT id FROM buckets WHERE name = 'closed')"
    )
    asks = (
        lambda: s3.put_object(Bucket="closed", Key="new", Body=b"new"),
        lambda: s3.get_object(Bucket="closed", Key="before"),
    )
    with closed(found(cloud, file).parent):
        for ask in asks:
            with pytest.raises(exceptions.ClientError) as refused:
                ask()
            told = refused.value.response
            assert told["Error"]["Code"] == "ServiceUnavailable"
            assert str(cloud.state) not in told["Error"]["Message"]
        s3.delete_object(Bucket="closed", Key="before")  # accepted: it waits
    asks[0]()
    listed = s3.list_objects_v2(Bucket="closed")["Contents"]
    assert [one["Key"] for one in listed] == ["new"]
    wait(lambda: not list(cloud.state.rglob(file)), what="the deleted object's bytes are gone")
    assert cloud.pid("objectstore")


def test_a_host_whose_directory_is_closed_ends_what_it_cannot_do_in_error(
    cloud: RunningCloud,
) -> None:
    ec2 = cloud.ec2()
    first = run(ec2)
    wait(lambda: shown(ec2, first)["State"]["Name"] == "running")
    with closed(found(cloud, "simulated/*/firewall").parent, 0o500):
        second = run(ec2)
        wait(lambda: shown(ec2, second)["State"]["Name"] == "terminated")
        assert DENIED in shown(ec2, second)["StateReason"]["Message"]
        assert shown(ec2, first)["State"]["Name"] == "running"
    ec2.terminate_instances(InstanceIds=[second])
    third = run(ec2)
    wait(lambda: shown(ec2, third)["State"]["Name"] == "running")
    wait(lambda: len(cloud.domains()) == 2, what="nothing is left of the second")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("minicloud.conf", "error: cannot read the configuration: "),
        ("lock", f"-compute cannot hold its lock: {DENIED}"),
        ("run/compute@*.epoch", f"cannot begin: {DENIED}"),
        ("simulated/*/boot-id", f"cannot begin: {DENIED}"),
    ],
)
def test_a_daemon_that_cannot_begin_says_what_it_may_not(
    cloud: RunningCloud, name: str, said: str
) -> None:
    cloud.stop("compute")
    before = len(cloud.log("compute"))
    with closed(found(cloud, name)):
        ended = cloud.command("start", "compute", check=False)
        assert ended.returncode == 1
    log = cloud.log("compute")[before:]
    assert said in log
    assert "Traceback" not in log
    cloud.start("compute")


def test_a_daemon_waits_for_a_database_it_may_not_open(cloud: RunningCloud) -> None:
    cloud.stop("scheduler")
    before = len(cloud.log("scheduler"))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with closed(found(cloud, "minicloud.sqlite")):
            started = pool.submit(cloud.start, "scheduler")
            wait(lambda: " waits: " in cloud.log("scheduler")[before:])
            assert "unable to open database file" in cloud.log("scheduler")[before:]
        started.result(120)
    assert cloud.pid("scheduler")
