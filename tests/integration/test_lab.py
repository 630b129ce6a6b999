"""`tools/minicloud.sh lab`: pretend hosts come up, are broken in every way, and mend."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from botocore import exceptions

from launcher import bring_up, state
from launcher import lab as labs
from minicloud import ids
from tests.integration.running import SCRIPT, RunningCloud, wait

pytestmark = pytest.mark.timeout(600)

DAEMONS = ("compute", "network", "volume")
HOSTS = ("h1", "h2", "h3")


class Lab(RunningCloud):
    """A lab by its state directory."""

    def lab(self, *words: str, check: bool = True) -> str:
        return self.command("lab", *words, check=check).stdout

    def shown(self) -> dict[str, str]:
        """The lines of `lab status`, by host."""
        lines = self.lab("status", check=False).splitlines()
        return {line.split()[0]: line for line in lines}

    def hosts(self) -> dict[str, str]:
        """What the cloud thinks of its hosts: name → up or down."""
        return {host["host"]: host["state"] for host in self.manage("host", "list")}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A look into the lab's database, from the head."""
        url = sa.make_url(self.option("connection"))
        with pymysql.connect(
            host=url.host,
            port=url.port or 0,
            user=url.username,
            password=url.password or "",
            database=url.database,
        ) as connection:
            cursor = connection.cursor()
            cursor.execute(query)
            return list(cursor.fetchall())

    def states(self) -> dict[str, str]:
        """The instances that have not ended, by id."""
        alive = "select id, state from instances where state != 'terminated'"
        return dict(self.rows(alive))

    def run(self, count: int) -> dict[str, str]:
        """Start instances and wait until they run: their hosts by id."""
        asked = {"ImageId": "ami-tty", "InstanceType": "m1.nano"}
        before = self.states()
        self.ec2().run_instances(**asked, MinCount=count, MaxCount=count)
        new = self.states().keys() - before.keys()
        wait(lambda: {self.states()[id] for id in new} == {"running"})
        hosts = dict(self.rows("select id, host from instances"))
        return {id: hosts[id] for id in sorted(new)}

    def on(self, host: str, count: int = 1) -> list[str]:
        """That many running instances on that host, others on the others."""
        found = [id for id, its in self.run(count * len(HOSTS)).items() if its == host]
        assert len(found) == count
        return found

    def reboot(self, id: str) -> None:
        self.ec2().reboot_instances(InstanceIds=[ids.ec2("i", id)])

    def terminate(self, *these: str) -> None:
        if these:
            self.ec2().terminate_instances(InstanceIds=[ids.ec2("i", id) for id in these])

    def done(self, host: str, id: str, move: str) -> int:
        """How often the compute daemon there says that it made this move."""
        return self.log(f"compute@{host}").count(f"instance {id}: {move} in ")

    def zones(self) -> dict[str, str]:
        """What the EC2 API says of the zones."""
        found = self.ec2().describe_availability_zones()["AvailabilityZones"]
        return {zone["ZoneName"]: zone["State"] for zone in found}

    def option(self, name: str) -> str:
        text = (self.state / "minicloud.conf").read_text()
        return re.findall(rf"^{name} = (.+)$", text, re.MULTILINE)[0]


def on_this_machine(tag: str) -> list[str]:
    """Processes, links, namespaces and registers that carry the tag."""
    found = []
    for file in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"MINICLOUD_TAG={tag}\0".encode() in file.read_bytes():
                found.append(f"process {file}")
        except OSError:
            continue
    shown = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    found += [line for line in shown.stdout.splitlines() if f"mc-{tag}-" in line]
    found += [name for name in os.listdir("/run/netns") if tag in name]
    registers = pathlib.Path("/run/minicloud").glob("*.json")
    return found + [str(file) for file in registers if tag in file.read_text()]


