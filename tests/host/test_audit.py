"""The auditor on a real host: strays of ours are named and removed, a stranger's are neither."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Any

import pytest

from minicloud import ids
from minicloud.compute.libvirt import domain_xml
from tests.host.guests import Guest
from tests.host.spaces import sh
from tests.integration.running import RunningCloud, wait

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]

MINE, THEIRS = ids.new(), ids.new()
MAC = "02:16:3e:ff:ff:01"
STRANGER = "mc-zzzz"  # another cloud's tag


class Host:
    """What is on the host of a cloud, changed by hand."""

    def __init__(self, cloud: RunningCloud) -> None:
        self.cloud = cloud
        conf = (cloud.state / "minicloud.conf").read_text()
        [self.tag] = [line.split()[-1] for line in conf.splitlines() if line.startswith("tag =")]
        [self.network] = (cloud.state / "lib" / "networks").iterdir()
        [(self.cloud_id,)] = cloud.rows("SELECT id FROM cloud")

    def virsh(self, *words: str) -> str:
        socket = self.cloud.state / "libvirt" / "run" / "libvirt-sock"
        return sh("virsh", "-q", "-c", f"qemu+unix:///system?socket={socket}", *words)

    def define(self, id: str, name: str, cloud_id: str) -> None:
        """A domain that is off, as a minicloud with that id would have made it."""
        domain = ET.Element("domain", type="qemu")
        for key, value in (("name", name), ("uuid", id), ("memory", "32768")):
            ET.SubElement(domain, key).text = value
        stamp = ET.SubElement(
            ET.SubElement(domain, "metadata"), f"{{{domain_xml.NAMESPACE}}}instance"
        )
        stamp.set("cloud", cloud_id)
        stamp.set("generation", "1")
        ET.SubElement(ET.SubElement(domain, "os"), "type", arch="x86_64").text = "hvm"
        file = self.cloud.state / "planted.xml"
        file.write_text(ET.tostring(domain, encoding="unicode"))
        self.virsh("define", str(file))
        file.unlink()

    def tgtadm(self, *words: str) -> str:
        return sh(
            *("setpriv", "--reuid=minicloud", "--regid=minicloud", "--clear-groups"),
            *("env", f"TGT_IPC_SOCKET={self.cloud.state / 'tgt' / 'control'}"),
            *("tgtadm", "--lld", "iscsi", *words),
        )

    def target(self, tid: int, name: str) -> None:
        self.tgtadm("--mode", "target", "--op", "new", "--tid", str(tid), "-T", name)

    def write(self, *path: str) -> None:
        file = self.cloud.state.joinpath(*path)
        file.parent.mkdir(exist_ok=True)
        file.write_text("planted")
        os.utime(file, (1e9, 1e9))
        for made in (file, file.parent):
            if made.stat().st_uid == 0:
                owner = (self.cloud.state / path[0]).stat()
                os.chown(made, owner.st_uid, owner.st_gid)

    def everything(self) -> str:
        """Names of all that is there, a stranger's too."""
        entries = (self.cloud.state / name for name in ("instances", "volumes"))
        return "\n".join(
            [
                self.virsh("list", "--all", "--uuid"),
                sh("ip", "-o", "link", "show"),
                sh("ip", "netns", "list"),
                sh("nft", "list", "ruleset"),
                self.tgtadm("--mode", "target", "--op", "show"),
                *(name for path in entries for name in os.listdir(path)),
                *(file.read_text() for file in (self.network / "hosts").iterdir()),
                (self.network / "leases").read_text(),
            ]
        )


def audit(cloud: RunningCloud, *words: str) -> tuple[int, dict[str, Any]]:
    done = cloud.command("manage", "audit", *words, "--json", check=False)
    assert done.stdout.startswith("{"), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def host(cloud: RunningCloud, first: Guest) -> Iterator[Host]:
    """Nothing is wrong, and no sweep comes by itself to mend what is planted."""
    conf = cloud.state / "minicloud.conf"
    before = conf.read_text()
    cloud.set_option("work", "sweep_s", 3600)
    cloud.command("restart")
    wait(
        lambda: audit(cloud, "--fix") == (0, {"findings": [], "unseen": {}, "fenced": []}),
        120,
        "all is well",
    )
    yield Host(cloud)
    conf.write_text(before)
    cloud.command("restart")


