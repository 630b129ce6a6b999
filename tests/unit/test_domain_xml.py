"""The XML a guest becomes: what it says of the guest, and what cloud-init makes of it."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import subprocess
import xml.etree.ElementTree as ET

import pytest

from minicloud import ids
from minicloud.compute.driver import BootImage, Guest, NetworkDisk, Port
from minicloud.compute.libvirt import domain_xml

DS_IDENTIFY = pathlib.Path("/usr/lib/cloud-init/ds-identify")
DIRECTORY = pathlib.Path("/instances")


def image() -> BootImage:
    return BootImage(ids.new(), 1024, "0" * 64, "raw", 1024)


def guest(**changes: object) -> Guest:
    id = ids.new()
    port = Port("mc-test-tap", "02:16:3e:00:00:02", "10.0.0.2", "mc-test-n1", 1450, "10.0.0.1")
    made = Guest(
        id=id,
        ec2_id=ids.ec2("i", id),
        name="web",
        hostname="ip-10-0-0-2",
        project_id="proj",
        generation=7,
        vcpus=2,
        memory_mib=96,
        disk_gib=0,
        image=image(),
        kernel=image(),
        ramdisk=image(),
        ports=(port,),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def files(kernel: bool = True) -> domain_xml.Files:
    return domain_xml.Files(
        disk=DIRECTORY / "disk",
        base=DIRECTORY / "base",
        console=DIRECTORY / "console.log",
        kernel=DIRECTORY / "kernel" if kernel else None,
        ramdisk=DIRECTORY / "ramdisk" if kernel else None,
    )


def render(made: Guest, where: domain_xml.Files | None = None, virt_type: str = "qemu") -> str:
    return domain_xml.render(
        made, where or files(), tag="test", cloud_id="cloud-1", virt_type=virt_type
    )


def test_the_stamp_says_whose_the_domain_is_and_which_start_made_it() -> None:
    xml = render(guest())
    assert domain_xml.stamp(xml) == domain_xml.Stamp("cloud-1", 7)
    assert domain_xml.taps(xml) == ("mc-test-tap",)


def test_a_domain_of_somebody_else_has_no_stamp() -> None:
    assert domain_xml.stamp("<domain><name>x</name></domain>") is None


def test_name_and_uuid_are_the_instances() -> None:
    made = guest()
    domain = ET.fromstring(render(made))
    assert domain.findtext("name") == f"mc-test-{made.ec2_id}"
    assert domain.findtext("uuid") == made.id


def test_a_kernel_is_booted_directly_and_a_disk_by_the_firmware() -> None:
    direct, disk = (ET.fromstring(render(guest(), files(kernel))) for kernel in (True, False))
    words = f"{domain_xml.CMDLINE} {domain_xml.EMULATED}"
    assert direct.findtext("os/cmdline") == words
    assert direct.findtext("os/initrd") == "/instances/ramdisk"
    assert direct.find("os/boot") is None
    assert disk.find("os/kernel") is None
    assert disk.find("os/boot[@dev='hd']") is not None


def test_hostile_text_stays_text() -> None:
    nasty = "</name><devices>&\"'"
    domain = ET.fromstring(render(guest(project_id=nasty, ec2_id=nasty)))
    assert domain.findtext("name") == f"mc-test-{nasty}"
    assert len(domain.findall("devices")) == 1


def test_only_emulation_bounds_the_translation_cache() -> None:
    assert ET.fromstring(render(guest())).findtext("features/tcg/tb-cache") == "32"
    assert ET.fromstring(render(guest(), virt_type="kvm")).find("features/tcg") is None


def test_the_console_is_appended_to_so_that_a_reboot_keeps_it() -> None:
    log = ET.fromstring(render(guest())).find("devices/serial/log")
    assert log is not None
    assert log.attrib == {"file": "/instances/console.log", "append": "on"}


def test_the_disk_names_its_base_so_that_its_header_need_not_be_believed() -> None:
    backing = ET.fromstring(render(guest())).find("devices/disk/backingStore")
    assert backing is not None
    assert backing.find("source[@file='/instances/base']") is not None
    assert backing.find("format[@type='raw']") is not None


def firmware(xml: str, directory: pathlib.Path) -> None:
    """What Linux shows of the firmware in /sys/class/dmi/id."""
    names = {"manufacturer": "sys_vendor", "product": "product_name"}
    for entry in ET.fromstring(xml).iterfind("sysinfo/system/entry"):
        key = entry.get("name", "")
        name = names.get(key, f"product_{key}")
        (directory / name).write_text(f"{entry.text}\n")


def as_in_a_guest(directory: pathlib.Path) -> pathlib.Path:
    """A directory for PATH in which the tests' machine, maybe a container, is a QEMU guest."""
    directory.mkdir()
    detect = directory / "systemd-detect-virt"
    detect.write_text('#!/bin/sh\n[ "$1" = --container ] && echo none && exit 1\necho qemu\n')
    detect.chmod(0o755)
    return directory


