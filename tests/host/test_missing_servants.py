"""libvirtd and tgtd are away while verbs run: guests go on, what was asked waits, and is done once
when they are back."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host import guests
from tests.host.guests import Guest
from tests.host.test_volumes import Volume
from tests.integration.running import RunningCloud, wait

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]


def down(cloud: RunningCloud) -> set[str]:
    return {one["name"] for one in cloud.manage("service", "list") if one["state"] != "up"}


def test_what_was_asked_while_libvirtd_and_tgtd_were_away_is_done_when_they_are_back(
    cloud: RunningCloud, pair: list[Guest], ec2: Any
):
    guest = pair[0]
    before = guest.boot_id()
    volume = Volume(ec2)
    cloud.kill("libvirtd")
    cloud.kill("tgtd")
    ec2.reboot_instances(InstanceIds=[guest.id])
    ec2.attach_volume(VolumeId=volume.id, InstanceId=guest.id, Device="/dev/vdc")
    wait(lambda: down(cloud) == {"compute", "volume"}, 120, "their daemons are shown as down")

    def reasons() -> list[str]:
        rows = cloud.manage("instance", "list")
        return [str(row["reason"]) for row in rows if row["id"] == guest.id]

    wait(lambda: "libvirt" in reasons()[0], 120, "the instance says what it waits for")
    assert guest.boot_id() == before
    assert guest.state == "running"  # as AWS says of one that reboots

    cloud.start("libvirtd")
    cloud.start("tgtd")
    wait(lambda: down(cloud) == set(), 120, "they are up again")
    wait(
        lambda: (
            guest.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip() not in ("", before)
        ),
        guests.BOOT_LIMIT_S,
        "another boot",
    )
    wait(
        lambda: [one["State"] for one in volume.described["Attachments"]] == ["attached"],
        120,
        "the volume is attached",
    )
    ec2.detach_volume(VolumeId=volume.id)
    wait(lambda: volume.state == "available", 120, "the volume is detached")
    ec2.delete_volume(VolumeId=volume.id)
