"""Checks of the machine: tools, processor, kernel, processes, ports, disks."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator

from oslo_config import cfg

from minicloud import __version__, config, errors, kvm
from minicloud.db import health
from minicloud.doctor.check import AS_ROOT, Seen, check, failed, unseen, well
from minicloud.doctor.host import EMBEDDED, Host, version

# tool → the command that says its version, the oldest that was tested, its Debian package, the
# daemons that need it
TOOLS: dict[str, tuple[tuple[str, ...], str, str, tuple[str, ...]]] = {
    "libvirt": (("libvirtd", "--version"), "9.0", "libvirt-daemon-system", ("compute",)),
    "QEMU": ((kvm.QEMU, "--version"), "7.2", "qemu-system-x86", ("compute",)),
    "qemu-img": (("qemu-img", "--version"), "7.2", "qemu-utils", ("compute", "objectstore")),
    "nft": (("nft", "--version"), "1.0.6", "nftables", ("compute", "network")),
    "conntrack": (("conntrack", "--version"), "1.4", "conntrack", ("compute", "network")),
    "iproute2": (("ip", "-V"), "6.1", "iproute2", ("compute", "network")),
    "dnsmasq": (("dnsmasq", "--version"), "2.89", "dnsmasq-base", ("network",)),
    "tgt": (("tgtd", "--version"), "1.0.85", "tgt", ("volume",)),
}
OLDEST_PYTHON = "3.11"
OLDEST_KERNEL = "5.14"  # net.ipv4.tcp_migrate_req
CONTROLLERS = {"cpu", "memory"}  # by which libvirt divides the host among its guests

# what the kernel is tried with, in a network namespace that ends with the try
LINKS = "link add b0 type bridge\nlink add v0 type veth peer name v1\nlink set v0 master b0\n"
TABLES = """\
table bridge t {
  chain c {
    type filter hook forward priority 0
    arp operation request drop
  }
}
table inet t {
  chain c {
    type filter hook forward priority 0
    ct state established accept
  }
}
table ip t {
  chain c {
    type nat hook postrouting priority 100
    masquerade
  }
}
"""

TGTD = "tgtd"
# whose ports the options of a group are: the daemon that must be here, and who listens
PORT_OWNERS = {"openstack": ("api", "api"), "tgt": ("volume", TGTD)}

LEAST_PART, LEAST_BYTES = 0.05, 5 << 30  # free space is short when it is less than both
GIB = 1 << 30


# --- versions -----------------------------------------------------------------------------------


@check("versions")
def versions(host: Host) -> Iterator[Seen]:
    """Python, the kernel and the tools the daemons of this host call are as new as those
    minicloud is tested with."""
    yield well("minicloud", __version__)
    yield _compared("Python", platform.python_version(), OLDEST_PYTHON, "use Debian 12 or newer")
    if not host.real():
        return
    kernel = host.read("/proc/sys/kernel/osrelease").strip()
    yield _compared("kernel", kernel, OLDEST_KERNEL, "apt-get install linux-image-amd64")
    for tool, (command, oldest, package, users) in TOOLS.items():
        if any(host.serves(daemon) for daemon in users):
            yield _tool(host, tool, command, oldest, f"apt-get install {package}")


def _tool(host: Host, tool: str, command: tuple[str, ...], oldest: str, mend: str) -> Seen:
    if not host.has(command[0]):
        return failed(tool, f"{command[0]} is not installed", mend)
    return _compared(tool, host.run(*command), oldest, mend)


def _compared(about: str, said: str, oldest: str, mend: str) -> Seen:
    found = version(said)
    if not found:
        return unseen(about, "it does not say its version")
    shown = ".".join(map(str, found))
    if found < version(oldest):
        return failed(about, f"{shown} is older than {oldest}, the oldest that was tested", mend)
    return well(about, shown)


# --- processor and kernel -----------------------------------------------------------------------


@check("kvm")
def processor(host: Host) -> Iterator[Seen]:
    """A boot sector comes to its end under kvm, and faster than under emulation; where guests
    are emulated (`[libvirt] virt_type = qemu`), that it does so under emulation."""
    if not host.serves("compute") or not host.has(kvm.QEMU):
        return  # `versions` says so
    wanted = cfg.CONF.libvirt.virt_type == "kvm"
    emulate = "set [libvirt] virt_type = qemu in minicloud.conf"
    match host.may(kvm.DEVICE):
        case None if wanted:
            yield failed(
                kvm.DEVICE, "it is not there", f"modprobe kvm_intel kvm_amd, or {emulate}"
            )
        case None:
            yield _emulated(host, "there is no kvm here")
        case False:
            yield unseen(kvm.DEVICE, "this user may not open it", AS_ROOT)
        case True if kvm.works(host.exit_status):
            better = "" if wanted else "; guests are emulated, virt_type = kvm would be faster"
            yield well("boot sector", f"faster under kvm than emulated{better}")
        case True if wanted:
            yield failed(kvm.DEVICE, "a boot sector runs slower than emulated", emulate)
        case True:
            yield _emulated(host, "kvm does not work here")


def _emulated(host: Host, why: str) -> Seen:
    seconds = kvm.boot_s(host.exit_status, "tcg")
    if seconds is None:
        text = f"QEMU did not run it to its end within {kvm.LIMIT_S['tcg']:.0f} s"
        return failed("boot sector", text, "apt-get install --reinstall qemu-system-x86")
    return well("boot sector", f"emulated in {seconds:.1f} s; {why}")


@check("cgroups")
def cgroups(host: Host) -> Iterator[Seen]:
    """The control groups by which libvirt divides the host among its guests are mounted."""
    if not host.serves("compute"):
        return
    found = set()
    for place, kind, options in _mounts(host):
        if kind == "cgroup":
            found |= set(options.split(","))
        elif kind == "cgroup2":
            found |= set(host.read(f"{place}/cgroup.controllers").split())
    missing = " and ".join(sorted(CONTROLLERS - found))
    if missing:
        mend = "mount -t cgroup2 none /sys/fs/cgroup (and boot with cgroup_enable=memory)"
        yield failed("controllers", f"{missing} is not there", mend)
    else:
        yield well("controllers", " ".join(sorted(CONTROLLERS)))


def _mounts(host: Host) -> Iterator[tuple[str, str, str]]:
    """Where, of which type and with which options of its own each file system is mounted."""
    for line in host.read("/proc/self/mountinfo").splitlines():
        mount, _, file_system = line.partition(" - ")
        kind, _, options = file_system.split(" ", 2)
        yield _unescaped(mount.split(" ")[4]), kind, options


def _unescaped(path: str) -> str:
    """As proc(5) writes it: a space is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