@contextlib.contextmanager
def new_place() -> Iterator[pathlib.Path]:
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    directory.chmod(0o755)  # the daemons have a user of their own
    try:
        yield directory / "lab"
    finally:
        Lab(directory / "lab").lab("down", check=False)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def place() -> Iterator[pathlib.Path]:
    """Where a lab can be; nothing is left of one."""
    with new_place() as path:
        yield path


@pytest.fixture(scope="module")
def rack() -> Iterator[Lab]:
    with new_place() as path:
        made = Lab(path)
        made.lab("3")
        yield made


@pytest.fixture
def lab(rack: Lab) -> Iterator[Lab]:
    """Three hosts, whole and without an instance."""
    yield rack
    if rack.command("lab", "status", check=False).returncode:
        rack.lab("3")
    rack.terminate(*rack.states())
    wait(lambda: not rack.states(), what="no instance is left")


def test_instances_are_spread_over_hosts_that_are_up_in_two_zones(lab):
    listed = lab.manage("host", "list")
    assert [(host["host"], host["state"], host["zone"]) for host in listed] == [
        ("h1", "up", "nova"),
        ("h2", "up", "nova2"),
        ("h3", "up", "nova"),
    ]
    assert lab.command("lab", "status").returncode == 0
    spread = collections.Counter(lab.run(6).values())
    assert spread == {"h1": 2, "h2": 2, "h3": 2}


def test_a_host_is_another_machine_on_another_network(lab):
    seen = collections.defaultdict(set)
    for host in HOSTS:
        for daemon in DAEMONS:
            process = pathlib.Path(f"/proc/{lab.pid(f'{daemon}@{host}')}")
            for file in ("etc/machine-id", "proc/sys/kernel/random/boot_id"):
                seen[host].add((process / "root" / file).read_text())
            seen[host].add(os.readlink(process / "ns" / "net"))
    here = {pathlib.Path("/etc/machine-id").read_text(), os.readlink("/proc/self/ns/net")}
    everywhere = [here, *seen.values()]
    assert [len(each) for each in seen.values()] == [3, 3, 3]
    assert len(set.union(*everywhere)) == 2 + 3 * len(HOSTS)


def test_a_killed_compute_daemon_finishes_what_was_asked_when_it_is_started(lab):
    [instance] = lab.on("h2")
    lab.lab("kill", "h2", "compute")
    lab.lab("kill", "h2", "compute")
    assert "compute down, network up" in lab.shown()["h2"]
    assert lab.command("lab", "status", check=False).returncode == 1
    lab.reboot(instance)
    assert lab.states()[instance] == "rebooting"
    lab.lab("start", "h2", "compute")
    wait(lambda: lab.states()[instance] == "running")
    wait(lambda: lab.done("h2", instance, "rebooting -> running"))
    assert lab.done("h2", instance, "rebooting -> running") == 1


def test_what_stands_still_does_what_was_asked_when_it_goes_on(lab):
    [instance] = lab.on("h3")
    lab.lab("stop", "h3")
    lab.lab("stop", "h3")
    assert lab.shown()["h3"].count("stopped") == len(DAEMONS)
    lab.terminate(instance)
    assert lab.states()[instance] == "terminating"
    lab.lab("continue", "h3")
    wait(lambda: instance not in lab.states())
    wait(lambda: lab.done("h3", instance, "terminating -> terminated"))
    assert lab.done("h3", instance, "terminating -> terminated") == 1
    assert instance not in lab.domains()


