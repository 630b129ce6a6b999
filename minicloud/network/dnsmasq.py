"""DHCP and DNS of a network: one dnsmasq in its namespace, which outlives this daemon.

A booking is a file in `hosts/`, named by its address.  dnsmasq (2.90) reads a new file at once; it
forgets a removed one only at SIGHUP, which runs the hook for every lease.  So what left is first
overwritten by `MAC,ignore`, which counts at once, and files are removed when there are many.  A
changed file counts at SIGHUP only, because dnsmasq takes its address for doubled.
A dnsmasq whose arguments or namespace are not the wanted ones is replaced.
"""

from __future__ import annotations

import _socket
import contextlib
import dataclasses
import logging
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import struct
import time
from collections.abc import Iterable, Sequence

from netaddr import IPAddress, IPNetwork

from minicloud import addresses, concurrency, errors, shell
from minicloud.network import dhcp_hook, namespaces
from minicloud.network.driver import Booking, Net
from minicloud.wiring import DOMAIN

LOG = logging.getLogger(__name__)

LEASE = "1h"
HOSTS, LEASES = "hosts", "leases"  # in a network's directory
LOG_BYTES = 1 << 20
STALE_FILES = 32  # ignored bookings above the live ones before they are cleared away
WAIT_S = 5.0
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
RIGHTS = "-all,+net_admin,+net_raw,+net_bind_service"  # of our own, what it needs (its man page)


@dataclasses.dataclass(frozen=True)
class Server:
    """Where a network's dnsmasq lives: `directory` is its own, `events` the hook's socket."""

    net: Net
    tag: str
    namespace: str
    directory: pathlib.Path
    hook: str
    events: str

    @property
    def hosts(self) -> pathlib.Path:
        return self.directory / HOSTS

    @property
    def leases(self) -> pathlib.Path:
        return self.directory / LEASES


def command(server: Server) -> list[str]:
    """dnsmasq's whole configuration: what runs is right when its command line equals this."""
    net, directory = server.net, server.directory
    range_ = IPNetwork(net.cidr)
    user = pwd.getpwuid(os.geteuid()).pw_name
    return [
        "dnsmasq",
        "--conf-file=/dev/null",
        _pid_argument(directory),
        f"--user={user}",
        f"--log-facility={directory / 'dnsmasq.log'}",
        "--quiet-dhcp",
        "--interface=eth0",
        "--except-interface=lo",
        "--no-hosts",
        "--no-resolv",
        "--no-ping",
        "--bogus-priv",
        "--domain-needed",
        f"--domain={DOMAIN}",
        f"--local=/{DOMAIN}/",
        f"--dhcp-range={range_.network},static,{range_.netmask},{LEASE}",
        f"--dhcp-option-force=26,{net.mtu}",  # forced: udhcpc does not ask for it
        f"--dhcp-option=3,{net.gateway}",
        f"--dhcp-option=6,{net.gateway}",
        f"--dhcp-lease-max={range_.size}",
        f"--dhcp-hostsdir={server.hosts}",
        f"--dhcp-leasefile={server.leases}",
        f"--dhcp-script={server.hook}",
        "--dhcp-authoritative",
        "--dhcp-ignore-names",  # a guest's own name would be published to its neighbours
        "--dhcp-ignore-clid",
        *(f"--server={address}" for address in net.dns),
    ]


def serve(server: Server, bookings: Sequence[Booking], *, certain: bool) -> None:
    """dnsmasq runs in the namespace and gives exactly `bookings`; nothing else has a lease.

    Without `certain` what is on disk is taken for what dnsmasq has read.  Repeating is harmless.
    """
    wanted = dict(_entries(server.net, bookings))
    pid = running(server)
    if pid is None:
        _start(server, wanted)
        return
    if _publish(server.hosts, wanted) or certain:
        _signal(pid, signal.SIGHUP, server.directory)
    if not _release(server, wanted):
        LOG.warning("%s: dnsmasq keeps a lease it should not: restarted", server.namespace)
        _start(server, wanted)
    with contextlib.suppress(FileNotFoundError):
        log = server.directory / "dnsmasq.log"
        if log.stat().st_size > LOG_BYTES:
            os.truncate(log, 0)  # it appends


