"""The pretend hosts of a lab.

Each is a network namespace with one wire to the lab's management network (a bridge), with a
machine-id and a boot-id of its own, a directory, and its own daemons.  Broker, database, APIs,
scheduler and object store are on the head, which is this machine: the first address of that
network.  Whatever a host says to the head goes over its wire.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import secrets
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from launcher import configuration, files, host, services
from launcher.report import Failure, Refused, WrongUsage, say
from launcher.services import Service
from launcher.state import Cloud
from minicloud import processes

HEAD = "head"  # as what the launcher speaks of this machine
ON_HEAD = ("api", "scheduler", "objectstore")
ON_HOST = ("compute", "network", "volume")
NETWORK_HOST = "h1"  # serves the lab's network
ZONES = ("nova", "nova2")  # hosts with odd numbers, with even ones
MOST = 50
DISABLED, FORWARDING = 0, 3  # states of a bridge's port, bridge(8)
NETNS = Path("/run/netns")
BOOT_ID = "/proc/sys/kernel/random/boot_id"

# a mount namespace of the process's own, in which this machine is another one
BECOME = (
    f'mount --bind "$1" /etc/machine-id && mount --bind "$2" {BOOT_ID} && shift 2 && exec "$@"'
)

CONF = """\
# What differs on the pretend host {}: its daemons read it after the head's minicloud.conf.
"""


@dataclasses.dataclass(frozen=True)
class Host:
    """One pretend host; nothing is read or made by naming it."""

    cloud: Cloud
    number: int

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def path(self) -> Path:
        return self.cloud.state.path / "hosts" / self.name

    @property
    def conf(self) -> Path:
        """Written last: the host exists when this does."""
        return self.path / "minicloud.conf"

    @property
    def machine_id(self) -> Path:
        return self.path / "machine-id"

    @property
    def boot_id(self) -> Path:
        """It is there while the power is on."""
        return self.path / "boot-id"

    @property
    def zone(self) -> str:
        return ZONES[(self.number - 1) % len(ZONES)]

    @property
    def address(self) -> str:
        """On the management network: h1 has the eleventh."""
        return str(self.cloud.variables.management[10 + self.number])

    @property
    def namespace(self) -> str:
        """Also the name of the wire's other end, which is a port of the bridge."""
        return f"mc-{self.cloud.tag}-{self.name}"


def hosts(cloud: Cloud) -> list[Host]:
    """The pretend hosts that were made, by number."""
    found = [Host(cloud, number) for number in range(1, MOST + 1)]
    return [one for one in found if one.conf.exists()]


def named(cloud: Cloud, name: str) -> Host:
    """The host of that name; WrongUsage for what is no host's name, Refused for one not made."""
    match = re.fullmatch(r"h([1-9][0-9]{0,2})", name)
    if match is None:
        raise WrongUsage(f"there is no host {name}; a lab's are called h1, h2, …")
    found = Host(cloud, int(match[1]))
    if not found.conf.exists():
        raise Refused(f"this lab has no {name}", "see which it has: tools/minicloud.sh lab status")
    return found


def make(cloud: Cloud, count: int) -> None:
    """At least that many hosts exist, each whole; none is changed that did."""
    for number in range(1, count + 1):
        one = Host(cloud, number)
        if not one.conf.exists():
            _make(one)


def services_of(cloud: Cloud) -> list[Service]:
    """The daemons of the head and of every host."""
    head = [services.daemon(cloud, processes.named(name)) for name in ON_HEAD]
    return head + [service for one in hosts(cloud) for service in services_on(one)]


def services_on(one: Host) -> list[Service]:
    """The daemons of one host."""
    return [_daemon(one, name) for name in ON_HOST]


def wire(cloud: Cloud) -> None:
    """The management network is there and every host on it; a wire that was cut stays cut."""
    host.claim_range(cloud, str(cloud.variables.management))
    known = _links()
    bridge = _bridge(cloud)
    if bridge not in known:
        _ip(["link", "add", bridge, "type", "bridge"])
    length = cloud.variables.management.prefixlen
    _ip(
        ["address", "replace", f"{cloud.variables.host_ip}/{length}", "dev", bridge],
        ["link", "set", bridge, "up"],
    )
    for one in hosts(cloud):
        if _is_namespace(one.namespace) and "master" in known.get(one.namespace, {}):
            continue
        if one.namespace in known:
            _ip(["link", "delete", one.namespace])  # half made, or of a namespace that is gone
        _wire(one, bridge, length)


