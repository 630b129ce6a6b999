"""A host with a real guest, volume and network is fenced and evacuated, and comes back.

All it had is taken away by it and, since there is no other host, made anew on it.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.host import guests
from tests.host.test_volumes import Volume, read
from tests.integration.running import RunningCloud, wait

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]

DAEMONS = ("scheduler", "compute", "network", "volume", "objectstore")


def states(cloud: RunningCloud) -> set[str]:
    return {daemon["state"] for daemon in cloud.manage("service", "list")}


def test_a_guest_comes_back_with_a_new_disk_and_all_else_it_had(cloud: RunningCloud, ec2: Any):
    [guest] = guests.launch(cloud, ec2)
    guest.wait_up()
    volume = Volume(ec2)
    volume.attach(guest)
    guest.run("mke2fs -q -F /dev/vdb || mkfs.ext2 /dev/vdb")
    guest.run("mkdir -p /mnt && mount /dev/vdb /mnt && echo kept >/mnt/file && umount /mnt")
    guest.run("echo lost > /root/lost && sync")
    had = (guest.address, guest.mac)
    [host] = {daemon["host"] for daemon in cloud.manage("service", "list")}
    cloud.command("manage", "host", "fence", host, "--force")
    wait(lambda: not any(map(cloud.pid, DAEMONS)), 60, "every daemon has ended by itself")
    moved = cloud.manage("host", "evacuate", host)
    assert {"kind": "network", "id": "private", "now": None, "comes_back": None} in moved
    assert {one["now"] for one in moved if one["kind"] == "instance"} == {"scheduling"}
    cloud.command("start")
    wait(lambda: states(cloud) == {"up"}, 60, "the host is back")
    guest.wait_state("running")
    guest.wait_up()
    assert (guest.address, guest.mac) == had
    assert guest.ssh("test -e /root/lost").returncode == 1
    assert read(guest) == "kept\n"
    ec2.terminate_instances(InstanceIds=[guest.id])
    guest.wait_state("terminated")
    ec2.delete_volume(VolumeId=volume.id)