def test_a_host_that_is_cut_off_is_down_gets_nothing_and_does_what_was_asked_once_healed(lab):
    rebooted, ended = lab.on("h2", 2)
    lab.lab("cut", "h2")
    assert lab.shown()["h2"].split()[1] == "cut"
    lab.reboot(rebooted)
    lab.terminate(ended)
    wait(lambda: lab.zones() == {"nova": "available", "nova2": "unavailable"})
    assert lab.hosts() == {"h1": "up", "h2": "down", "h3": "up"}
    assert set(lab.run(4).values()) == {"h1", "h3"}
    assert [lab.states()[id] for id in (rebooted, ended)] == ["rebooting", "terminating"]
    assert lab.domains()[ended] == "running"

    lab.lab("heal", "h2")
    wait(lambda: lab.zones()["nova2"] == "available")
    wait(lambda: lab.states()[rebooted] == "running")
    wait(lambda: ended not in lab.states())
    wait(lambda: lab.done("h2", rebooted, "rebooting -> running"))
    assert lab.done("h2", rebooted, "rebooting -> running") == 1
    wait(lambda: lab.done("h2", ended, "terminating -> terminated"))
    assert lab.done("h2", ended, "terminating -> terminated") == 1
    assert ended not in lab.domains()


def test_a_fenced_host_is_off_and_boots_when_it_is_started(lab):
    before = (lab.state / "hosts" / "h2" / "boot-id").read_text()
    lab.lab("fence", "h2")
    off = lab.shown()["h2"]
    assert off.split()[1] == "off"
    assert off.count("down") == len(DAEMONS)
    lab.lab("start", "h2")
    assert (lab.state / "hosts" / "h2" / "boot-id").read_text() != before
    assert lab.shown()["h2"].count("up") == 1 + len(DAEMONS)


HOUR_S = 3600
NEARLY_S = 120  # what a busy machine takes to answer


@contextlib.contextmanager
def clock(lab: Lab, seconds: int, *words: str) -> Iterator[None]:
    """The clocks of these daemons (HOST, or HOST DAEMON) are so many seconds ahead; everybody
    else's are right."""
    lab.lab("kill", *words)
    cloud = state.cloud(state.State(lab.state), {})
    assert cloud is not None
    [library] = pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    faked = ["env", f"LD_PRELOAD={library}", f"FAKETIME={seconds:+d}"]
    faked += ["FAKETIME_DONT_FAKE_MONOTONIC=1"]  # no clock that is set changes that one
    chosen = [
        dataclasses.replace(one, argv=[*faked, *one.argv]) for one in labs.chosen(cloud, words)
    ]
    bring_up.start(cloud, chosen)
    pids = [lab.pid(one.name) for one in chosen]
    try:
        yield
    finally:
        lab.lab("kill", *words)
        for pid in pids:
            for file in pathlib.Path("/dev/shm").glob(f"*faketime_*_{pid}"):  # left behind
                file.unlink()
        lab.lab("start", *words)


def an_hour(text: str) -> bool:
    """The text tells of seconds that are about an hour."""
    told = [int(number) for number in re.findall(r"\d+", text)]
    return any(abs(number - HOUR_S) < NEARLY_S for number in told)


@pytest.mark.parametrize(("sign", "side"), [(1, "ahead"), (-1, "behind")])
def test_a_host_whose_clock_is_off_by_an_hour_works_and_is_named(lab, sign, side):
    with clock(lab, sign * HOUR_S, "h2"):
        said = lab.command("manage", "doctor", "--json", check=False).stdout
        named = {one["about"]: one["text"] for one in json.loads(said)}
        for daemon in DAEMONS:
            text = named[f"{daemon}@h2"]
            assert an_hour(text), text
            assert side in text
        assert "clock" not in named["compute@h1"]
        assert lab.hosts() == {"h1": "up", "h2": "up", "h3": "up"}
        rebooted, ended = lab.on("h2", 2)
        lab.reboot(rebooted)
        lab.terminate(ended)
        wait(lambda: ended not in lab.states() and lab.states()[rebooted] == "running")
        assert set(lab.run(5).values()) == {"h1", "h2", "h3"}, "nobody takes it for dead"
        [(doubles,)] = lab.rows("select count(*) - count(distinct address) from addresses")
        assert doubles == 0
        assert lab.manage("audit") == {"findings": [], "unseen": {}, "fenced": []}
        if sign > 0:  # its heartbeats do not outlive it
            lab.lab("kill", "h2", "compute")
            wait(lambda: lab.hosts()["h2"] == "down")