@check("kernel")
def kernel(host: Host) -> Iterator[Seen]:
    """The kernel has bridges, veths, taps and the packet filter's expressions: they are made in
    a network namespace that is gone afterwards."""
    if not (host.serves("compute") or host.serves("network")):
        return
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    for about, tool, text, mend in (
        ("links", ("ip", "-batch", "-"), LINKS, "modprobe -a bridge veth"),
        ("packet filter", ("nft", "-f", "-"), TABLES, "modprobe -a nf_tables nft_ct nft_nat"),
    ):
        try:
            host.run("unshare", *user, "--net", *tool, input=text)
            yield well(about, "made and gone again")
        except errors.CommandFailed as error:
            said = str(error.facts["stderr"]) or "no reason given"
            if user and "unshare" in said:
                yield unseen(about, said, AS_ROOT)
            else:
                yield failed(about, said.splitlines()[0], mend)
    if host.serves("compute"):
        there = host.may("/dev/net/tun") is not None
        yield (
            well("taps", "/dev/net/tun")
            if there
            else failed("taps", "there is no /dev/net/tun", "modprobe tun")
        )


# --- processes and ports ------------------------------------------------------------------------


@check("processes")
def running(host: Host) -> Iterator[Seen]:
    """Each daemon that ever ran on this host runs: it holds its lock, and nobody stopped it."""
    pids = _pids(host)
    for daemon in host.daemons():
        pid = pids.get(daemon)
        if pid is None:
            yield failed(daemon, "it does not run", host.starting(daemon))
        elif _state(host, pid) in ("T", "t"):
            yield failed(daemon, f"its process {pid} was stopped", f"kill -CONT {pid}")
        else:
            yield well(daemon, f"process {pid}")


def _pids(host: Host) -> dict[str, int]:
    """The process of each daemon that lives here: who holds its lock (proc(5), /proc/locks)."""
    rows = [line.split() for line in host.read("/proc/locks").splitlines()]
    holders = {
        int(row[5].rpartition(":")[2]): int(row[4])
        for row in rows
        if len(row) == 8 and row[1] == "FLOCK" and row[3] == "WRITE"
    }
    return {
        daemon: holders[inode]
        for daemon, lock in host.daemons().items()
        if (inode := host.inode(lock)) in holders
    }


