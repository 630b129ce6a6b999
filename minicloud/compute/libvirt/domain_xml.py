"""A guest as libvirt's XML (libvirt.org/formatdomain.html), and what is read back from it.

Built from elements, never by formatting: whatever a name holds, it stays text.
"""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from pathlib import Path

from minicloud.compute.driver import Guest, NetworkDisk, Port

NAMESPACE = "https://minicloud.invalid/domain/1"  # of our element in <metadata>
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
EMULATOR = "/usr/bin/qemu-system-x86_64"
TRANSLATION_CACHE_MIB = 32  # QEMU's own default is a large part of a small guest's memory
CMDLINE = "root=/dev/vda console=tty0 console=ttyS0"
# without hardware help each of these saves a guest's kernel seconds of self-tests, calibration and
# defences against neighbours that an emulated CPU does not have
EMULATED = "quiet cryptomgr.notests no_timer_check tsc=reliable noreplace-smp mitigations=off"

ET.register_namespace("mc", NAMESPACE)
ET.register_namespace("qemu", QEMU_NAMESPACE)


@dataclasses.dataclass(frozen=True)
class Files:
    """Where the guest's files are on this host; `base` is what the disk is an overlay of."""

    disk: Path
    base: Path
    console: Path
    kernel: Path | None
    ramdisk: Path | None


@dataclasses.dataclass(frozen=True)
class Stamp:
    """What `<metadata>` of a domain of ours says: whose it is and which start made it."""

    cloud_id: str
    generation: int


def name(tag: str, ec2_id: str) -> str:
    return f"mc-{tag}-{ec2_id}"


def render(guest: Guest, files: Files, *, tag: str, cloud_id: str, virt_type: str) -> str:
    """The whole domain, stamped with the cloud's id and the guest's generation."""
    domain = ET.Element("domain", type=virt_type)
    _text(domain, "name", name(tag, guest.ec2_id))
    _text(domain, "uuid", guest.id)
    _metadata(domain, guest, cloud_id)
    _text(domain, "memory", str(guest.memory_mib), unit="MiB")
    _text(domain, "vcpu", str(guest.vcpus))
    _sysinfo(domain, guest)
    _boot(domain, files, virt_type)
    _features(domain, virt_type)
    ET.SubElement(domain, "cpu", mode="host-passthrough" if virt_type == "kvm" else "maximum")
    ET.SubElement(domain, "clock", offset="utc")
    _devices(domain, guest, files)
    environment = ET.SubElement(domain, f"{{{QEMU_NAMESPACE}}}commandline")
    ET.SubElement(
        environment, f"{{{QEMU_NAMESPACE}}}env", name="MINICLOUD_TAG", value=tag
    )  # libvirt gives QEMU none of its own environment
    return ET.tostring(domain, encoding="unicode")


def stamp(xml: str) -> Stamp | None:
    """What a domain's XML says of its start; None when it is not a minicloud's."""
    found = _parsed(xml).find(f"metadata/{{{NAMESPACE}}}instance")
    if found is None:
        return None
    return Stamp(found.get("cloud", ""), int(found.get("generation", "0")))


def taps(xml: str) -> tuple[str, ...]:
    """The host's names of the domain's network cards."""
    targets = _parsed(xml).iterfind("devices/interface/target")
    return tuple(target.get("dev", "") for target in targets)


def volumes(xml: str) -> tuple[str, ...]:
    """The letters of the domain's network disks."""
    disks = _parsed(xml).iterfind("devices/disk[@type='network']/target")
    return tuple(target.get("dev", "")[2:] for target in disks)


def secrets(xml: str) -> tuple[str, ...]:
    """The ids of the secrets that the domain's network disks name."""
    named = _parsed(xml).iterfind("devices/disk[@type='network']/source/auth/secret")
    return tuple(secret.get("uuid", "") for secret in named)


def network_disk(xml: str, letter: str) -> str | None:
    """That disk of a running domain, as libvirtd shows it; None when it has none."""
    for disk in _parsed(xml).iterfind("devices/disk[@type='network']"):
        target = disk.find("target")
        if target is not None and target.get("dev") == f"vd{letter}":
            return ET.tostring(disk, encoding="unicode")
    return None


def volume(disk: NetworkDisk) -> str:
    """An exported volume as a device of its own, to be put into a domain that runs."""
    return ET.tostring(_volume(disk), encoding="unicode")


def volume_secret(disk: NetworkDisk) -> str:
    """The secret by whose id a domain's XML names the volume's password; kept by libvirtd in its
    memory, shown to nobody."""
    secret = ET.Element("secret", ephemeral="yes", private="yes")
    _text(secret, "uuid", disk.export_id)
    _text(ET.SubElement(secret, "usage", type="iscsi"), "target", disk.target)
    return ET.tostring(secret, encoding="unicode")


def _parsed(xml: str) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314  libvirtd wrote it