@pytest.mark.parametrize("sign", [1, -1])
def test_front_doors_whose_clock_is_off_name_the_difference_and_give_good_tokens(lab, sign):
    with clock(lab, sign * HOUR_S, "head", "api"):
        with pytest.raises(exceptions.ClientError) as refused:
            lab.ec2().describe_instances()
        told = refused.value.response["Error"]
        assert told["Code"] == "RequestExpired"
        assert an_hour(told["Message"]), told
        token = token_of(lab)
        assert knows(lab, token)
    assert knows(lab, token), "not yet good, or not any more"
    with clock(lab, sign * HOUR_S, "head", "objectstore"):
        with pytest.raises(exceptions.ClientError) as refused:
            lab.s3().list_buckets()
        told = refused.value.response["Error"]
        assert told["Code"] == "RequestTimeTooSkewed"
        assert an_hour(told["Message"]), told
    lab.s3().list_buckets()


def token_of(lab: Lab) -> str:
    """A token of OpenStack's APIs, for the user of novarc."""
    given = lab.environment
    user = {"name": given["OS_USERNAME"], "password": given["OS_PASSWORD"]}
    user["domain"] = {"name": "Default"}
    asked = {"identity": {"methods": ["password"], "password": {"user": user}}}
    request = urllib.request.Request(
        f"{given['OS_AUTH_URL']}/auth/tokens",
        json.dumps({"auth": asked}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.headers["X-Subject-Token"]


def knows(lab: Lab, token: str) -> bool:
    """Whether the token is good now."""
    request = urllib.request.Request(
        f"{lab.environment['OS_AUTH_URL']}/auth/tokens",
        headers={"X-Auth-Token": token, "X-Subject-Token": token},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status == 200
    except urllib.error.HTTPError:
        return False


def test_the_head_can_be_broken_like_a_host(lab):
    lab.lab("kill", "head", "scheduler")
    assert "scheduler down" in lab.shown()["head"]
    lab.lab("start", "head")
    assert "down" not in lab.shown()["head"]


def test_what_the_lab_does_not_have_is_said(lab):
    for words in (["kill"], ["kill", "h2", "nonsense"], ["cut", "head"], ["nonsense"], ["0"], []):
        done = lab.command("lab", *words, check=False)
        assert done.returncode == 2, words
        assert "error: " in done.stderr
    assert lab.command("lab", "cut", "h4", check=False).returncode == 1
    assert "is a lab" in lab.command("run", check=False).stderr


def test_a_second_lab_beside_it_is_begun_grown_and_ended_whatever_is_interrupted(rack, place):
    other = Lab(place)
    environment = {**os.environ, "MINICLOUD_STATE": str(place)}
    with subprocess.Popen(
        [SCRIPT, "lab", "1"], env=environment, stdout=subprocess.PIPE, text=True
    ) as begun:
        assert begun.stdout is not None
        for line in begun.stdout:
            if line.startswith("mariadb is up"):
                begun.send_signal(signal.SIGKILL)
                break
    other.lab("1")
    before = other.pid("compute@h1")
    other.lab("2")
    assert other.hosts() == {"h1": "up", "h2": "up"}
    assert other.pid("compute@h1") == before
    tag = other.option("tag")
    assert on_this_machine(tag)

    other.lab("down")
    assert on_this_machine(tag) == []
    assert not place.exists()
    other.lab("down")
    assert rack.command("lab", "status").returncode == 0


def test_where_there_is_no_lab_there_is_nothing_to_do(place):
    other = Lab(place)
    assert other.lab("down") == ""
    for words in (["status"], ["kill", "h1"], ["manage", "host", "list"]):
        assert other.command("lab", *words, check=False).returncode == 1
    refused = other.command("lab", "1", check=False, environment={"USE_MYSQL": "0"})
    assert refused.returncode == 1
    assert "a lab has USE_MYSQL=1" in refused.stderr
    assert not place.exists()