def _state(host: Host, pid: int) -> str:
    try:
        return host.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]
    except OSError:
        return ""


@check("ports")
def ports(host: Host) -> Iterator[Seen]:
    """What the daemons of this host answer on is listened on, and by them."""
    listeners, pids = _listeners(host.run("ss", "-Hltnp")), _pids(host)
    for owner, port, about in _ports(host):
        if port not in listeners:
            yield failed(about, f"nobody listens on port {port}", host.starting(owner))
            continue
        program, pid = listeners[port]
        ours = program.startswith(owner) if owner == TGTD else pid == pids.get(owner)
        if pid and not ours:
            mend = f"kill {pid}; {host.starting(owner)}"
            yield failed(about, f"port {port} is taken by {program}, process {pid}", mend)
        else:
            yield well(about, f"port {port}")


def _ports(host: Host) -> Iterator[tuple[str, int, str]]:
    """Who shall listen on which port, for every PortOpt of what belongs on this host."""
    known = host.daemons()
    for group, options in config.list_opts():
        daemon, owner = PORT_OWNERS.get(group, (group, group))
        if host.embedded and daemon != "volume":
            daemon = owner = EMBEDDED
        here = daemon in known and (owner != TGTD or host.serves(daemon))
        for option in options:
            if here and isinstance(option, cfg.PortOpt):
                yield owner, cfg.CONF[group][option.dest], f"[{group}] {option.dest}"


def _listeners(listing: str) -> dict[int, tuple[str, int]]:
    """port → program and pid, "" and 0 where this user may not see them (ss(8))."""
    found = {}
    for line in listing.splitlines():
        port = line.split()[3].rpartition(":")[2]
        who = re.search(r'\(\("([^"]*)",pid=(\d+)', line)
        found[int(port)] = (who[1], int(who[2])) if who else ("", 0)
    return found


# --- disks --------------------------------------------------------------------------------------


@check("disk")
def disk(host: Host) -> Iterator[Seen]:
    """Where state, guests, images and volumes live there is room, in bytes and in inodes, and
    it can be written."""
    seen = set()
    for path in _places():
        found = host.file_system(path)
        if found.device in seen:
            continue
        seen.add(found.device)
        low = found.bytes_free < min(found.bytes * LEAST_PART, LEAST_BYTES)
        crowded = found.inodes and found.inodes_free < found.inodes * LEAST_PART
        room = f"{found.bytes_free / GIB:.1f} of {found.bytes / GIB:.1f} GiB free"
        if found.read_only:
            yield failed(path, "it can only be read", f"mount -o remount,rw {path}")
        elif low:
            yield failed(path, f"only {room}", f"make room: du -xh {path} | sort -h | tail")
        elif crowded:
            text = f"only {found.inodes_free} of {found.inodes} inodes are free"
            yield failed(path, text, f"remove files: du --inodes -x {path} | sort -n | tail")
        else:
            yield well(path, room)


def _places() -> list[str]:
    database = health.file()
    return [
        cfg.CONF.state_path,
        *([str(database.parent)] if database else []),
        cfg.CONF.compute.instances_path,
        cfg.CONF.objectstore.path,
        cfg.CONF.volume.path,
    ]


@check("mounts")
def mounts(host: Host) -> Iterator[Seen]:
    """What must outlive this machine's next boot is on a disk, and SQLite's file on one that is
    not shared over the network."""
    database = health.file()
    seen = set()
    for path in dict.fromkeys(_places()):
        place, kind = max(
            ((place, kind) for place, kind, _ in _mounts(host) if _is_below(path, place)),
            key=lambda found: len(found[0]),
            default=("/", ""),
        )
        remote = kind.startswith(("nfs", "cifs", "smb", "9p", "ceph", "glusterfs"))
        if kind in ("tmpfs", "ramfs"):
            mend = "keep it on a disk: minicloud-manage config list names the options"
            yield failed(path, f"{place} is {kind}, gone at the next boot", mend)
        elif remote and database and path == str(database.parent):
            mend = "set [database] connection to a server, or to a file on a local disk"
            yield failed(path, f"{place} is {kind}, where SQLite's locks do not hold", mend)
        elif place not in seen:
            yield well(path, f"{kind} at {place}")
        seen.add(place)


def _is_below(path: str, place: str) -> bool:
    return os.path.join(path, "").startswith(os.path.join(place, ""))
