"""A real guest by minicloud beside the same guest by libvirt alone: what the cloud adds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import socket
import stat
import statistics
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from typing import Any

from tests.bench.figures import Figure
from tests.bench.meters import TICK_S
from tests.host import spaces
from tests.host.guests import Guest, launch
from tests.integration.running import RunningCloud

PAIRS = int(os.environ.get("MINICLOUD_BENCH_PAIRS", "10"))
LIMIT_S = 300.0
LOOK_S = 0.1  # between two looks
SOCKET = "libvirt/run/libvirt-sock"


@dataclasses.dataclass(frozen=True)
class Boot:
    """Seconds from the wish until it was active and until its ssh server spoke, and the CPU
    seconds of the whole machine until then, the guest's among them."""

    active_s: float
    ssh_s: float
    cpu_s: float


def compared() -> Iterator[Figure]:
    """Medians of alternating pairs: the same image, memory, network card and address."""
    by_cloud, alone = [], []
    with _real() as (cloud, ec2):
        for _ in range(PAIRS):
            guest, boot = _by_cloud(cloud, ec2)
            by_cloud.append(boot)
            alone.append(_alone(cloud, guest))
            ec2.terminate_instances(InstanceIds=[guest.id])
            guest.wait_state("terminated")
    for name, which in (("time to active", "active_s"), ("to ssh", "ssh_s"), ("CPU", "cpu_s")):
        ours, bare = (
            statistics.median(getattr(one, which) for one in some) for some in (by_cloud, alone)
        )
        reach = "" if which == "active_s" else f"<= {1.1 * bare:.4g}"
        yield Figure("guest", name, ours, "s", reach, bare)


@contextlib.contextmanager
def _real() -> Iterator[tuple[RunningCloud, Any]]:
    """A cloud with libvirt in a network namespace, in which this thread is meanwhile."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    path.chmod(0o755)
    cloud = RunningCloud(path, LIBVIRT_TYPE="qemu")
    cloud.command("install")
    with spaces.uplinked() as (host, _), spaces.inside(host):
        try:
            cloud.command("run_detached")
            cloud.command("terminate")  # the first instance, which run_detached started
            yield cloud, cloud.ec2(retries=5)
        finally:
            cloud.command("scrub", "--all", check=False)
            shutil.rmtree(path, ignore_errors=True)


def _by_cloud(cloud: RunningCloud, ec2: Any) -> tuple[Guest, Boot]:
    timer = _Timer()
    [guest] = launch(cloud, ec2)
    address = guest.address
    active_s = timer.until(lambda: guest.state == "running", "it runs")
    boot = Boot(active_s, timer.until(lambda: _speaks(address), "ssh"), timer.cpu_s())
    guest.wait_up()
    return guest, boot


def _alone(cloud: RunningCloud, guest: Guest) -> Boot:
    """The guest's domain as it is, on an empty disk, while no daemon looks after it."""
    address = guest.address
    cloud.command("stop", "compute")
    libvirt = ["virsh", "-q", "-c", f"qemu+unix:///system?socket={cloud.state}/{SOCKET}"]
    domains = spaces.sh(*libvirt, "list", "--name").split()
    [domain] = [name for name in domains if name.endswith(guest.id)]
    spaces.sh(*libvirt, "destroy", domain)
    found = ET.fromstring(spaces.sh(*libvirt, "dumpxml", domain))
    disk = found.find("devices/disk/source")
    assert disk is not None
    overlay = pathlib.Path(disk.attrib["file"])
    told = spaces.sh("qemu-img", "info", "--output=json", str(overlay))
    base, owner = str(json.loads(told)["full-backing-filename"]), overlay.stat()
    overlay.unlink()
    timer = _Timer()
    new = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", base, str(overlay)]
    spaces.sh(*new)
    os.chown(overlay, owner.st_uid, owner.st_gid)
    overlay.chmod(stat.S_IMODE(owner.st_mode))
    spaces.sh(*libvirt, "start", domain)
    active_s = timer.until(lambda: True, "it runs")
    boot = Boot(active_s, timer.until(lambda: _speaks(address), "ssh"), timer.cpu_s())
    cloud.command("start", "compute")
    return boot


class _Timer:
    def __init__(self) -> None:
        self._began, self._cpu_s = time.monotonic(), _machine_s()

    def until(self, condition: Callable[[], bool], what: str) -> float:
        """Seconds since it began, once the condition holds."""
        while not condition():
            assert time.monotonic() - self._began < LIMIT_S, what
            time.sleep(LOOK_S)
        return time.monotonic() - self._began

    def cpu_s(self) -> float:
        """CPU seconds of the machine since it began."""
        return _machine_s() - self._cpu_s


def _machine_s() -> float:
    """User and system time of all processors (proc(5), stat)."""
    line = pathlib.Path("/proc/stat").read_text().splitlines()[0].split()
    user, nice, system = (int(word) for word in line[1:4])
    return (user + nice + system) * TICK_S


def _speaks(address: str) -> bool:
    """The guest's ssh server says its first word."""
    try:
        with socket.create_connection((address, 22), timeout=1) as link:
            return link.recv(4) == b"SSH-"
    except OSError:
        return False
