"""`tools/minicloud.sh`: branch, terminate, reset, run --fresh, and `run` on a terminal."""

from __future__ import annotations

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from minicloud import processes
from tests.integration.running import SCRIPT, RunningCloud, free_offset, wait

pytestmark = pytest.mark.timeout(600)


# --- branch -----------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    """A repository of one file."""
    path = tmp_path / "source"
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    commit(path, "one")
    return path


def git(path: pathlib.Path, *words: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    return subprocess.run(
        ["git", "-C", str(path), *who, *words], check=True, capture_output=True, text=True
    ).stdout


def commit(path: pathlib.Path, text: str) -> None:
    (path / "file").write_text(text)
    git(path, "add", "file")
    git(path, "commit", "--quiet", "-m", text)


def branch(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(SCRIPT), "branch", *map(str, words)], capture_output=True, text=True, check=check
    )


def test_branch_clones_and_repeated_brings_what_is_new(source, tmp_path):
    target = tmp_path / "deep" / "target"
    branch(source, target)
    assert (target / "file").read_text() == "one"
    commit(source, "two")
    branch(source, target)
    assert (target / "file").read_text() == "two"


def test_branch_finishes_what_a_killed_one_left(source, tmp_path):
    target = tmp_path / "target"
    (tmp_path / ".target.cloning").mkdir()
    (tmp_path / ".target.cloning" / "half").write_text("")
    branch(source, target)
    assert sorted(os.listdir(tmp_path)) == ["source", "target"]


def test_branch_leaves_what_is_not_its_own_alone(source, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "diary").write_text("mine")
    done = branch(source, target, check=False)
    assert (done.returncode, os.listdir(target)) == (1, ["diary"])
    assert "no clone of" in done.stderr
    assert branch(tmp_path / "none", tmp_path / "other", check=False).returncode == 1
    assert branch("--upload-pack=id", tmp_path / "other", check=False).returncode == 1
    assert not (tmp_path / "other").exists()
    assert branch(1, 2, 3, check=False).returncode == 2


# --- terminate, reset -------------------------------------------------------------------------


def start_instances(cloud: RunningCloud, count: int, rc: pathlib.Path | None = None) -> list[str]:
    made = cloud.ec2(retries=3, rc=rc).run_instances(
        ImageId="ami-tty", InstanceType="m1.nano", MinCount=count, MaxCount=count
    )
    return [one["InstanceId"] for one in made["Instances"]]


