"""libcloud: its EC2 driver, which signs with version 2 and begins its lists with 0, and those for
OpenStack."""

from __future__ import annotations

import pytest

from tests.conformance.clients import User

LIFE = """
import os, time, urllib.parse
from libcloud.common.exceptions import BaseHTTPError
from libcloud.compute.base import NodeSize
from libcloud.compute.providers import get_driver
from libcloud.compute.types import Provider

url = urllib.parse.urlsplit(os.environ["EC2_URL"])
ec2 = get_driver(Provider.EC2)(
    os.environ["EC2_ACCESS_KEY"], os.environ["EC2_SECRET_KEY"],
    secure=False, host=url.hostname, port=url.port,
)
ec2.region_name = os.environ["AWS_DEFAULT_REGION"]  # its constructor knows Amazon's only

def until(node, state):
    for _ in range(600):
        [now] = ec2.list_nodes(ex_node_ids=[node.id])
        if now.state == state:
            return now
        time.sleep(0.1)
    raise AssertionError(f"{now.state}, not {state}")

def refused(code, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except BaseHTTPError as error:
        assert code in str(error), error
    else:
        raise AssertionError(f"{code} was not raised")

[place] = ec2.list_locations()
assert place.name == "nova"
assert "ami-tty" in [image.id for image in ec2.list_images()]
pair = ec2.create_key_pair("libcloud")
assert pair.private_key
assert ec2.get_key_pair("libcloud").fingerprint == pair.fingerprint
assert "libcloud" in [one.name for one in ec2.list_key_pairs()]
group = ec2.ex_create_security_group("libcloud", "of libcloud")["group_id"]
assert ec2.ex_authorize_security_group("libcloud", 22, 22, "0.0.0.0/0")
assert ec2.ex_authorize_security_group_ingress(group, 80, 80, cidr_ips=["10.0.0.0/8"])
assert "libcloud" in ec2.ex_list_security_groups()

size = NodeSize("m1.nano", "m1.nano", 96, 0, None, None, ec2)
node = ec2.create_node(
    name="web", image=ec2.get_image("ami-tty"), size=size, location=place,
    ex_keyname="libcloud", ex_security_groups=["libcloud"], ex_metadata={"by": "libcloud"},
    ex_userdata="#!/bin/sh\\necho hello\\n",
)
[(node, addresses)] = ec2.wait_until_running(
    [node], wait_period=0.2, timeout=60, ssh_interface="private_ips"
)
assert addresses == node.private_ips
assert (node.name, node.extra["tags"]) == ("web", {"Name": "web", "by": "libcloud"})
assert [one.id for one in ec2.list_nodes(ex_filters={"tag:by": "libcloud"})] == [node.id]
assert ec2.ex_create_tags(node, {"more": "x"})
assert ec2.ex_describe_tags(node) == {"Name": "web", "by": "libcloud", "more": "x"}
assert ec2.ex_delete_tags(node, {"more": "x"})
assert ec2.ex_get_console_output(node)["output"]

def until_volume(state):
    for _ in range(600):
        [now] = ec2.list_volumes(ex_filters={"volume-id": disk.id})
        if now.state == state:
            return now
        time.sleep(0.1)
    raise AssertionError(f"{now.state}, not {state}")

disk = ec2.create_volume(1, "disk")  # in the first zone; its name is a tag
assert (disk.name, disk.size, disk.extra["tags"]) == ("disk", 1, {"Name": "disk"})
until_volume("available")
assert [one.id for one in ec2.list_volumes(ex_filters={"tag:Name": "disk"})] == [disk.id]
assert ec2.ex_describe_tags(disk) == {"Name": "disk"}
assert ec2.attach_volume(node, disk, "/dev/sdb")
until_volume("inuse")
assert [one.name for one in ec2.list_volumes(node)] == ["disk"]
assert ec2.detach_volume(disk, ex_force=True)
until_volume("available")
assert ec2.destroy_volume(disk)
assert ec2.ex_describe_all_addresses() == []
assert ec2.ex_get_limits()["resource"]["max-instances"] == 10
assert ec2.stop_node(node)
until(node, "stopped")
assert ec2.start_node(node)
until(node, "running")
assert ec2.reboot_node(node)
refused("InvalidInstanceID.NotFound", ec2.list_nodes, ex_node_ids=["i-12345678"])
refused("UnsupportedOperation", ec2.ex_create_network, "10.0.0.0/16")
assert ec2.destroy_node(node)
until(node, "terminated")
assert ec2.ex_delete_security_group("libcloud")
assert ec2.delete_key_pair(pair)
"""


