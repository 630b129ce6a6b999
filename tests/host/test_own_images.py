"""A disk that a user brings: with its own boot loader and kernel, put into a bucket."""

from __future__ import annotations

import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from launcher import guest_image
from tests.host import guests, spaces
from tests.host.guests import Guest
from tests.integration.running import RunningCloud, wait

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]

BUCKET = "disks"
KEY_PAIR = "mine"


@pytest.fixture(scope="module")
def disk(cloud: RunningCloud) -> pathlib.Path:
    """A raw disk of 40 MiB with an MBR, GRUB and one partition; made where there is a network."""
    return guest_image.whole_disk()


@pytest.fixture(scope="module")
def s3(cloud: RunningCloud, places: tuple[str, str]) -> Iterator[Any]:
    """boto3 with an empty bucket."""
    with spaces.inside(places[0]):
        made = cloud.s3()
        made.create_bucket(Bucket=BUCKET)
    yield made
    with spaces.inside(places[0]):
        for row in made.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            made.delete_object(Bucket=BUCKET, Key=row["Key"])
        made.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def key(ec2: Any, tmp_path: pathlib.Path) -> Iterator[str]:
    """The file of a key pair of the cloud's making."""
    file = tmp_path / "key"
    file.touch(mode=0o600)
    file.write_text(ec2.create_key_pair(KeyName=KEY_PAIR)["KeyMaterial"])
    yield str(file)
    ec2.delete_key_pair(KeyName=KEY_PAIR)


def register(ec2: Any, s3: Any, file: pathlib.Path) -> dict[str, Any]:
    """The image made of the file, once it is known whether it is one."""
    s3.upload_file(str(file), BUCKET, file.name)
    id = ec2.register_image(Name=file.name, ImageLocation=f"{BUCKET}/{file.name}")["ImageId"]

    def described() -> dict[str, Any]:
        found: dict[str, Any] = ec2.describe_images(ImageIds=[id])["Images"][0]
        return found

    wait(lambda: described()["State"] != "pending", 120, f"{id} was inspected")
    return described()


@pytest.mark.parametrize("form", ["raw", "qcow2"])
def test_an_uploaded_disk_boots_by_its_own_loader(
    cloud: RunningCloud,
    ec2: Any,
    s3: Any,
    disk: pathlib.Path,
    key: str,
    tmp_path: pathlib.Path,
    form: str,
) -> None:
    file = tmp_path / f"disk.{form}"
    argv = ["qemu-img", "convert", "-f", "raw", "-O", form, str(disk), str(file)]
    subprocess.run(argv, check=True)
    image = register(ec2, s3, file)
    assert image["State"] == "available", image
    assert "KernelId" not in image
    s3.delete_object(Bucket=BUCKET, Key=file.name)  # the image has bytes of its own
    [guest] = guests.launch(cloud, ec2, ImageId=image["ImageId"], KeyName=KEY_PAIR)
    wait(lambda: guest.ssh("test -e /run/up", key=key).returncode == 0, guests.BOOT_LIMIT_S, "up")
    assert "/dev/vda1 / ext4 " in guest.ssh("cat /proc/mounts", key=key).stdout
    assert "BOOT_IMAGE=/boot/vmlinuz" in guest.ssh("cat /proc/cmdline", key=key).stdout
    assert guest.ssh("cat /sys/class/block/vda/size", key=key).stdout == f"{40 * 2048}\n"
    ended(ec2, guest)
    ec2.deregister_image(ImageId=image["ImageId"])


def ended(ec2: Any, guest: Guest) -> None:
    ec2.terminate_instances(InstanceIds=[guest.id])
    guest.wait_state("terminated")


def test_a_disk_that_names_another_file_is_refused(
    ec2: Any, s3: Any, tmp_path: pathlib.Path
) -> None:
    file = tmp_path / "leaking.qcow2"
    backing = ["-F", "raw", "-b", "/etc/shadow"]
    argv = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *backing, str(file), "40M"]
    subprocess.run(argv, check=True)
    image = register(ec2, s3, file)
    assert image["State"] == "failed"
    assert "backing" in image["StateReason"]["Message"]
    ec2.deregister_image(ImageId=image["ImageId"])