def attach_volume(cloud: RunningCloud, rc: pathlib.Path) -> None:
    """A running instance has one."""
    [guest] = start_instances(cloud, 1, rc)
    ec2, often = cloud.ec2(retries=3, rc=rc), {"Delay": 1, "MaxAttempts": 120}
    disk = ec2.create_volume(AvailabilityZone="nova", Size=1)["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[disk], WaiterConfig=often)
    ec2.get_waiter("instance_running").wait(InstanceIds=[guest], WaiterConfig=often)
    ec2.attach_volume(VolumeId=disk, InstanceId=guest, Device="/dev/vdb")
    wait(lambda: cloud.rows("select state from attachments") == [("attached",)])


def fill_bucket(cloud: RunningCloud, rc: pathlib.Path) -> None:
    """An object, and an upload that nobody completes."""
    s3 = cloud.s3(rc)
    s3.create_bucket(Bucket="theirs")
    s3.put_object(Bucket="theirs", Key="key", Body=b"bytes")
    upload = s3.create_multipart_upload(Bucket="theirs", Key="big")["UploadId"]
    s3.upload_part(Bucket="theirs", Key="big", UploadId=upload, PartNumber=1, Body=b"part")


def stored(cloud: RunningCloud) -> list[str]:
    """The files with bytes of objects and parts."""
    names = [path.name for path in (cloud.state / "images").iterdir()]
    return [name.partition("-")[0] for name in names if name.startswith(("object-", "part-"))]


def disks(cloud: RunningCloud) -> set[str]:
    """The volumes that the simulated store has."""
    return {path.name for path in cloud.state.rglob("simulated*/**/volumes/*")}


@pytest.fixture
def others(cloud: RunningCloud) -> pathlib.Path:
    """The credentials of another project, until the next reset."""
    cloud.command("manage", "user", "create", "other")
    cloud.command("manage", "project", "create", "others", "other")
    file = cloud.state / "others.rc"
    cloud.command("manage", "project", "environment", "others", "other", str(file))
    return file


def kept(cloud: RunningCloud) -> list[list[tuple[object, ...]]]:
    """What no reset changes: identity and images."""
    images = "select id, word, name, state, sha256, file from images order by id"
    return [cloud.rows("select id from cloud"), cloud.rows(images)]


def test_terminate_ends_all_projects_instances_and_reset_leaves_only_what_is_new(cloud, others):
    start_instances(cloud, 3)
    start_instances(cloud, 1, others)
    assert len(cloud.manage("instance", "list")) == 4
    attach_volume(cloud, others)
    fill_bucket(cloud, others)
    [disk] = cloud.manage("volume", "list")
    assert disks(cloud) == {disk["uuid"]}
    cloud.command("stop", "compute")  # it is started again: nobody else can end them
    cloud.command("terminate")
    assert cloud.manage("instance", "list") == cloud.manage("volume", "list") == []
    assert cloud.domains() == {}
    assert disks(cloud) == set()
    assert sorted(stored(cloud)) == ["object", "part"]
    cloud.command("terminate")

    theirs = cloud.ec2(rc=others)
    theirs.create_key_pair(KeyName="theirs")
    theirs.create_security_group(GroupName="theirs", Description="theirs")
    cloud.command("manage", "project", "quota", "others", "cores", "7")
    start_instances(cloud, 1, others)
    before = kept(cloud)
    [(old,)] = cloud.rows("select id from projects where name = 'admin'")
    epochs = dict(cloud.rows("select id, epoch from hosts"))
    cloud.command("reset")

    assert kept(cloud) == before
    after = dict(cloud.rows("select id, epoch from hosts"))
    assert all(after[id] >= epoch for id, epoch in epochs.items())
    assert [user["name"] for user in cloud.manage("user", "list")] == ["admin"]
    [project] = cloud.manage("project", "list")
    assert (project["name"], project["members"]) == ("admin", ["admin"])
    assert project["id"] != old
    assert cloud.rows("select name from security_groups") == [("default",)]
    assert cloud.rows("select name from networks") == [("private",)]
    tables = (
        "key_pairs",
        "quotas",
        "addresses",
        "group_members",
        "attachments",
        "buckets",
        "parts",
    )
    for table in tables:
        assert cloud.rows(f"select count(*) from {table}") == [(0,)], table
    with pytest.raises(Exception, match="AuthFailure"):
        theirs.describe_instances()
    wait(lambda: stored(cloud) == [], what="no file of an object or a part is left")
    assert not (cloud.state / "admin.pem").exists()
    others.unlink()

    # the new project works, with the images that were there
    start_instances(cloud, 1)
    wait(lambda: [row["state"] for row in cloud.manage("instance", "list")] == ["running"])
    cloud.command("reset")
    assert cloud.manage("instance", "list") == []
    assert kept(cloud) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_reset_is_finished_by_run_or_by_another(cloud, number):
    environment = {**os.environ, "MINICLOUD_STATE": str(cloud.state)}
    before = kept(cloud)
    for said in ("ending", "no instance and no", "created the user", "created the project"):
        start_instances(cloud, 2)
        cloud.ec2(retries=3).create_volume(AvailabilityZone="nova", Size=1)
        with subprocess.Popen(
            [SCRIPT, "reset"], env=environment, stdout=subprocess.PIPE, text=True
        ) as reset:
            assert reset.stdout is not None
            for line in reset.stdout:
                if line.startswith(said):
                    reset.send_signal(number)
                    break
            reset.stdout.read()
        assert reset.returncode in (0, 130, -signal.SIGKILL)
        cloud.command("run_detached")
        assert cloud.ec2(retries=3).describe_images()["Images"]
        assert kept(cloud) == before
    cloud.command("reset")
    assert cloud.manage("instance", "list") == cloud.manage("volume", "list") == []
    wait(lambda: disks(cloud) == set(), what="no volume is left")


# --- run --------------------------------------------------------------------------------------


@pytest.fixture
def fresh() -> Iterator[RunningCloud]:
    """A cloud of its own, not made yet, and a tmux server of its own."""
    # a short path: unix sockets lie below it
    place = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    place.chmod(0o755)
    made = RunningCloud(
        place / "state",
        CONNECTION_TYPE="simulated",
        PORT_OFFSET=str(free_offset()),
        TMUX_TMPDIR=str(place),
        TERM="xterm",
    )
    yield made
    tmux(made, "kill-server")
    made.command("scrub", "--all", check=False)
    shutil.rmtree(place, ignore_errors=True)


def tmux(cloud: RunningCloud, *words: str) -> str:
    """What the test's own tmux says, "" while it does not run."""
    environment = {k: v for k, v in os.environ.items() if k != "TMUX"} | cloud.settings
    return subprocess.run(
        ["tmux", *words], env=environment, capture_output=True, text=True, check=False
    ).stdout


def on_a_terminal(cloud: RunningCloud, *words: str) -> subprocess.Popen[bytes]:
    """The command on a terminal of its own, script(1)'s."""
    environment = {k: v for k, v in os.environ.items() if k != "TMUX"} | cloud.settings
    return subprocess.Popen(
        [
            "script",
            "--quiet",
            "--return",
            "--command",
            shlex.join([str(SCRIPT), *words]),
            "/dev/null",
        ],
        env=environment | {"MINICLOUD_STATE": str(cloud.state)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_run_fresh_begins_anew_and_run_on_a_terminal_shows_it(fresh):
    fresh.command("run")
    fresh.command("manage", "user", "create", "old")
    tag = fresh.rows("select id from cloud")
    fresh.command("run", "--fresh")
    assert fresh.rows("select id from cloud") != tag
    assert [user["name"] for user in fresh.manage("user", "list")] == ["admin"]
    assert tmux(fresh, "list-sessions") == ""  # nobody sat at a terminal
    assert fresh.command("run", "--fresher", check=False).returncode == 2

    url = fresh.environment["EC2_URL"]
    for _ in range(2):
        seen = on_a_terminal(fresh, "run")
        wait(lambda: tmux(fresh, "list-clients", "-t", "minicloud"), 120)
        windows = tmux(fresh, "list-windows", "-t", "minicloud", "-F", "#W").split()
        assert windows[0] == "credentials"
        assert set(windows[1:]) == {"rabbitmq", *(one.name for one in processes.DAEMONS)}
        wait(lambda: "ready" in tmux(fresh, "capture-pane", "-pJ", "-S-", "-t", "minicloud:api"))
        tmux(fresh, "send-keys", "-t", "minicloud:credentials", "echo url=$EC2_URL=", "Enter")
        wait(lambda: f"url={url}=" in tmux(fresh, "capture-pane", "-p", "-t", "minicloud"))
        tmux(fresh, "kill-window", "-t", "minicloud:scheduler")  # the next run shows it again
        tmux(fresh, "detach-client", "-s", "minicloud")
        seen.communicate(timeout=30)
        assert seen.returncode == 0
    assert fresh.command("status").returncode == 0

    # another cloud's session of that name is never taken for this one's
    tmux(fresh, "set-option", "-t", "minicloud", "@minicloud", "/another")
    seen = on_a_terminal(fresh, "run")
    said = seen.communicate(timeout=60)[0].decode()
    assert seen.returncode == 1
    assert "not this cloud's" in said
    fresh.command("clean")
    assert tmux(fresh, "list-sessions")
    tmux(fresh, "set-option", "-t", "minicloud", "@minicloud", str(fresh.state))
    fresh.command("clean")
    assert tmux(fresh, "list-sessions") == ""