@pytest.fixture
def strangers(host: Host) -> Iterator[list[str]]:
    """Things that look like a cloud's, but have not our id; their names."""
    host.define(THEIRS, "mc-zzzz-i-stranger", ids.new())
    sh("ip", "tuntap", "add", "dev", f"{STRANGER}-planted", "mode", "tap")
    sh("ip", "netns", "add", f"{STRANGER}-net77")
    sh("nft", "add", "table", "bridge", f"{STRANGER}-compute")
    host.target(901, f"iqn.2010-10.org.minicloud:zzzz-{THEIRS}")
    host.write("instances", "stranger.txt")
    host.write("volumes", "stranger.txt")
    yield [
        THEIRS,
        f"{STRANGER}-planted",
        f"{STRANGER}-net77",
        f"{STRANGER}-compute",
        "stranger.txt",
    ]
    host.virsh("undefine", THEIRS)
    sh("ip", "link", "delete", f"{STRANGER}-planted")
    sh("ip", "netns", "delete", f"{STRANGER}-net77")
    sh("nft", "delete", "table", "bridge", f"{STRANGER}-compute")
    host.tgtadm("--mode", "target", "--op", "delete", "--tid", "901")
    for name in ("instances", "volumes"):
        (host.cloud.state / name / "stranger.txt").unlink()


def plant(host: Host) -> dict[str, str]:
    """What is planted, kind → its name in `Host.everything`."""
    host.define(MINE, f"mc-{host.tag}-planted", host.cloud_id)
    tap, namespace = f"mc-{host.tag}-planted", f"mc-{host.tag}-net77"
    sh("ip", "tuntap", "add", "dev", tap, "mode", "tap")
    sh("ip", "netns", "add", namespace)
    element = f"{{ {tap} . {MAC} . 10.9.9.9 }}"
    sh("nft", "add", "element", "bridge", f"mc-{host.tag}-compute", "owner", element)
    (host.network / "hosts" / "10.9.9.8").write_text("02:16:3e:ff:ff:02,10.9.9.8,planted\n")
    with (host.network / "leases").open("a") as leases:
        leases.write("9999999999 02:16:3e:ff:ff:03 10.9.9.7 * *\n")
    disk, volume, export = ids.new(), ids.new(), ids.new()
    host.write("instances", disk, "disk")
    host.write("instances", disk, "left.0123.part")
    host.write("volumes", volume)
    host.target(902, ids.iqn(host.tag, export))
    return {
        "guest-without-row": MINE,
        "guest-without-row (files)": disk,
        "tap-without-guest": tap,
        "network-without-row": namespace,
        "filter-differs": MAC,
        "answer-without-booking (entry)": "02:16:3e:ff:ff:02,10.9.9.8",
        "answer-without-booking (lease)": "02:16:3e:ff:ff:03 10.9.9.7",
        "part-left": disk,
        "volume-without-row": volume,
        "export-without-attachment": export,
    }


def test_strays_are_named_and_removed_and_strangers_are_neither(
    host: Host, strangers: list[str], first: Guest
):
    planted = plant(host)
    assert [name for name in planted.values() if name not in host.everything()] == []
    status, told = audit(host.cloud)
    assert (status, told["unseen"]) == (1, {})
    assert {one["kind"] for one in told["findings"]} == {kind.split()[0] for kind in planted}
    words = json.dumps(told)
    assert [name for name in strangers if name in words] == []
    status, told = audit(host.cloud, "--fix")
    assert (status, told["unseen"]) == (0, {}), json.dumps(told, indent=1)
    assert [name for name in planted.values() if name in host.everything()] == []
    assert [name for name in strangers if name not in host.everything()] == []
    assert first.ssh("true").returncode == 0


def test_what_somebody_took_away_is_named_and_put_back(host: Host, first: Guest):
    namespace = host.network.name
    sh("ip", "netns", "exec", namespace, "nft", "flush", "ruleset")
    os.kill(int((host.network / "dnsmasq.pid").read_text()), 9)
    sh("nft", "delete", "table", "bridge", f"mc-{host.tag}-compute")
    status, told = audit(host.cloud)
    assert status == 1
    assert {one["kind"] for one in told["findings"]} == {"network-lacks", "filter-differs"}
    status, told = audit(host.cloud, "--fix")
    assert (status, told["unseen"]) == (0, {}), json.dumps(told, indent=1)
    assert first.ssh("true").returncode == 0