def stop(directory: pathlib.Path) -> None:
    """No dnsmasq of that directory runs; TryLater when one does not end."""
    until = time.monotonic() + WAIT_S
    patience = until - WAIT_S / 2
    while found := _processes(directory):
        late = time.monotonic() > patience
        for pid in found:
            _signal(pid, signal.SIGKILL if late else signal.SIGTERM, directory)
        if time.monotonic() > until:
            raise errors.TryLater(reason=f"dnsmasq {found[0]} does not end")
        concurrency.sleep(0.02)


def remove(directory: pathlib.Path) -> None:
    """No dnsmasq of that directory runs, and the directory is gone."""
    stop(directory)
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(directory)


def running(server: Server) -> int | None:
    """The pid of the network's dnsmasq if it is as `command` says and in its namespace."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int((server.directory / "dnsmasq.pid").read_text())
        home = os.stat(f"/proc/{pid}/ns/net").st_ino
        if _arguments(pid) == command(server) and home == namespaces.identity(server.namespace):
            return pid
    return None


def listen(path: pathlib.Path) -> None:
    """Log what dnsmasq's hook says, for ever; the socket at `path` is replaced."""
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(path))
        path.chmod(0o660)
        while True:
            words = heard.recv(1024).decode(errors="replace").split("\0")
            # "old" comes for every lease at each SIGHUP
            level = logging.DEBUG if words[0] == "old" else logging.INFO
            LOG.log(level, "lease %s", " ".join(ascii(word)[1:-1] for word in words))