def test_a_node_lives_and_ends(user: User) -> None:
    user.python(LIFE)


OPENSTACK = """
import os, time, urllib.parse
from libcloud.common.exceptions import BaseHTTPError
from libcloud.compute.providers import get_driver
from libcloud.compute.types import Provider

url = urllib.parse.urlsplit(os.environ["OS_AUTH_URL"])
nova = get_driver(Provider.OPENSTACK)(
    os.environ["OS_USERNAME"], os.environ["OS_PASSWORD"], api_version=VERSION,
    ex_force_auth_url=f"{url.scheme}://{url.netloc}", ex_force_auth_version="3.x_password",
    ex_tenant_name=os.environ["OS_PROJECT_NAME"],
    ex_force_service_region=os.environ["OS_REGION_NAME"],
)

def until(node, state):
    for _ in range(600):
        if nova.ex_get_node_details(node.id).state == state:
            return
        time.sleep(0.1)
    raise AssertionError(f"{nova.ex_get_node_details(node.id).state}, not {state}")

pair = nova.create_key_pair("libcloud")
assert pair.private_key
[image] = [one for one in nova.list_images() if one.name == "ami-tty"]
assert nova.get_image(image.id).name == "ami-tty"
[size] = [one for one in nova.list_sizes() if one.name == "m1.nano"]
more = {}
if VERSION == "1.1":  # the other asks the network service for groups
    group = nova.ex_create_security_group("libcloud", "of libcloud")
    assert nova.ex_create_security_group_rule(group, "tcp", 22, 22, "0.0.0.0/0")
    [group] = [one for one in nova.ex_list_security_groups() if one.name == "libcloud"]
    assert [rule.from_port for rule in group.rules] == [22]
    more = {"ex_security_groups": [group]}
node = nova.create_node(
    name="web", image=image, size=size, ex_keyname="libcloud",
    ex_userdata="#!/bin/sh\\necho hello\\n", **more,
)
[(node, addresses)] = nova.wait_until_running(
    [node], wait_period=0.2, timeout=60, ssh_interface="private_ips"
)
assert addresses == node.private_ips != []
assert [one.name for one in nova.list_nodes()] == ["web"]
assert "simulated domain" in nova.ex_get_console_output(node)["output"]
assert nova.ex_stop_node(node)
until(node, "stopped")
assert nova.ex_start_node(node)
until(node, "running")
assert nova.reboot_node(node)
until(node, "running")
try:
    nova.ex_pause_node(node)
except BaseHTTPError as error:
    assert "pause is not supported by this cloud" in str(error)
else:
    raise AssertionError("it was paused")
assert nova.destroy_node(node)
for _ in range(600):
    if not nova.list_nodes():
        break
    time.sleep(0.1)
assert nova.list_nodes() == []
if VERSION == "1.1":
    nova.ex_delete_security_group_rule(group.rules[0])  # it takes 202 for a failure and says so
    nova.ex_delete_security_group(group)
    assert "libcloud" not in [one.name for one in nova.ex_list_security_groups()]
assert nova.delete_key_pair(pair)
"""


@pytest.mark.parametrize("version", ["1.1", "2.2"])
def test_a_node_of_openstack_lives_and_ends(user: User, version: str) -> None:
    user.python(f"VERSION = {version!r}\n{OPENSTACK}")
