"""The packet filter with real packets: guests are network namespaces, their taps are veths.

host  ── p ── gateway ── g ── bridge ── tap2 ── a (10.0.0.2)
                                    └── tap3 ── b (10.0.0.3)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from minicloud import ids
from minicloud.compute import driver
from minicloud.compute.driver import FirewallRule
from minicloud.compute.libvirt import firewall
from tests.host import spaces
from tests.host.spaces import sh

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: network namespaces need it"),
]

TAG = "pf" + secrets.token_hex(1)
BRIDGE = f"mc-{TAG}-n7"
SSH = FirewallRule("tcp", 22, 22, "0.0.0.0/0", None)
PING = FirewallRule("icmp", -1, -1, "0.0.0.0/0", None)


class Space:
    """A network namespace with a name of this test run's own."""

    def __init__(self, name: str) -> None:
        self.name = f"{TAG}-{name}"
        sh("ip", "netns", "add", self.name)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        with spaces.inside(self.name):
            return function(*args)

    def ip(self, *words: str) -> None:
        sh("ip", "-n", self.name, *words)

    def remove(self) -> None:
        sh("ip", "netns", "delete", self.name)


class Segment:
    """The network of the drawing, with a filter in the host's namespace."""

    def __init__(self) -> None:
        self.host, self.gateway, self.a, self.b = map(Space, ("host", "gw", "a", "b"))
        self.filter = firewall.Filter(TAG)

    def build(self) -> None:
        self.host.ip("link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
        self.host.ip("link", "set", BRIDGE, "up")
        self.host.ip("link", "set", "lo", "up")
        self._join(self.gateway, "g7", "10.0.0.1/24", "02:16:3e:00:00:01")
        self._join(self.a, "2", "10.0.0.2/24", mac(2))
        self._join(self.b, "3", "10.0.0.3/24", mac(3))
        for guest in (self.a, self.b):
            guest.ip("route", "add", "default", "via", "10.0.0.1")
        self._uplink()
        self.host.run(_write, "/proc/sys/net/bridge/bridge-nf-call-iptables", "1")

    def _join(self, space: Space, number: str, address: str, hardware: str) -> None:
        tap = f"mc-{TAG}-{number}"
        self.host.ip("link", "add", tap, "type", "veth", "peer", "name", "eth0",
                     "netns", space.name)  # fmt: skip
        self.host.ip("link", "set", tap, "master", BRIDGE, "up")
        space.ip("link", "set", "eth0", "address", hardware, "up")
        space.ip("addr", "add", address, "dev", "eth0")

    def _uplink(self) -> None:
        self.host.ip("link", "add", "p", "type", "veth", "peer", "name", "eth1",
                     "netns", self.gateway.name)  # fmt: skip
        self.host.ip("addr", "add", "192.0.2.1/30", "dev", "p")
        self.host.ip("link", "set", "p", "up")
        self.gateway.ip("addr", "add", "192.0.2.2/30", "dev", "eth1")
        self.gateway.ip("link", "set", "eth1", "up")
        self.gateway.ip("route", "add", "default", "via", "192.0.2.1")
        self.gateway.run(_write, "/proc/sys/net/ipv4/ip_forward", "1")
        self.host.ip("route", "add", "10.0.0.0/24", "via", "192.0.2.2")

    def apply(self, wanted: driver.Firewall, complete: bool = False) -> None:
        self.host.run(lambda: self.filter.apply(wanted, complete=complete))

    def remove(self) -> None:
        for space in (self.a, self.b, self.gateway, self.host):
            space.remove()


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def mac(number: int) -> str:
    return f"02:16:3e:00:00:{number:02x}"


def port(number: int, *groups: str) -> driver.FirewallPort:
    card = driver.Port(
        tap=f"mc-{TAG}-{number}",
        mac=mac(number),
        address=f"10.0.0.{number}",
        bridge=BRIDGE,
        mtu=1500,
        gateway="10.0.0.1",
    )
    return driver.FirewallPort(card, groups)


@pytest.fixture
def segment() -> Iterator[Segment]:
    made = Segment()
    try:
        made.build()
        yield made
    finally:
        made.remove()


@contextlib.contextmanager
def listening(space: Space, at: int) -> Iterator[socket.socket]:
    with space.run(socket.create_server, ("0.0.0.0", at)) as server:
        server.settimeout(10)
        yield server


def connect(space: Space, address: str, at: int) -> socket.socket | None:
    try:
        made: socket.socket = space.run(socket.create_connection, (address, at), 1.5)
    except TimeoutError:
        return None
    return made


def reaches(space: Space, address: str, at: int) -> bool:
    made = connect(space, address, at)
    if made is not None:
        made.close()
    return made is not None


def pings(space: Space, address: str, *options: str) -> bool:
    argv = ["ip", "netns", "exec", space.name, "ping", "-c1", "-W1", *options, address]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def passes(sender: socket.socket, receiver: socket.socket, text: bytes) -> bool:
    """Whether `text` arrives over an open connection within a second and a half."""
    sender.sendall(text)
    receiver.settimeout(1.5)
    try:
        return receiver.recv(100) == text
    except TimeoutError:
        return False


def test_only_allowed_ports_are_open_from_guest_host_and_gateway(segment: Segment) -> None:
    group = ids.new()
    segment.apply(driver.Firewall([port(2), port(3, group)], {group: [SSH]}, {}), complete=True)
    with listening(segment.b, 22), listening(segment.b, 23):
        for source in (segment.a, segment.host, segment.gateway):
            assert reaches(source, "10.0.0.3", 22)
            assert not reaches(source, "10.0.0.3", 23)
            assert not pings(source, "10.0.0.3")


def test_without_a_group_nothing_comes_in_and_answers_still_do(segment: Segment) -> None:
    segment.apply(driver.Firewall([port(2), port(3)], {}, {}), complete=True)
    with listening(segment.gateway, 80), listening(segment.host, 8080), listening(segment.b, 22):
        assert not reaches(segment.a, "10.0.0.3", 22)
        assert reaches(segment.a, "10.0.0.1", 80)
        assert reaches(segment.a, "192.0.2.1", 8080)
        assert pings(segment.a, "10.0.0.1")


def test_a_revoked_rule_cuts_the_open_connection_and_others_live_on(segment: Segment) -> None:
    group = ids.new()
    both = [SSH, FirewallRule("tcp", 80, 90, "10.0.0.0/24", None)]
    ports = [port(2), port(3, group)]
    segment.apply(driver.Firewall(ports, {group: both}, {}), complete=True)
    with listening(segment.b, 22) as ssh, listening(segment.b, 85) as web:
        first, second = connect(segment.a, "10.0.0.3", 22), connect(segment.a, "10.0.0.3", 85)
        assert first is not None
        assert second is not None
        with first, second, ssh.accept()[0] as far_first, web.accept()[0] as far_second:
            assert passes(first, far_first, b"one")
            segment.apply(driver.Firewall(ports, {group: [SSH]}, {}))
            assert passes(first, far_first, b"two")
            assert not passes(second, far_second, b"three")
            far_second.sendall(b"the guest goes on sending")
            time.sleep(0.5)  # long enough for what must not happen: tracked as the guest's own
            assert not passes(second, far_second, b"four")


def test_a_group_as_source_follows_its_members(segment: Segment) -> None:
    group, source = ids.new(), ids.new()
    rules = {group: [FirewallRule("tcp", 22, 22, None, source)], source: []}
    ports = [port(2, source), port(3, group)]
    segment.apply(driver.Firewall(ports, rules, {source: ["10.0.0.2"]}), complete=True)
    with listening(segment.b, 22) as server:
        open_one = connect(segment.a, "10.0.0.3", 22)
        assert open_one is not None
        with open_one, server.accept()[0] as far:
            assert passes(open_one, far, b"member")
            assert not reaches(segment.host, "10.0.0.3", 22)
            segment.apply(driver.Firewall(ports, rules, {source: []}))
            assert not passes(open_one, far, b"no member")
            assert not reaches(segment.a, "10.0.0.3", 22)


def test_forged_addresses_are_dropped_at_the_port(segment: Segment) -> None:
    group = ids.new()
    everything = FirewallRule("-1", None, None, "0.0.0.0/0", None)
    ports = [port(2, group), port(3, group)]
    segment.apply(driver.Firewall(ports, {group: [everything]}, {}), complete=True)
    assert pings(segment.a, "10.0.0.3")
    segment.a.ip("addr", "add", "10.0.0.9/24", "dev", "eth0")
    assert not pings(segment.a, "10.0.0.3", "-I", "10.0.0.9")
    segment.a.ip("link", "set", "eth0", "address", mac(9))
    assert not pings(segment.a, "10.0.0.3", "-I", "10.0.0.2")
    segment.a.ip("link", "set", "eth0", "address", mac(2))
    assert pings(segment.a, "10.0.0.3", "-I", "10.0.0.2")


def _datagram_arrives(sender: Space, source: int, receiver: Space, to: str, at: int) -> bool:
    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("0.0.0.0", at))
        made.settimeout(1)
        return made

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
            made.bind(("0.0.0.0", source))
            made.sendto(b"x", (to, at))

    with receiver.run(listen) as heard:
        sender.run(send)
        try:
            heard.recv(10)
        except TimeoutError:
            return False
        return True