def _text(parent: ET.Element, tag: str, text: str, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = text
    return element


def _metadata(domain: ET.Element, guest: Guest, cloud_id: str) -> None:
    metadata = ET.SubElement(domain, "metadata")
    ET.SubElement(
        metadata,
        f"{{{NAMESPACE}}}instance",
        cloud=cloud_id,
        generation=str(guest.generation),
        project=guest.project_id,
    )


def _sysinfo(domain: ET.Element, guest: Guest) -> None:
    """Firmware as on EC2: uuid and serial equal and beginning with `ec2`, by which cloud-init's
    ds-identify knows it (its function ec2_identify_platform), and the vendor people look for."""
    sysinfo = ET.SubElement(domain, "sysinfo", type="smbios")
    bios = ET.SubElement(sysinfo, "bios")
    _text(bios, "entry", "Amazon EC2", name="vendor")
    system = ET.SubElement(sysinfo, "system")
    entries = {
        "manufacturer": "Amazon EC2",
        "product": "minicloud",
        "serial": guest.id,
        "uuid": guest.id,
    }
    for key, value in entries.items():
        _text(system, "entry", value, name=key)


def _boot(domain: ET.Element, files: Files, virt_type: str) -> None:
    os = ET.SubElement(domain, "os")
    _text(os, "type", "hvm", arch="x86_64", machine="pc")
    if files.kernel is None:
        ET.SubElement(os, "boot", dev="hd")
    else:
        _text(os, "kernel", str(files.kernel))
        if files.ramdisk is not None:
            _text(os, "initrd", str(files.ramdisk))
        _text(os, "cmdline", f"{CMDLINE} {EMULATED}" if virt_type == "qemu" else CMDLINE)
    ET.SubElement(os, "smbios", mode="sysinfo")


def _features(domain: ET.Element, virt_type: str) -> None:
    features = ET.SubElement(domain, "features")
    ET.SubElement(features, "acpi")  # the polite way to ask for a shutdown
    ET.SubElement(features, "apic")
    if virt_type == "qemu":
        tcg = ET.SubElement(features, "tcg")
        _text(tcg, "tb-cache", str(TRANSLATION_CACHE_MIB), unit="MiB")


def _devices(domain: ET.Element, guest: Guest, files: Files) -> None:
    devices = ET.SubElement(domain, "devices")
    _text(devices, "emulator", EMULATOR)
    _disk(devices, files)
    devices.extend(_volume(disk) for disk in guest.volumes)
    for port in guest.ports:
        _interface(devices, port)
    serial = ET.SubElement(devices, "serial", type="pty")
    ET.SubElement(serial, "log", file=str(files.console), append="on")
    ET.SubElement(serial, "target", port="0")
    rng = ET.SubElement(devices, "rng", model="virtio")
    _text(rng, "backend", "/dev/urandom", model="random")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="none")
    ET.SubElement(devices, "controller", type="usb", model="none")
    ET.SubElement(devices, "memballoon", model="none")


def _disk(devices: ET.Element, files: Files) -> None:
    """The overlay, with its base named, so that libvirt need not believe the file's header.

    cache=writeback: the host's page cache serves the shared base, and what a guest flushes is on
    the disk.
    """
    disk = ET.SubElement(devices, "disk", type="file", device="disk")
    ET.SubElement(disk, "driver", name="qemu", type="qcow2", cache="writeback", discard="unmap")
    ET.SubElement(disk, "source", file=str(files.disk))
    backing = ET.SubElement(disk, "backingStore", type="file")
    ET.SubElement(backing, "format", type="raw")
    ET.SubElement(backing, "source", file=str(files.base))
    ET.SubElement(backing, "backingStore")
    ET.SubElement(disk, "target", dev="vda", bus="virtio")


def _volume(disk: NetworkDisk) -> ET.Element:
    """cache=none: what the guest flushed is with the server, whatever dies here."""
    address, _, port = disk.portal.rpartition(":")
    element = ET.Element("disk", type="network", device="disk")
    ET.SubElement(element, "driver", name="qemu", type="raw", cache="none")
    source = ET.SubElement(element, "source", protocol="iscsi", name=f"{disk.target}/1")
    ET.SubElement(source, "host", name=address, port=port)
    auth = ET.SubElement(source, "auth", username=disk.user)
    ET.SubElement(auth, "secret", type="iscsi", uuid=disk.export_id)
    ET.SubElement(element, "target", dev=f"vd{disk.letter}", bus="virtio")
    _text(element, "serial", disk.serial)
    return element


def _interface(devices: ET.Element, port: Port) -> None:
    interface = ET.SubElement(devices, "interface", type="bridge")
    ET.SubElement(interface, "mac", address=port.mac)
    ET.SubElement(interface, "source", bridge=port.bridge)
    ET.SubElement(interface, "target", dev=port.tap)
    ET.SubElement(interface, "model", type="virtio")
    ET.SubElement(interface, "mtu", size=str(port.mtu))