@pytest.mark.skipif(not DS_IDENTIFY.exists(), reason="cloud-init is not installed")
def test_cloud_inits_ds_identify_is_certain_that_this_is_ec2(tmp_path: pathlib.Path) -> None:
    dmi = tmp_path / "sys/class/dmi/id"
    for directory in (dmi, tmp_path / "proc/1", tmp_path / "etc/cloud", tmp_path / "run"):
        directory.mkdir(parents=True)
    firmware(render(guest()), dmi)
    (tmp_path / "proc/cmdline").write_text(domain_xml.CMDLINE)
    (tmp_path / "proc/uptime").write_text("1.0 1.0\n")
    (tmp_path / "etc/cloud/cloud.cfg").write_text(
        "datasource_list: [ NoCloud, ConfigDrive, OpenStack, Ec2, None ]\n"
    )
    # strict: a source that is only possible is not taken
    (tmp_path / "etc/cloud/ds-identify.cfg").write_text(
        "policy: search,found=first,maybe=none,notfound=disabled\n"
    )
    environment = {
        "PATH": f"{as_in_a_guest(tmp_path / 'bin')}:{os.environ['PATH']}",
        "PATH_ROOT": str(tmp_path),
        "DI_LOG": "stderr",
    }
    ended = subprocess.run(
        ["sh", str(DS_IDENTIFY), "--force"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    chosen = (tmp_path / "run/cloud-init/cloud.cfg").read_text()
    assert chosen.split() == ["datasource_list:", "[", "Ec2,", "None", "]"], ended.stderr


def network_disk() -> NetworkDisk:
    attachment = ids.new()
    return NetworkDisk(
        volume_id=ids.new(),
        export_id=attachment,
        letter="c",
        serial="vol0123456789abcdef0",
        portal="10.1.2.3:3260",
        target=ids.iqn("test", attachment),
        user=attachment,
        password="not-to-be-shown",
    )


def test_a_volume_is_a_network_disk_whose_password_is_nowhere_in_the_xml() -> None:
    disk = network_disk()
    xml = render(guest(volumes=(disk,)))
    assert domain_xml.volumes(xml) == ("c",)
    found = ET.fromstring(domain_xml.network_disk(xml, "c") or "")
    assert found.attrib == {"type": "network", "device": "disk"}
    host = found.find("source/host")
    assert host is not None
    assert host.attrib == {"name": "10.1.2.3", "port": "3260"}
    assert domain_xml.network_disk(xml, "b") is None
    for text in (xml, domain_xml.volume(disk), domain_xml.volume_secret(disk), repr(disk)):
        assert disk.password not in text


def test_the_secret_is_the_attachments_own() -> None:
    disk = network_disk()
    secret = ET.fromstring(domain_xml.volume_secret(disk))
    assert (secret.get("ephemeral"), secret.get("private")) == ("yes", "yes")
    assert secret.findtext("uuid") == disk.export_id


def test_a_domain_shows_which_secrets_go_with_it() -> None:
    disk = network_disk()
    assert domain_xml.secrets(render(guest(volumes=(disk,)))) == (disk.export_id,)
    assert domain_xml.secrets(render(guest())) == ()