def test_only_the_gateway_can_be_a_dhcp_server(segment: Segment) -> None:
    group = ids.new()
    everything = FirewallRule("-1", None, None, "0.0.0.0/0", None)
    ports = [port(2, group), port(3, group)]
    segment.apply(driver.Firewall(ports, {group: [everything]}, {}), complete=True)
    assert _datagram_arrives(segment.gateway, 67, segment.b, "10.0.0.3", 68)
    assert _datagram_arrives(segment.gateway, 67, segment.b, "255.255.255.255", 68)
    assert _datagram_arrives(segment.a, 68, segment.gateway, "255.255.255.255", 67)
    assert not _datagram_arrives(segment.a, 67, segment.b, "10.0.0.3", 68)
    assert _datagram_arrives(segment.a, 1000, segment.b, "10.0.0.3", 1000)


def test_a_broadcast_does_not_pass_a_closed_group(segment: Segment) -> None:
    segment.apply(driver.Firewall([port(2), port(3)], {}, {}), complete=True)
    assert not _datagram_arrives(segment.a, 1000, segment.b, "10.0.0.255", 1000)
    assert not _datagram_arrives(segment.a, 1000, segment.b, "255.255.255.255", 1000)
    assert not _datagram_arrives(segment.gateway, 1000, segment.b, "10.0.0.255", 1000)


