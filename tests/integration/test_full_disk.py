"""A disk without a free byte under everything a cloud keeps: its database, its objects, its hosts'
files, its log.  What cannot be kept is refused or ends in error; with room again all goes on by
itself."""

from __future__ import annotations

import contextlib
import pathlib
import random
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator

import pytest
from botocore import exceptions

from minicloud import concurrency, daemon, errors
from minicloud.cloud import volumes
from minicloud.compute import manager, simulated
from minicloud.compute.driver import BootImage, Check
from minicloud.compute.libvirt.disks import Disks
from minicloud.context import Context
from minicloud.db import models
from tests.conftest import InProcessCloud
from tests.embedded import Embedded, free_offset
from tests.functional.conftest import Verbs, instance, rows, verbs
from tests.integration.running import run, state, wait
from tests.unit.test_disks import ensure, guest

__all__ = ["verbs"]  # a fixture

Options = Callable[..., None]

MIB = 1 << 20
LOCAL = """\
[work]
sweep_s = 1
[daemon]
heartbeat_s = 0.5
[objectstore]
min_free_gib = 0
"""


class Disk:
    """A file system of 16 MiB that others cannot fill."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Not a byte more can be written."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (MIB, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)):
                        pass

    def empty(self) -> None:
        """There is room again."""
        self._filler.unlink(missing_ok=True)


@pytest.fixture
def disk() -> Iterator[Disk]:
    path = pathlib.Path(tempfile.mkdtemp(prefix="mc-full-", dir="/tmp"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "minicloud", path], check=True)
    yield Disk(path)
    subprocess.run(["umount", "--lazy", path], check=True)
    path.rmdir()


@contextlib.contextmanager
def embedded(disk: Disk, options: str = "") -> Iterator[Embedded]:
    """A whole cloud of one process on that disk."""
    state = disk.path / "cloud"
    state.mkdir()
    (state / "local.conf").write_text(LOCAL + options)
    made = Embedded(state, free_offset(11000))
    try:
        assert made.said[:1] == ["ready"], made.process.communicate()
        yield made
    finally:
        made.process.kill()
        with made.process:
            made.process.wait(60)


@pytest.fixture
def cloud(disk: Disk) -> Iterator[Embedded]:
    with embedded(disk) as made:
        yield made


def refused(call: Callable[[], object]) -> bool:
    """False when it was accepted; True when it was refused as what cannot be done now."""
    try:
        call()
    except exceptions.ClientError as error:
        told = error.response
        assert told["Error"]["Code"] in ("Unavailable", "ServiceUnavailable"), told
        assert told["ResponseMetadata"]["HTTPStatusCode"] == 503
        assert "/" not in told["Error"]["Message"], "paths of the host are not for users"
        return True
    return False


def kept(cloud: Embedded) -> tuple[set[str], set[str]]:
    """The files of objects and images, and the domains, that are on the disk."""
    files = {file.name for file in (cloud.state / "objectstore").iterdir()}
    return files, {file.stem for file in (cloud.state / "instances").rglob("*.json")}


def named(cloud: Embedded) -> tuple[set[str], set[str]]:
    """Those that the rows name."""
    [database] = cloud.state.rglob("*.sqlite")
    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
        files = connection.execute(
            "SELECT file FROM objects WHERE state = 'active'"
            " UNION SELECT file FROM images WHERE state = 'active'"
        ).fetchall()
        domains = connection.execute("SELECT id FROM instances WHERE state = 'running'").fetchall()
    return {file for (file,) in files}, {id for (id,) in domains}


def test_what_does_not_fit_is_refused_and_the_cloud_goes_on_when_there_is_room_again(
    cloud: Embedded, disk: Disk
) -> None:
    ec2, s3 = cloud.ec2(), cloud.s3()
    before = run(ec2)
    wait(lambda: state(ec2, before) == "running")
    s3.create_bucket(Bucket="box")
    s3.put_object(Bucket="box", Key="kept", Body=b"k" * 100_000)

    disk.fill()
    accepted: list[str] = []
    assert refused(lambda: s3.put_object(Bucket="box", Key="large", Body=bytes(2 * MIB)))
    ran_out = refused(lambda: accepted.append(run(ec2)))
    until = time.monotonic() + 60
    while not ran_out:  # the database has some pages left, which it writes again
        assert time.monotonic() < until, "the database found room on a full disk"
        assert refused(lambda: s3.put_object(Bucket="box", Key="small", Body=b"s"))
        ran_out = refused(lambda: ec2.reboot_instances(InstanceIds=[before]))
    assert s3.get_object(Bucket="box", Key="kept")["Body"].read() == b"k" * 100_000
    assert state(ec2, before) in ("running", "pending")
    assert cloud.process.poll() is None

    said = len(cloud.log)
    disk.empty()
    wait(lambda: not refused(lambda: accepted.append(run(ec2))), what="an instance is accepted")
    wait(lambda: state(ec2, accepted[-1]) == "running")
    wait(lambda: state(ec2, before) == "running")
    settled = ("running", "terminated")  # in error, by EC2's word
    wait(lambda: all(state(ec2, id) in settled for id in accepted))
    s3.put_object(Bucket="box", Key="large", Body=bytes(2 * MIB))
    listed = s3.list_objects_v2(Bucket="box")["Contents"]
    assert {one["Key"]: one["Size"] for one in listed} == {"kept": 100_000, "large": 2 * MIB}
    wait(lambda: kept(cloud) == named(cloud), what="nothing is lost, and nothing left")
    assert len(cloud.log) > said
    wait(lambda: not list(cloud.state.rglob("*.part")))  # what is just written is no leak


NO_ROOM = "No space left on device"
IMAGE = b"\xeb\x63" + bytes(510) + b"disk" * 100_000


def test_what_was_accepted_and_finds_no_room_waits_for_it_where_it_can(
    disk: Disk, tmp_path: pathlib.Path
) -> None:
    """The database has room, the object store and the network's host have none."""
    elsewhere = f"[database]\nconnection = sqlite:///{tmp_path}/minicloud.sqlite\n"
    with embedded(disk, elsewhere) as cloud:
        ec2, s3 = cloud.ec2(), cloud.s3()
        s3.create_bucket(Bucket="box")
        s3.put_object(Bucket="box", Key="image", Body=IMAGE)
        first = run(ec2)  # its network is served from now on
        wait(lambda: state(ec2, first) == "running")

        disk.fill()
        with pytest.raises(exceptions.ClientError, match="the disk has no room"):
            s3.put_object(Bucket="box", Key="more", Body=IMAGE)
        image = ec2.register_image(Name="disk", ImageLocation="box/image")["ImageId"]
        second = run(ec2)

        def image_state() -> str:
            [found] = ec2.describe_images(ImageIds=[image])["Images"]
            word: str = found["State"]
            return word

        [database] = tmp_path.glob("*.sqlite")
        with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection:
            reasons = "SELECT reason FROM images UNION ALL SELECT reason FROM instances"
            wait(
                lambda: sum(bool(why) for (why,) in connection.execute(reasons)) == 2,
                what="both say what they wait for",
            )
        assert (image_state(), state(ec2, second)) == ("pending", "pending")
        disk.empty()
        wait(lambda: (image_state(), state(ec2, second)) == ("available", "running"))