def cut(one: Host, *, off: bool) -> None:
    """No packet of the host gets through (`off`), or every one does; repeating is harmless.

    The bridge drops them: the host still sees a carrier, as when a switch further on fails, and
    notices by silence alone.
    """
    if one.namespace not in _links():
        raise Refused(f"{one.name} has no wire", "tools/minicloud.sh lab start makes it anew")
    state = DISABLED if off else FORWARDING
    _run(["bridge", "link", "set", "dev", one.namespace, "state", str(state)])


def wire_state(one: Host) -> str:
    """up, cut, or off for a host without power."""
    if not one.boot_id.exists():
        return "off"
    port = _links().get(one.namespace, {}).get("linkinfo", {}).get("info_slave_data", {})
    return "up" if port.get("state") == "forwarding" else "cut"


def power_off(one: Host) -> None:
    """When the host is started again it boots: what ran on it before does not run any more."""
    one.boot_id.unlink(missing_ok=True)


def _make(one: Host) -> None:
    """The directory of a host; its configuration is the operator's from here on."""
    uid, gid = files.owner()
    for path in (one.path.parent, one.path):
        files.directory(path, 0o755)
    for name, mode in (("lib", 0o750), ("lock", 0o750), ("instances", 0o751)):
        files.directory(one.path / name, mode, uid=uid, gid=gid)
    if not one.machine_id.exists():
        files.write(one.machine_id, f"{secrets.token_hex(16)}\n", 0o444)
    values = one.cloud.variables
    groups: configuration.Groups = {
        "DEFAULT": {
            "host": one.name,
            "zone": one.zone,
            "my_ip": one.address,
            "state_path": f"{one.path}/lib",
            "lock_path": f"{one.path}/lock",
        },
        "compute": {"instances_path": f"{one.path}/instances"},
        "objectstore": {"url": f"http://{values.host_ip}:{values.port('objectstore')}"},
    }
    text = configuration.rendered(CONF.format(one.name), groups)
    files.write(one.conf, text, 0o644)
    say(f"made the host {one.name} in zone {one.zone}")


def _daemon(one: Host, name: str) -> Service:
    here = services.daemon(one.cloud, processes.named(name))
    return dataclasses.replace(
        here,
        argv=[*here.argv, "--config-file", str(one.conf)],
        prepare=lambda: _power_on(one),
        host=one.name,
        place=[
            *("nsenter", f"--net={NETNS / one.namespace}", "--", "unshare", "--mount", "--"),
            *("/bin/sh", "-c", BECOME, "sh", str(one.machine_id), str(one.boot_id)),
        ],
    )


def _power_on(one: Host) -> None:
    if not one.boot_id.exists():
        files.write(one.boot_id, f"{uuid.uuid4()}\n", 0o444)


def _wire(one: Host, bridge: str, length: int) -> None:
    """Being a port of the bridge comes last: it says that all is done."""
    if not _is_namespace(one.namespace):
        if (NETNS / one.namespace).exists():
            _ip(["netns", "delete", one.namespace])
        _ip(["netns", "add", one.namespace])
    port = one.namespace
    _ip(["link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", one.namespace])
    _ip(
        ["link", "set", "lo", "up"],
        ["address", "add", f"{one.address}/{length}", "dev", "eth0"],
        ["link", "set", "eth0", "up"],
        namespace=one.namespace,
    )
    _ip(["link", "set", port, "up"], ["link", "set", port, "master", bridge])


def _is_namespace(name: str) -> bool:
    """Whether the file is a namespace, and not what an interrupted `ip netns add` left."""
    try:
        return os.stat(NETNS / name).st_dev != os.stat(NETNS).st_dev
    except FileNotFoundError:
        return False


def _bridge(cloud: Cloud) -> str:
    return f"mc-{cloud.tag}-lab"


def _links() -> dict[str, dict[str, Any]]:
    """All links of this network namespace by name, as `ip -d -j` shows them."""
    return {link["ifname"]: link for link in json.loads(_run(["ip", "-d", "-j", "link", "show"]))}


def _ip(*commands: Sequence[str], namespace: str = "") -> None:
    """Do these in that order, in one process; Failure with the first complaint."""
    there = ["-n", namespace] if namespace else []
    _run(["ip", *there, "-batch", "-"], "".join(f"{' '.join(words)}\n" for words in commands))


def _run(argv: list[str], given: str = "") -> str:
    done = subprocess.run(
        argv, input=given, capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode != 0:
        what = given.strip().replace("\n", "; ") or " ".join(argv)
        raise Failure(f"{what}: {done.stderr.strip()}")
    return done.stdout
