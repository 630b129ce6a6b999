"""`tools/minicloud.sh` on simulated clouds: every command, repeated, contradicted, interrupted."""

from __future__ import annotations

import json
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator

import pytest

from launcher import variables
from minicloud import processes
from tests.integration.running import SCRIPT, RunningCloud, free_offset, wait

pytestmark = pytest.mark.timeout(600)

DAEMONS = [process.name for process in processes.DAEMONS]
PARTS = ["rabbitmq", *DAEMONS]


def lines(cloud: RunningCloud, *words: str) -> dict[str, list[str]]:
    """`status` by name: state and pid."""
    shown = cloud.command("status", *words, check=False).stdout.splitlines()
    return {line.split()[0]: line.split()[1:] for line in shown}


@pytest.fixture
def place() -> Iterator[pathlib.Path]:
    # a short path: unix sockets lie below it
    path = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def other(place: pathlib.Path) -> Iterator[RunningCloud]:
    """A cloud that is not made yet."""
    made = RunningCloud(
        place / "state", CONNECTION_TYPE="simulated", PORT_OFFSET=str(free_offset())
    )
    yield made
    made.command("scrub", "--all", check=False)


def test_status_has_a_line_for_each_with_state_and_pid(cloud):
    done = cloud.command("status")
    assert done.returncode == 0
    found = lines(cloud)
    assert list(found) == PARTS
    for name, (state, pid) in found.items():
        assert state == "up"
        assert int(pid) == cloud.pid(name)


def test_a_daemons_command_line_names_it_and_its_configuration(cloud):
    for name in DAEMONS:
        raw = pathlib.Path(f"/proc/{cloud.pid(name)}/cmdline").read_bytes()
        words = raw.decode().rstrip("\0").split("\0")
        assert words[-3].endswith(f"/minicloud-{name}")
        assert words[-2:] == ["--config-file", f"{cloud.state}/minicloud.conf"]