def test_guests_speak_no_ipv6(segment: Segment) -> None:
    group = ids.new()
    everything = FirewallRule("-1", None, None, "0.0.0.0/0", None)
    for guest, address in ((segment.a, "fd00::2/64"), (segment.b, "fd00::3/64")):
        guest.ip("addr", "add", address, "dev", "eth0", "nodad")
    assert pings(segment.a, "fd00::3")  # so that the next one means something
    ports = [port(2, group), port(3, group)]
    segment.apply(driver.Firewall(ports, {group: [everything]}, {}), complete=True)
    assert not pings(segment.a, "fd00::3")


def test_an_address_that_goes_takes_its_connections_along(segment: Segment) -> None:
    group = ids.new()
    everyone = driver.Firewall([port(2, group), port(3, group)], {group: [SSH, PING]}, {})
    segment.apply(everyone, complete=True)
    with listening(segment.b, 22) as server:
        open_one = connect(segment.a, "10.0.0.3", 22)
        assert open_one is not None
        with open_one, server.accept()[0]:
            assert _tracked(segment, "10.0.0.3")
            segment.apply(driver.Firewall([port(2, group)], {group: [SSH, PING]}, {}))
            assert not _tracked(segment, "10.0.0.3")
            assert not reaches(segment.a, "10.0.0.3", 22)


def _tracked(segment: Segment, address: str) -> bool:
    zone = str(firewall.zone_of(TAG, BRIDGE))
    argv = ["ip", "netns", "exec", segment.host.name, "conntrack", "-L", "--zone", zone]
    found = subprocess.run(argv, capture_output=True, text=True, check=True)
    return address in found.stdout


def test_tables_that_somebody_emptied_are_made_whole_by_the_next_change(segment: Segment) -> None:
    group = ids.new()
    segment.apply(driver.Firewall([port(2), port(3)], {}, {}), complete=True)
    sh("ip", "netns", "exec", segment.host.name, "nft", "flush", "ruleset")
    segment.apply(driver.Firewall([port(2), port(3, group)], {group: [SSH]}, {}))
    with listening(segment.b, 22), listening(segment.b, 23):
        assert reaches(segment.a, "10.0.0.3", 22)
        assert not reaches(segment.a, "10.0.0.3", 23)


def test_nothing_is_sent_to_nft_when_nothing_changed(segment: Segment) -> None:
    group = ids.new()
    ports = [port(2, group)]
    before = firewall.render(driver.Firewall(ports, {group: [SSH]}, {}), TAG)
    after = firewall.render(driver.Firewall(ports, {group: [SSH, SSH]}, {}), TAG)
    assert list(firewall.difference("x", before, after)) == []


def _tagged_arrives(segment: Segment, kind: int) -> bool:
    """Whether a datagram in a frame tagged 0 gets from guest a into a socket of guest b."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(_tagged_frame(kind))

    with segment.b.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.bind(("0.0.0.0", 1000))
        heard.settimeout(1)
        segment.a.run(send)
        try:
            return heard.recv(10) == b"tagged"
        except TimeoutError:
            return False


def _tagged_frame(kind: int) -> bytes:
    addresses = [bytes.fromhex(mac(number).replace(":", "")) for number in (3, 2)]
    udp = struct.pack("!HHHH", 1000, 1000, 8 + 6, 0) + b"tagged"
    source, target = socket.inet_aton("10.0.0.2"), socket.inet_aton("10.0.0.3")
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, source, target)
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:]
    return b"".join(addresses) + struct.pack("!HHH", kind, 0, 0x0800) + head + udp


def test_a_vlan_tag_is_no_way_around_a_closed_group(segment: Segment) -> None:
    """The kernel takes a frame tagged 0 for an untagged one, but groups do not judge it."""
    kinds = (0x8100, 0x88A8)  # IEEE 802.1Q and 802.1ad
    for kind in kinds:
        assert _tagged_arrives(segment, kind)  # so that the next ones mean something
    segment.apply(driver.Firewall([port(2), port(3)], {}, {}), complete=True)
    for kind in kinds:
        assert not _tagged_arrives(segment, kind)