def volume(id: str) -> models.Volume:
    return next(one for one in rows(models.Volume) if isinstance(one, models.Volume))


def test_a_host_without_room_says_so_in_the_rows_and_is_of_use_again_afterwards(
    disk: Disk, bare_cloud: InProcessCloud, verbs: Verbs, caller: Callable[[], Context]
) -> None:
    bare_cloud.scheduler("h1")
    bare_cloud.network("h1")
    bare_cloud.path = disk.path  # what follows is on it; the database is not
    bare_cloud.compute("h1")
    bare_cloud.volume("h1")
    [first] = verbs.run()
    bare_cloud.wait(lambda: verbs.state(first) == "running")

    disk.fill()
    [second] = verbs.run()
    made = volumes.create(caller(), size_gib=1, zone="nova").row.id
    bare_cloud.wait(lambda: verbs.state(second) == volume(made).state == "error")
    assert NO_ROOM in str(instance(second).reason)
    assert NO_ROOM in str(volume(made).reason)
    verbs.stop(first)
    bare_cloud.wait(lambda: verbs.state(first) == "running")
    assert NO_ROOM in str(instance(first).reason)
    assert set(bare_cloud.hypervisors["h1"].domains()) == {first}

    disk.empty()
    verbs.stop(first)
    verbs.terminate(second)
    volumes.delete(caller(), made)
    [third] = verbs.run()
    bare_cloud.wait(lambda: verbs.state(first) == "stopped" and verbs.state(third) == "running")
    bare_cloud.wait(lambda: verbs.state(second) == "terminated")
    bare_cloud.wait(lambda: volume(made).state == "deleted")
    assert set(bare_cloud.hypervisors["h1"].domains()) == {first, third}
    assert not list(disk.path.rglob("*.part"))


def test_a_daemon_that_is_started_on_a_full_disk_begins_when_there_is_room(
    disk: Disk, bare_cloud: InProcessCloud, options: Options, caplog: pytest.LogCaptureFixture
) -> None:
    options("DEFAULT", state_path=str(disk.path))
    disk.fill()
    driver = simulated.Simulated(disk.path / "simulated")
    life = daemon.Life(manager.Manager(driver, wired=False), "h1", "nova")
    bare_cloud.lives[life.id] = life
    concurrency.start("begin", life.begin)
    wait(lambda: f"compute@h1 waits: [Errno 28] {NO_ROOM}" in caplog.text)
    assert not life.begun.is_set()
    disk.empty()
    assert life.begun.wait(60)
    assert life.manager.trusted


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_an_image_or_a_disk_that_does_not_fit_leaves_nothing_half_written(disk: Disk) -> None:
    data = random.Random(1).randbytes(4 * MIB)
    image = BootImage("ec200000-0000-0000-0000-000000000001", len(data), "", "raw", len(data))

    def fetch(image: BootImage, to: pathlib.Path, check: Check) -> None:
        to.write_bytes(data)

    instances = disk.path / "instances"
    instances.mkdir()
    disks = Disks(instances, fetch)
    disks.prepare()
    first, second = guest(image), guest(image)
    disk.fill()
    with pytest.raises(errors.Final, match=r"needs 0\.0 GiB of disk on this host"):
        ensure(disks, first)
    disk.empty()
    ensure(disks, first)
    disk.fill()
    with pytest.raises(errors.CommandFailed, match=NO_ROOM):
        ensure(disks, second)
    assert not disks.disk(second.id).exists()
    assert not list(disk.path.rglob("*.part"))
    disk.empty()
    ensure(disks, second)
    assert disks.base(image).read_bytes() == data