def test_simulated_daemons_are_the_user_minicloud_without_any_capability(cloud):
    uid = pwd.getpwnam(processes.USER).pw_uid
    for name in PARTS:
        status = pathlib.Path(f"/proc/{cloud.pid(name)}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert fields["Uid"].split() == [str(uid)] * 4, name
        assert int(fields["CapEff"], 16) == 0, name
        assert int(fields["CapBnd"], 16) == 0, name


def test_the_secrets_are_not_for_everybody(cloud):
    modes = {name: (cloud.state / name).stat().st_mode & 0o777 for name in os.listdir(cloud.state)}
    assert modes["novarc"] == 0o600
    assert modes["clouds.yaml"] == 0o600
    assert modes["admin.pem"] == 0o600
    assert modes["minicloud.conf"] == 0o640
    for name in ("database", "rabbitmq", "images", "lib"):
        assert modes[name] & 0o007 == 0, name
    cookie = cloud.state / "rabbitmq" / ".erlang.cookie"
    assert cookie.stat().st_mode & 0o777 == 0o400
    assert (
        len(cookie.read_text()) == 64
    )  # ours: what Erlang makes itself has 20 and can be guessed


def test_a_killed_daemon_stays_down_until_start(cloud):
    cloud.kill("volume")
    assert lines(cloud, "volume") == {"volume": ["down", "-"]}
    assert cloud.command("status", "volume", check=False).returncode == 1
    assert cloud.command("status", check=False).returncode == 1
    cloud.command("start", "volume")
    assert cloud.command("status").returncode == 0


def test_starting_what_is_up_changes_nothing(cloud):
    before = lines(cloud)
    cloud.command("start")
    cloud.command("start", "api")
    assert lines(cloud) == before


def test_stop_and_stop_again_leave_no_pid_file(cloud):
    cloud.command("stop", "scheduler")
    assert not (cloud.state / "run" / "scheduler.pid").exists()
    cloud.command("stop", "scheduler")
    assert lines(cloud)["api"][0] == "up"
    cloud.command("stop")
    assert os.listdir(cloud.state / "run") == []
    cloud.command("stop")
    assert {state for state, _ in lines(cloud).values()} == {"down"}


def test_a_stopped_process_is_stopped_all_the_same(cloud):
    pid = cloud.pid("volume")
    os.kill(pid, signal.SIGSTOP)
    cloud.command("stop", "volume")
    assert cloud.pid("volume") is None


def test_restart_gives_one_daemon_another_pid(cloud):
    before = lines(cloud)
    cloud.command("restart", "api")
    after = lines(cloud)
    assert after["api"] != before["api"]
    assert {**after, "api": None} == {**before, "api": None}


def test_a_stranger_with_the_number_in_a_pid_file_is_left_alone(cloud):
    cloud.command("stop", "volume")
    with subprocess.Popen(["sleep", "600"]) as stranger:
        (cloud.state / "run" / "volume.pid").write_text(f"{stranger.pid}\n")
        assert lines(cloud, "volume") == {"volume": ["down", "-"]}
        cloud.command("stop", "volume")
        cloud.command("start", "volume")
        assert stranger.poll() is None
        stranger.kill()


def test_clean_leaves_nothing_and_run_detached_finds_all_data_again(cloud):
    cloud.command("manage", "user", "create", "kept")
    cloud.command("clean")
    assert os.listdir(cloud.state / "run") == []
    assert cloud.command("scrub", "--list").stdout == ""
    cloud.command("clean")
    before = cloud.rows("select count(*) from instances")
    cloud.command("run_detached")
    assert cloud.rows("select count(*) from instances") == before
    assert "kept" in [user["name"] for user in cloud.manage("user", "list")]
    cloud.command("manage", "user", "delete", "kept")


def test_scrub_lists_then_removes_and_keeps_the_state_directory(cloud):
    listed = cloud.command("scrub", "--list").stdout.splitlines()
    for name in DAEMONS:
        assert any(f"minicloud-{name} " in line for line in listed)
    assert lines(cloud)["api"][0] == "up"
    cloud.command("scrub")
    assert cloud.command("scrub", "--list").stdout == ""
    assert (cloud.state / "minicloud.conf").exists()
    cloud.command("scrub")


def test_nothing_listens_beyond_this_machine(cloud):
    ours = {int(pid) for _, pid in lines(cloud).values()}
    shown = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    of_ours = [line for line in shown.splitlines() if any(f"pid={pid}," in line for pid in ours)]
    assert len(of_ours) >= 4
    assert {line.split()[3].rpartition(":")[0] for line in of_ours} == {"127.0.0.1"}


def test_the_offset_is_in_every_port_and_the_others_are_free(cloud):
    offset = int(cloud.settings["PORT_OFFSET"])
    apis = ("api", "identity-api", "compute-api", "image-api")
    for name in (*apis, "objectstore", "rabbitmq"):
        with socket.create_connection(("127.0.0.1", variables.PORTS[name] + offset), 10):
            pass
    for port in (8775, 8776):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port + offset))


