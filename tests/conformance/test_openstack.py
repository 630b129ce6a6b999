"""The openstack command, openstacksdk and novaclient, and boto3 on the same machines."""

from __future__ import annotations

import filecmp
import json
import os

import pytest

from tests.conformance.clients import User

ONE = ("-f", "value", "-c")  # prints this column alone
WEB = ("--image", "ami-tty", "--flavor", "m1.nano", "--wait")


BATCH = """
import contextlib, io, json
from openstackclient import shell

said = []
for words in json.load(open("commands")):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        failed = shell.main(words) != 0
    said.append((failed, out.getvalue()))
json.dump(said, open("said", "w"))
"""


def batch(user: User, *commands: tuple[str, ...]) -> list[tuple[bool, str]]:
    """For each of `openstack COMMAND`: whether it failed, and what it printed.

    They are run in one process, because most of a command's time goes into its start.
    """
    (user.home / "commands").write_text(json.dumps(commands))
    user.python(BATCH)
    return [(failed, text) for failed, text in json.loads((user.home / "said").read_text())]


def column(user: User, name: str, *words: str) -> list[str]:
    """A line for each row of what `openstack WORDS` lists, or shows."""
    return user.says("openstack", *words, *ONE, name).splitlines()


def until(user: User, name: str, status: str) -> None:
    """The server has it; each question is a Python that starts."""
    for _ in range(60):
        [now] = column(user, "status", "server", "show", name)
        if now == status:
            return
    pytest.fail(f"{name} is {now}, not {status}")


def test_the_life_of_a_server(user: User) -> None:
    def do(*words: str) -> str:
        return user.says("openstack", *words)

    do("keypair", "create", "--private-key", "key.pem", "web")
    assert (user.home / "key.pem").read_text().startswith("-----BEGIN")
    (user.home / "script").write_text("#!/bin/sh\necho hello\n")
    do(
        *("server", "create", *WEB, "--key-name", "web", "--security-group", "default"),
        *("--user-data", "script", "--availability-zone", "nova", "web"),
    )
    assert do("server", "list", "--name", "^web$", *ONE, "Name", "-c", "Status") == "web ACTIVE\n"
    assert "simulated domain" in do("console", "log", "show", "web")
    do("server", "stop", "web")
    until(user, "web", "SHUTOFF")
    do("server", "start", "web")
    until(user, "web", "ACTIVE")
    do("server", "reboot", "--wait", "web")
    do("server", "delete", "--wait", "web")
    assert "No Server found for web" in user.fails("openstack", "server", "show", "web")
    do("keypair", "delete", "web")


LISTS = {
    ("catalog", "list"): ("Type", {"identity", "compute", "image"}),
    ("flavor", "list"): ("Name", {"m1.nano", "m1.tiny"}),
    ("image", "list"): ("Name", {"ami-tty", "aki-tty", "ari-tty"}),
    ("availability", "zone", "list"): ("Zone Name", {"nova"}),
    ("project", "list"): ("Name", {"admin"}),
    ("hypervisor", "list"): ("Hypervisor Hostname", {"host1"}),
    ("hypervisor", "show", "host1"): ("state", {"up"}),
    ("compute", "service", "list"): ("Binary", {"minicloud-compute", "minicloud-scheduler"}),
    ("limits", "show", "--absolute"): ("Name", {"total_cores", "total_cores_used"}),
    ("quota", "show"): ("Resource", {"instances", "cores", "ram"}),
    ("quota", "list", "--compute"): ("Project ID", set()),
}


def test_what_there_is_is_listed(user: User) -> None:
    commands = [(*words, *ONE, name) for words, (name, _) in LISTS.items()]
    for words, (failed, text) in zip(LISTS, batch(user, *commands), strict=True):
        assert not failed, f"{words}: {text}"
        assert LISTS[words][1] <= set(text.splitlines()), words


def test_the_life_of_an_image(user: User) -> None:
    disk = user.home / "disk"
    disk.write_bytes(os.urandom((8 << 20) + 3))
    user.says("openstack", "image", "create", "--file", "disk", "--disk-format", "raw", "mine")
    assert column(user, "status", "image", "show", "mine") == ["active"]
    user.says("openstack", "image", "save", "--file", "back", "mine")
    assert filecmp.cmp(disk, user.home / "back", shallow=False)
    user.says("openstack", "image", "delete", "mine")
    assert "mine" not in column(user, "Name", "image", "list")


REFUSED = {
    ("server", "pause", "web"): "The server action pause is not supported by this cloud",
    ("server", "add", "security", "group", "web", "default"): "addSecurityGroup is not supported",
    ("server", "create", *WEB, "--property", "a=b", "x"): "metadata of a server is not supported",
    ("server", "create", *WEB, "--network", "private", "x"): "nothing at /v2.1/os-networks",
    ("server", "create", *WEB, "--key-name", "none", "x"): "The key pair 'none' does not exist",
    ("server", "create", *WEB, "--flavor", "none", "x"): "No Flavor found for none",
    ("server", "create", *WEB, "--image", "none", "x"): "No Image found for none",
    ("server", "set", "--name", "other", "web"): "PUT is not allowed at",
    ("image", "set", "--name", "other", "ami-tty"): "PATCH is not allowed at",
    ("security", "group", "list"): "not present in the service catalog",
    ("network", "list"): "not present in the service catalog",
    ("volume", "list"): "not present in the service catalog",
    ("--os-password", "wrong", "token", "issue"): "(HTTP 401)",
}


