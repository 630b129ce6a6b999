"""boto 2.49, whose EC2 signs with version 4, and as its elders did with version 2."""

from __future__ import annotations

import pytest

from tests.conformance.clients import User

CONNECT = """
import os, sys, time, urllib.parse
import boto.exception
from boto.ec2.connection import EC2Connection
from boto.ec2.regioninfo import RegionInfo

class Elder(EC2Connection):
    def _required_auth_capability(self):
        return ["ec2"]

url = urllib.parse.urlsplit(os.environ["EC2_URL"])
region = RegionInfo(name=os.environ["AWS_DEFAULT_REGION"], endpoint=url.hostname)
ec2 = (Elder if VERSION == 2 else EC2Connection)(
    os.environ["EC2_ACCESS_KEY"], os.environ["EC2_SECRET_KEY"], region=region,
    is_secure=False, port=url.port, path=url.path,
)
if VERSION == 4:  # it reads them from the host's name, which says nothing here
    ec2.auth_region_name, ec2.auth_service_name = region.name, "ec2"

def until(instance, state):
    for _ in range(600):
        if instance.update() == state:
            return
        time.sleep(0.1)
    raise AssertionError(f"{instance.state}, not {state}")

def refused(code, call, *arguments, **more):
    try:
        call(*arguments, **more)
    except boto.exception.EC2ResponseError as error:
        assert error.error_code == code, error
    else:
        raise AssertionError(f"{code} was not raised")
"""

LIFE = """
NAME = f"boto-{VERSION}"
assert [zone.name for zone in ec2.get_all_zones()] == ["nova"]
assert [one.name for one in ec2.get_all_regions()] == ["nova"]
pair = ec2.create_key_pair(NAME)
assert pair.material.startswith("-----BEGIN RSA PRIVATE KEY-----")
refused("InvalidKeyPair.Duplicate", ec2.create_key_pair, NAME)
group = ec2.create_security_group(NAME, "of boto 2")
assert group.authorize("tcp", 22, 22, "0.0.0.0/0")
assert group.authorize(src_group=group)
[group] = ec2.get_all_security_groups([NAME])
assert len(group.rules) == 2

image = ec2.get_image("ami-tty")
reservation = ec2.run_instances(
    image.id, 1, 2, key_name=NAME, security_groups=[NAME], user_data="#!/bin/sh\\necho hello\\n",
    instance_type="m1.nano", client_token=NAME,
)
one, two = reservation.instances
assert len(one.id) == len("i-12345678")  # the API version of boto 2 is older than longer ids
one.add_tag("Name", "web")
ec2.create_tags([one.id, two.id], {"by": NAME, "empty": ""})
until(one, "running")
until(two, "running")
assert one.tags == {"Name": "web", "by": NAME, "empty": ""}
assert [group.name for group in one.groups] == [NAME]
found = ec2.get_only_instances(filters={"tag:Name": "w*", "instance-state-name": "running"})
assert [instance.id for instance in found] == [one.id]
assert len(ec2.get_only_instances(filters={"tag-value": NAME})) == 2
assert {tag.name for tag in ec2.get_all_tags({"resource-id": one.id})} == set(one.tags)
[status] = ec2.get_all_instance_status([one.id])
assert (status.system_status.status, status.instance_status.status) == ("ok", "ok")
assert one.get_attribute("instanceType")["instanceType"] == "m1.nano"
assert one.get_console_output().output
assert ec2.get_all_addresses() == []

one.stop()
until(one, "stopped")
one.start()
until(one, "running")
assert one.reboot()
one.remove_tag("Name")
assert ec2.delete_tags([one.id, two.id], ["empty"])
assert {tag.name for tag in ec2.get_all_tags()} == {"by"}
refused("InvalidInstanceID.NotFound", ec2.get_all_reservations, ["i-12345678"])
refused("DryRunOperation", ec2.run_instances, "ami-tty", dry_run=True)
refused("DependencyViolation", ec2.delete_security_group, NAME)
ec2.terminate_instances([one.id, two.id])
until(one, "terminated")
until(two, "terminated")
assert ec2.delete_security_group(NAME)
assert pair.delete()
assert ec2.get_all_tags() == []
"""


@pytest.mark.parametrize("version", [2, 4])
def test_an_instance_lives_and_ends(user: User, version: int) -> None:
    user.python(f"VERSION = {version}\n{CONNECT}\n{LIFE}")


def test_a_wrong_secret_is_refused_by_its_name(user: User) -> None:
    user.python(f"""VERSION = 2
{CONNECT}
wrong = Elder("nobody", "x", region=region, is_secure=False, port=url.port, path=url.path)
refused("AuthFailure", wrong.get_all_zones)
known = Elder(os.environ["EC2_ACCESS_KEY"], "x", region=region, is_secure=False, port=url.port,
              path=url.path)
refused("SignatureDoesNotMatch", known.get_all_zones)
""")