def test_manage_adds_no_output_and_passes_the_exit_status_on(cloud):
    done = cloud.command("manage", "project", "list", "--json")
    assert [project["name"] for project in json.loads(done.stdout)] == ["admin"]
    assert done.stderr == ""
    refused = cloud.command("manage", "project", "delete", "no-such", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: ")
    assert refused.stderr.count("\n") == 1
    assert cloud.command("manage", "project", check=False).returncode == 2


def test_wrong_usage_is_2_and_says_what_there_is(cloud):
    for words in (["nonsense"], [], ["start", "nonsense"], ["status", "api", "api"], ["run", "x"]):
        done = cloud.command(*words, check=False)
        assert done.returncode == 2, words
        assert "error: " in done.stderr


def test_what_this_cloud_does_not_have_is_refused(cloud):
    done = cloud.command("start", "libvirtd", check=False)
    assert done.returncode == 1
    assert "no libvirtd" in done.stderr


def test_a_different_value_for_a_kept_variable_ends_the_command_with_both(cloud):
    offset = cloud.settings["PORT_OFFSET"]
    for words in (["run"], ["status"], ["start", "api"], ["clean"], ["scrub", "--list"]):
        done = cloud.command(*words, check=False, environment={"PORT_OFFSET": "7"})
        assert done.returncode == 1, words
        assert f"PORT_OFFSET={offset}" in done.stderr
        assert "PORT_OFFSET=7" in done.stderr


def test_later_commands_need_the_state_directory_alone(cloud):
    alone = RunningCloud(cloud.state)
    assert alone.command("status").returncode == 0


@pytest.mark.parametrize("shell", ["bash", "dash"])
def test_novarc_works_in_every_shell_from_anywhere(cloud, shell):
    script = f". {cloud.state}/novarc && echo $EC2_URL $S3_URL $AWS_DEFAULT_REGION $EC2_USER_ID"
    done = subprocess.run(
        [shell, "-c", script],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
    )
    offset = int(cloud.settings["PORT_OFFSET"])
    ec2, s3, region, user = done.stdout.split()
    assert ec2 == f"http://127.0.0.1:{8773 + offset}/services/Cloud"
    assert s3 == f"http://127.0.0.1:{3333 + offset}"
    assert region == "nova"
    assert user


def test_a_taken_port_ends_run_with_its_owner_and_nothing_was_changed(other):
    port = 8773 + int(other.settings["PORT_OFFSET"])
    with socket.create_server(("127.0.0.1", port)):
        done = other.command("run_detached", check=False)
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert f"pid {os.getpid()} (" in done.stderr
    assert not other.state.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("USE_LDAP", "1"),
        ("CONNECTION_TYPE", "xenapi"),
        ("HOST_IP", "192.0.2.251"),
        ("LIBVIRT_TYPE", "lxc"),
        ("PORT_OFFSET", "60000"),
    ],
)
def test_what_cannot_be_served_is_refused_before_anything_changes(other, name, value):
    done = other.command("run", check=False, environment={name: value})
    assert done.returncode == 1
    assert name in done.stderr or value in done.stderr
    assert not other.state.exists()


def test_a_directory_with_other_things_is_never_taken_or_removed(other):
    other.state.mkdir()
    (other.state / "diary").write_text("mine")
    assert other.command("run_detached", check=False).returncode == 1
    other.command("scrub", "--all", check=False)
    assert os.listdir(other.state) == ["diary"]


def test_commands_on_no_cloud(other):
    assert other.command("status", check=False).returncode == 1
    assert other.command("start", check=False).returncode == 1
    assert other.command("manage", "user", "list", check=False).returncode == 1
    for words in (["clean"], ["scrub"], ["scrub", "--list"], ["scrub", "--all"]):
        assert other.command(*words).stdout == ""
    assert not other.state.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_is_finished_by_the_next_one(other, number):
    """Ctrl-C, or worse, after whatever it has said last, again and again."""
    environment = {**os.environ, "MINICLOUD_STATE": str(other.state), **other.settings}
    for said in ("made the cloud", "created the user", "rabbitmq is up", "started instance"):
        with subprocess.Popen(
            [SCRIPT, "run_detached"], env=environment, stdout=subprocess.PIPE, text=True
        ) as run:
            assert run.stdout is not None
            for line in run.stdout:
                if line.startswith(said):
                    run.send_signal(number)
                    break
            run.stdout.read()
        assert run.returncode in (0, 130, -signal.SIGKILL)
    other.command("run_detached")
    answer = other.ec2().describe_instances()
    found = [one for reservation in answer["Reservations"] for one in reservation["Instances"]]
    assert [one["State"]["Name"] for one in found] == ["running"]
    assert other.command("status").returncode == 0


def test_the_first_instance_is_one_and_run_renews_it_once_terminated(other):
    other.command("run")
    ec2 = other.ec2(retries=3)

    def instances() -> dict[str, str]:
        pages = ec2.describe_instances()["Reservations"]
        found = [one for reservation in pages for one in reservation["Instances"]]
        return {one["InstanceId"]: one["State"]["Name"] for one in found}

    [first] = instances()
    other.command("run")
    other.command("run_detached")
    assert instances() == {first: "running"}
    ec2.terminate_instances(InstanceIds=[first])
    wait(lambda: instances()[first] == "terminated")
    other.command("run_detached")
    assert list(instances()) == [first]
    other.command("run")
    assert sorted(instances().values()) == ["running", "terminated"]


def test_two_clouds_live_on_one_machine_and_scrub_takes_one(cloud, other):
    other.command("run_detached")
    assert cloud.command("status").returncode == 0
    other.command("scrub", "--all")
    assert not other.state.exists()
    assert cloud.command("status").returncode == 0
    other.command("scrub", "--all")
