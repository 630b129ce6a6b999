"""Volumes in real guests: what is written to one is there, in whatever guest it is put into."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.host import guests, spaces
from tests.host.guests import Guest
from tests.integration.running import RunningCloud, wait

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]

PORT = 3260


class Volume:
    """A volume as its user sees it."""

    def __init__(self, ec2: Any, size_gib: int = 1) -> None:
        self.ec2 = ec2
        self.id = ec2.create_volume(AvailabilityZone="nova", Size=size_gib)["VolumeId"]
        wait(lambda: self.state == "available", 60, f"{self.id} is available")

    @property
    def described(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ec2.describe_volumes(VolumeIds=[self.id])["Volumes"][0]
        return found

    @property
    def state(self) -> str:
        return str(self.described["State"])

    def take(self, guest: Guest) -> None:
        """It is attached, by what the API says."""
        self.ec2.attach_volume(VolumeId=self.id, InstanceId=guest.id, Device="/dev/vdb")
        wait(
            lambda: [one["State"] for one in self.described["Attachments"]] == ["attached"],
            60,
            f"{self.id} is attached",
        )

    def attach(self, guest: Guest) -> None:
        self.take(guest)
        wait(lambda: guest.ssh("test -b /dev/vdb").returncode == 0, 30, "the guest has the disk")

    def detach(self, guest: Guest) -> None:
        self.ec2.detach_volume(VolumeId=self.id)
        wait(lambda: self.state == "available", 90, f"{self.id} is detached")
        assert guest.ssh("test -b /dev/vdb").returncode == 1


@pytest.fixture(scope="module")
def volume(places: tuple[str, str], pair: list[Guest], ec2: Any) -> Volume:
    """A volume with a file in it, in the first guest, not mounted."""
    with spaces.inside(places[0]):
        made = Volume(ec2)
        made.attach(pair[0])
        pair[0].run("mke2fs -q -F /dev/vdb || mkfs.ext2 /dev/vdb")
        pair[0].run("mkdir -p /mnt && mount /dev/vdb /mnt && echo kept >/mnt/file && umount /mnt")
        return made


def read(guest: Guest) -> str:
    return guest.run("mkdir -p /mnt && mount /dev/vdb /mnt && cat /mnt/file && umount /mnt")


def test_the_guest_sees_size_and_serial(volume: Volume, pair: list[Guest]):
    assert pair[0].run("cat /sys/block/vdb/size").strip() == str(1024**3 // 512)
    assert pair[0].run("cat /sys/block/vdb/serial").strip() == volume.id.replace("-", "")


def test_what_was_written_in_one_guest_is_read_in_another(volume: Volume, pair: list[Guest]):
    volume.detach(pair[0])
    volume.attach(pair[1])
    assert read(pair[1]) == "kept\n"
    volume.detach(pair[1])
    volume.attach(pair[0])


def test_double_attach_and_delete_while_attached_are_refused(
    volume: Volume, pair: list[Guest], ec2: Any
):
    with pytest.raises(ClientError, match="VolumeInUse"):
        ec2.attach_volume(VolumeId=volume.id, InstanceId=pair[1].id, Device="/dev/vdc")
    with pytest.raises(ClientError, match="VolumeInUse"):
        ec2.delete_volume(VolumeId=volume.id)


def test_nobody_enters_without_the_attachments_password(volume: Volume, cloud: RunningCloud):
    control = cloud.state / "tgt" / "control"
    shown = spaces.sh(
        *("setpriv", "--reuid=minicloud", "--regid=minicloud", "--clear-groups"),
        *("env", f"TGT_IPC_SOCKET={control}", "tgtadm", "--mode", "target", "--op", "show"),
    )
    name = next(line.split()[2] for line in shown.splitlines() if line.startswith("Target "))
    url = f"iscsi://127.0.0.1:{PORT}/{name}/1"
    probe = subprocess.run(
        ["qemu-img", "info", url], capture_output=True, text=True, timeout=60, check=False
    )
    assert probe.returncode != 0
    assert "uthenticat" in probe.stderr


def test_a_volume_lives_through_a_kill_of_its_server(
    volume: Volume, cloud: RunningCloud, pair: list[Guest]
):
    pair[0].run("mount /dev/vdb /mnt")
    cloud.kill("tgtd")
    cloud.start("tgtd")
    pair[0].ssh("echo again >/mnt/again && sync && umount /mnt", limit_s=120.0)
    assert pair[0].run("mount /dev/vdb /mnt && cat /mnt/again && umount /mnt") == "again\n"
    assert read(pair[0]) == "kept\n"


def test_a_volume_lives_through_reboot_and_stop_and_start(
    volume: Volume, pair: list[Guest], ec2: Any
):
    before = pair[0].boot_id()
    ec2.reboot_instances(InstanceIds=[pair[0].id])
    wait(
        lambda: (
            pair[0].ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip() not in ("", before)
        ),
        guests.BOOT_LIMIT_S,
        "another boot",
    )
    assert read(pair[0]) == "kept\n"
    ec2.stop_instances(InstanceIds=[pair[0].id])
    pair[0].wait_state("stopped")
    ec2.start_instances(InstanceIds=[pair[0].id])
    pair[0].wait_state("running")
    pair[0].wait_ssh()
    assert read(pair[0]) == "kept\n"


def test_terminating_a_guest_gives_its_volume_back(cloud: RunningCloud, ec2: Any):
    [guest] = guests.launch(cloud, ec2)
    guest.wait_state("running")
    volume = Volume(ec2)
    volume.take(guest)
    ec2.terminate_instances(InstanceIds=[guest.id])
    guest.wait_state("terminated")
    wait(lambda: volume.state == "available", 60, "the volume is available")
    ec2.delete_volume(VolumeId=volume.id)
    wait(
        lambda: volume.id not in [one["VolumeId"] for one in ec2.describe_volumes()["Volumes"]],
        60,
        "the volume is gone",
    )