def alive(directory: pathlib.Path) -> bool:
    """Whether a dnsmasq of that directory runs."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        return _is_of(int((directory / "dnsmasq.pid").read_text()), directory)
    return False


def entries(directory: pathlib.Path) -> frozenset[tuple[str, str]]:
    """(address, mac) of every booking on disk that is not ignored."""
    with contextlib.suppress(FileNotFoundError):
        texts = _texts(directory / HOSTS)
        return frozenset(
            (name, text.split(",")[0]) for name, text in texts.items() if not _is_ignored(text)
        )
    return frozenset()


def leases(directory: pathlib.Path) -> frozenset[tuple[str, str]]:
    """(address, mac) of every lease on disk."""
    return frozenset((address, mac) for _, mac, address, *_ in _leases(directory / LEASES))


def _start(server: Server, wanted: dict[str, str]) -> None:
    stop(server.directory)
    server.hosts.mkdir(parents=True, exist_ok=True)
    for file in server.hosts.iterdir():
        if wanted.get(file.name) != file.read_text(errors="replace"):
            file.unlink()
    _publish(server.hosts, wanted)
    if server.leases.exists():
        kept = [" ".join(lease) for lease in _leases(server.leases) if _is_wanted(lease, wanted)]
        _write(server.leases, "".join(f"{line}\n" for line in kept))
    enter = ["nsenter", f"--net={namespaces.path(server.namespace)}"]
    # it listens to guests: of this daemon's rights it gets the few it needs
    limits = ["setpriv", f"--inh-caps={RIGHTS}", f"--ambient-caps={RIGHTS}", "--no-new-privs"]
    root = os.geteuid() == 0
    shell.start_detached(
        [*enter, *([] if root else limits), *command(server)],
        environment={"MINICLOUD_TAG": server.tag, dhcp_hook.SOCKET: server.events},
    )
    LOG.info("%s: dnsmasq started", server.namespace)


def _entries(net: Net, bookings: Iterable[Booking]) -> Iterable[tuple[str, str]]:
    """File name and text of each booking; one that is malformed is left out and said."""
    range_ = IPNetwork(net.cidr)
    for booking in bookings:
        try:
            inside = addresses.address(booking.address) in range_
        except ValueError:
            inside = False
        if not (inside and MAC.fullmatch(booking.mac) and HOSTNAME.fullmatch(booking.hostname)):
            LOG.error("%s: booking %s is malformed: not served", net.name, ascii(booking))
            continue
        yield booking.address, f"{booking.mac},{booking.address},{booking.hostname}\n"


def _publish(directory: pathlib.Path, wanted: dict[str, str]) -> bool:
    """The files say `wanted`; True when dnsmasq needs a SIGHUP to believe them."""
    present = _texts(directory)
    for name, text in present.items():
        if name not in wanted and not _is_ignored(text):
            present[name] = f"{text.split(',')[0]},ignore\n"
            _write(directory / name, present[name])
    ignored = [name for name in present if name not in wanted]
    changed = any(present.get(name, text) != text for name, text in wanted.items())
    crowded = len(ignored) > len(wanted) + STALE_FILES
    if changed or crowded:
        for name in ignored:
            (directory / name).unlink()
    for name, text in wanted.items():
        if present.get(name) != text:
            _write(directory / name, text)
    return changed or crowded


def _texts(directory: pathlib.Path) -> dict[str, str]:
    """Every booking on disk as dnsmasq reads it."""
    found = {}
    for file in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if not file.name.startswith("."):
                found[file.name] = file.read_text(errors="replace")
    return found


def _is_ignored(text: str) -> bool:
    return text.rstrip().endswith(",ignore")


def _write(file: pathlib.Path, text: str) -> None:
    part = file.with_name(f".{file.name}.part")  # dnsmasq does not read names with a dot in front
    part.write_text(text)
    part.replace(file)


def _leases(file: pathlib.Path) -> list[list[str]]:
    """Lines of the lease file, as words: expiry, MAC, address, name, client id.  What is no lease
    is left out: dnsmasq does not read it either, and writes the file anew with the next one."""
    with contextlib.suppress(FileNotFoundError):
        lines = (line.split() for line in file.read_text(errors="replace").splitlines())
        return [words for words in lines if _is_lease(words)]
    return []


def _is_lease(words: Sequence[str]) -> bool:
    if len(words) != 5 or not MAC.fullmatch(words[1]):
        return False
    try:
        addresses.address(words[2])
    except ValueError:
        return False
    return True


def _is_wanted(lease: Sequence[str], wanted: dict[str, str]) -> bool:
    return wanted.get(lease[2], "").startswith(f"{lease[1]},")


def _release(server: Server, wanted: dict[str, str]) -> bool:
    """No lease is left but those of `wanted`; False when dnsmasq did not follow in time."""
    until = time.monotonic() + WAIT_S
    while stale := [lease for lease in _leases(server.leases) if not _is_wanted(lease, wanted)]:
        if time.monotonic() > until:
            return False
        packets = [release_packet(mac, ip, server.net.gateway) for _, mac, ip, *_ in stale]
        namespaces.inside(server.namespace, _send, packets, server.net.gateway)
        concurrency.sleep(0.05)
    return True


def release_packet(mac: str, address: str, gateway: str) -> bytes:
    """A DHCPRELEASE as the guest itself would send it (RFC 2131, 4.4.6)."""
    hardware = bytes.fromhex(mac.replace(":", ""))
    given = IPAddress(address).packed
    bootp = struct.pack("!BBBBIHH4s12x16s192x", 1, 1, 6, 0, 1, 0, 0, given, hardware)
    cookie, kind = b"\x63\x82\x53\x63", b"\x35\x01\x07"
    return bootp + cookie + kind + b"\x36\x04" + IPAddress(gateway).packed + b"\xff"


def _send(packets: Sequence[bytes], gateway: str) -> None:
    out = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        # dnsmasq looks where a packet came from: bound, one of our own counts as eth0's
        out.setsockopt(_socket.SOL_SOCKET, _socket.SO_BINDTODEVICE, b"eth0")
        for packet in packets:
            out.sendto(packet, (gateway, 67))
    finally:
        out.close()


def _pid_argument(directory: pathlib.Path) -> str:
    return f"--pid-file={directory / 'dnsmasq.pid'}"


def _arguments(pid: int) -> list[str]:
    raw = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    return os.fsdecode(raw).split("\0")[:-1]


def _processes(directory: pathlib.Path) -> list[int]:
    """Every dnsmasq of that directory, its script runner too; one that has ended is not among."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                if _is_of(int(entry), directory):
                    found.append(int(entry))
    return found


def _is_of(pid: int, directory: pathlib.Path) -> bool:
    arguments = _arguments(pid)
    return arguments[:1] == ["dnsmasq"] and _pid_argument(directory) in arguments


def _signal(pid: int, number: signal.Signals, directory: pathlib.Path) -> None:
    """Signal that dnsmasq and never another process that got its number meanwhile."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        handle = os.pidfd_open(pid)
        try:
            if _is_of(pid, directory):
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)