def test_what_is_wrong_or_not_built_is_refused_with_the_reason(user: User) -> None:
    user.says("openstack", "server", "create", *WEB, "web")
    said = batch(user, *REFUSED)
    for (words, reason), (failed, text) in zip(REFUSED.items(), said, strict=True):
        assert failed, words
        assert reason in text, f"{words}: {text}"


def test_boto3_and_openstacksdk_see_the_same_machines(user: User) -> None:
    user.python("""
import boto3, openstack

cloud, ec2 = openstack.connect(cloud="minicloud"), boto3.client("ec2")
image, flavor = cloud.image.find_image("ami-tty"), cloud.compute.find_flavor("m1.nano")

def shown(server):
    return "i-" + server.id.replace("-", "")[3:20]

mine = cloud.create_server("sdk", image=image.id, flavor=flavor.id, wait=True, timeout=120)
assert mine.status == "ACTIVE"
[seen] = ec2.describe_instances(InstanceIds=[shown(mine)])["Reservations"][0]["Instances"]
assert seen["State"]["Name"] == "running"
assert seen["PrivateIpAddress"] == mine.addresses["private"][0]["addr"]
assert seen["ImageId"] == "ami-tty"
cloud.compute.stop_server(mine)
ec2.get_waiter("instance_stopped").wait(InstanceIds=[shown(mine)], WaiterConfig={"Delay": 1})
assert cloud.compute.get_server(mine.id).status == "SHUTOFF"

made = ec2.run_instances(ImageId="ami-tty", InstanceType="m1.nano", MinCount=1, MaxCount=1)
id = made["Instances"][0]["InstanceId"]
ec2.get_waiter("instance_running").wait(InstanceIds=[id], WaiterConfig={"Delay": 1})
[other] = [one for one in cloud.compute.servers() if shown(one) == id]
assert (other.status, other.image.id) == ("ACTIVE", image.id)
assert other.addresses["private"][0]["addr"] == made["Instances"][0]["PrivateIpAddress"]
ec2.terminate_instances(InstanceIds=[id])
ec2.get_waiter("instance_terminated").wait(InstanceIds=[id], WaiterConfig={"Delay": 1})
assert cloud.compute.find_server(other.id) is None
assert cloud.delete_server(mine.id, wait=True, timeout=120)
""")


def test_openstacksdk_makes_keys_and_images(user: User) -> None:
    user.python("""
import openstack, os

cloud = openstack.connect(cloud="minicloud")
pair = cloud.create_keypair("sdk")
assert pair.private_key.startswith("-----BEGIN")
assert cloud.delete_keypair("sdk")

with open("disk", "wb") as file:
    file.write(os.urandom(3 << 20))
made = cloud.create_image(
    "sdk", filename="disk", disk_format="raw", container_format="bare", wait=True
)
assert (made.status, made.size) == ("active", 3 << 20)
cloud.image.download_image(made, output="back", stream=True)
assert open("disk", "rb").read() == open("back", "rb").read()
assert cloud.delete_image("sdk", wait=True)
assert [one.name for one in cloud.list_hypervisors()] == ["host1"]
assert cloud.get_compute_quotas("admin").instances == 10
assert cloud.get_compute_limits().max_total_instances == 10
assert [group.name for group in cloud.list_security_groups()] == ["default"]
assert cloud.list_networks() == cloud.list_floating_ips() == []
""")


@pytest.mark.parametrize("version", ["2", "2.1"])
def test_novaclient(user: User, version: str) -> None:
    user.python(f"""
import time

import openstack
from novaclient import client

cloud = openstack.connect(cloud="minicloud")
nova = client.Client({version!r}, session=cloud.session)
flavor = nova.flavors.find(name="m1.nano")
made = nova.servers.create("nova", nova.glance.find_image("ami-tty").id, flavor.id)
until = time.monotonic() + 120
while nova.servers.get(made.id).status != "ACTIVE":
    assert time.monotonic() < until
    time.sleep(0.5)
assert nova.servers.get(made.id).networks["private"]
nova.servers.get(made.id).get_console_output()
assert nova.limits.get().to_dict()["absolute"]["totalInstancesUsed"] >= 1
assert nova.services.list() and nova.hypervisors.list()
nova.servers.delete(made.id)
""")


def test_the_nova_command(user: User) -> None:
    (user.home / "key.pem").write_text(user.says("nova", "keypair-add", "nova"))
    user.says(
        *("nova", "boot", "--image", "ami-tty", "--flavor", "m1.nano", "--key-name", "nova"),
        *("--poll", "nova"),
    )
    assert " ACTIVE " in user.says("nova", "list")
    assert "simulated domain" in user.says("nova", "console-log", "nova")
    user.says("nova", "reboot", "--poll", "nova")
    assert "| instances" in user.says("nova", "quota-show")
    user.says("nova", "delete", "nova")
    user.says("nova", "keypair-delete", "nova")
