"""The network daemon's wires with real packets: guests are namespaces plugged into bridges.

guest ── bridge ── network's namespace ── host (198.51.100.1) ── outside (198.51.100.2)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import pytest

from minicloud.api import metadata
from minicloud.network import dnsmasq, linux, metadata_sockets
from minicloud.network.driver import Booking, Net
from minicloud.wiring import Bridge
from tests.host import spaces
from tests.host.spaces import sh

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: network namespaces need it"),
]

TAG = "wi" + secrets.token_hex(1)
OUTSIDE = "198.51.100.2"
ASK = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr flush dev $interface
ip addr add $ip/$mask dev $interface
ip link set $interface mtu $mtu
ip route replace default via $router
echo "$ip $mask $router $mtu $dns $domain $hostname" > "$ANSWER"
"""
SERVE_ONCE = f"""
import json, sys
from oslo_config import cfg
from minicloud.network import linux
from minicloud.network.driver import Booking, Net
from minicloud.wiring import Bridge
state, net, bookings = sys.argv[1:]
cfg.CONF([], default_config_files=[])
cfg.CONF.set_override("tag", "{TAG}")
cfg.CONF.set_override("state_path", state)
wires = linux.Linux("{TAG}", state, "uplink", "/bin/true")
wires.connect()
facts = json.loads(net)
lists = {{"dns": (), "links": tuple(Bridge(**b) for b in facts["links"])}}
wires.serve(Net(**{{**facts, **lists}}), [Booking(*b) for b in json.loads(bookings)], [])
"""


def network(number: int = 1, cidr: str = "10.55.0.0/24") -> Net:
    gateway = cidr.rsplit(".", 1)[0] + ".1"
    bridge = Bridge(f"mc-{TAG}-n{number}", 1400)
    return Net(f"id-{number}", number, "n", "flatdhcp", cidr, gateway, 1400, (), (bridge,))


def booking(last: int, mac: int | None = None) -> Booking:
    host = f"10.55.0.{last}"
    return Booking(f"02:00:00:00:00:{mac or last:02x}", host, f"ip-10-55-0-{last}")


class Host:
    """A host that serves networks, and what lies outside of it."""

    def __init__(self, names: tuple[str, str], state: pathlib.Path) -> None:
        self.name, self.outside = names
        self.state = state
        self.wires = linux.Linux(TAG, str(state), "uplink", "/bin/true")

    def ours(self) -> list[str]:
        """Everything on the host that has our tag in its name."""
        links = [link["ifname"] for link in json.loads(sh("ip", "-j", "link", "show"))]
        spaces_ = os.listdir("/run/netns")
        directories = os.listdir(self.state / "networks")
        return [name for name in (*links, *spaces_, *directories) if f"mc-{TAG}-" in name]


@pytest.fixture
def host(options: Callable[..., None]) -> Iterator[Host]:
    """The test's thread is on the host; nothing is left of what it served."""
    state = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))  # short: sockets lie below
    options("DEFAULT", tag=TAG, state_path=str(state))
    with spaces.uplinked() as names, spaces.inside(names[0]):
        pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        made = Host(names, state)
        made.wires.connect()
        try:
            yield made
        finally:
            for number in made.wires.inventory():
                made.wires.remove(number)
    shutil.rmtree(state)


class Guest:
    """A namespace with a card in a bridge."""

    def __init__(self, host: Host, number: int, mac: str) -> None:
        word = secrets.token_hex(2)
        self.name, self.tap = f"guest-{word}", f"tap-{word}"
        self.answer = host.state / self.name
        self.script = host.state / "udhcpc"
        self.script.write_text(ASK)
        self.script.chmod(0o755)
        sh("ip", "netns", "add", self.name)
        peer = ("peer", "name", "eth0", "netns", self.name)
        sh("ip", "link", "add", self.tap, "type", "veth", *peer)
        sh("ip", "link", "set", self.tap, "master", f"mc-{TAG}-n{number}", "up")
        sh("ip", "-n", self.name, "link", "set", "eth0", "address", mac, "up")

    def run(self, *argv: str) -> tuple[int, str]:
        """How the command inside the guest ended, and what it said."""
        enter = ["ip", "netns", "exec", self.name, "timeout", "20", *argv]
        environment = {**os.environ, "ANSWER": str(self.answer)}
        done = subprocess.run(
            enter, env=environment, capture_output=True, text=True, timeout=30, check=False
        )
        return done.returncode, done.stdout + done.stderr

    def lease(self, tries: int = 8) -> list[str]:
        """Address, prefix, router, MTU, DNS, domain and name it was given; empty: none."""
        self.answer.unlink(missing_ok=True)
        often = ("-t", str(tries), "-T", "1", "-n", "-q")
        self.run("busybox", "udhcpc", "-i", "eth0", *often, "-O", "mtu", "-s", str(self.script))
        return self.answer.read_text().split() if self.answer.exists() else []

    def reaches(self, address: str, tries: int = 5) -> bool:
        return self.run("ping", "-c1", f"-w{tries}", address)[0] == 0

    def remove(self) -> None:
        subprocess.run(["ip", "link", "delete", self.tap], capture_output=True, check=False)
        sh("ip", "netns", "delete", self.name)


@contextlib.contextmanager
def plugged(host: Host, number: int, mac: str) -> Iterator[Guest]:
    guest = Guest(host, number, mac)
    try:
        yield guest
    finally:
        guest.remove()


def test_a_guest_is_given_what_was_booked_and_finds_its_way(host: Host) -> None:
    first, second = booking(5), booking(6)
    host.wires.serve(network(), [first, second], [])
    with plugged(host, 1, first.mac) as a, plugged(host, 1, second.mac) as b:
        server = "10.55.0.1"
        wanted = ["10.55.0.5", "24", server, "1400", server, "novalocal", "ip-10-55-0-5"]
        assert a.lease() == wanted
        assert b.lease()[0] == "10.55.0.6"
        assert "10.55.0.6" in a.run("busybox", "nslookup", "ip-10-55-0-6.novalocal", server)[1]
        assert a.reaches("10.55.0.6")
        assert a.reaches(OUTSIDE)  # which knows no way back to 10.55.0.0/24
        sh("ping", "-c1", "-w5", "10.55.0.5")  # from the host


def test_guests_reach_nothing_on_the_host_and_nobody_outside_reaches_them(host: Host) -> None:
    host.wires.serve(network(), [booking(5)], [])
    link = json.loads(sh("ip", "-j", "-4", "addr", "show", "dev", f"mc-{TAG}-p1"))
    own = link[0]["addr_info"][0]["local"]
    with plugged(host, 1, booking(5).mac) as guest:
        assert guest.lease()
        assert not guest.reaches("198.51.100.1", 1)
        assert not guest.reaches(own, 1)
        sh("ip", "-n", host.outside, "route", "add", "10.55.0.0/24", "via", "198.51.100.1")
        enter = ["ip", "netns", "exec", host.outside, "ping", "-c1", "-w1", "10.55.0.5"]
        assert subprocess.run(enter, capture_output=True, check=False).returncode != 0


def test_a_stranger_is_given_nothing(host: Host) -> None:
    host.wires.serve(network(), [booking(5)], [])
    with plugged(host, 1, booking(9).mac) as stranger:
        assert stranger.lease(2) == []


def test_an_address_that_left_is_not_given_again_until_it_is_booked_anew(host: Host) -> None:
    old, other, new = booking(5), booking(6), booking(5, mac=0x77)
    host.wires.serve(network(), [old, other], [])
    with plugged(host, 1, old.mac) as before, plugged(host, 1, new.mac) as after:
        assert before.lease()
        host.wires.serve(network(), [other], [old])
        assert before.lease(2) == []
        assert after.lease(2) == []
        host.wires.serve(network(), [other, new], [])
        assert after.lease()[0] == "10.55.0.5"


def test_networks_with_the_same_range_do_not_meet(host: Host) -> None:
    for number in (1, 2):
        host.wires.serve(network(number), [booking(5)], [])
    with plugged(host, 1, booking(5).mac) as one, plugged(host, 2, booking(5).mac) as two:
        for guest in (one, two):
            assert guest.lease()[0] == "10.55.0.5"
            assert guest.reaches(OUTSIDE)


def test_the_metadata_socket_says_which_network_and_which_guest(host: Host) -> None:
    for number in (1, 2):
        host.wires.serve(network(number), [booking(5)], [])
    feed = metadata._connect(str(host.state / "run" / "metadata-sockets"))
    with feed, plugged(host, 2, booking(5).mac) as guest:
        messages = metadata._messages(feed)
        assert next(messages)[0] == {"numbers": [1, 2]}
        handed = {m["network"]: fds[0] for m, fds in (next(messages), next(messages))}
        with socket.socket(fileno=handed["id-2"]) as listener:
            assert guest.lease()
            asked = ("busybox", "nc", "-w", "5", metadata_sockets.ADDRESS, "80")
            caller = subprocess.Popen(
                ["ip", "netns", "exec", guest.name, *asked],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            listener.settimeout(20)
            connection, (peer, _) = listener.accept()
            connection.close()
            caller.wait(20)
        os.close(handed["id-1"])
        assert peer == "10.55.0.5"
        host.wires.serve(network(2), [booking(5)], [])  # once: nothing new to tell
        host.wires.serve(network(3, "10.56.0.0/24"), [], [])
        assert next(messages)[0] == {"number": 3, "network": "id-3"}


def test_nothing_is_left_of_a_network_that_is_removed(host: Host) -> None:
    host.wires.serve(network(), [booking(5)], [])
    assert set(host.wires.inventory()) == {1}
    pid = (host.state / "networks" / f"mc-{TAG}-net1" / "dnsmasq.pid").read_text().strip()
    for _ in range(2):
        host.wires.remove(1)
        assert set(host.wires.inventory()) == set()
        assert host.ours() == []
        state = pathlib.Path(f"/proc/{pid}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"


STEPS = ["bridge", "namespace", "gateway", "dhcp", "metadata"]


@pytest.mark.parametrize("step", STEPS)
def test_a_daemon_killed_after_any_step_is_made_good_by_the_next(host: Host, step: str) -> None:
    facts = json.dumps(dataclasses.asdict(network()))
    booked = json.dumps([list(vars(booking(5)).values())])
    environment = {**os.environ, "MINICLOUD_CHECKPOINT": f"serve.{step}:kill"}
    serve = [sys.executable, "-c", SERVE_ONCE, str(host.state), facts, booked]
    done = subprocess.run(serve, env=environment, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    host.wires.serve(network(), [booking(5)], [])
    with plugged(host, 1, booking(5).mac) as guest:
        assert guest.lease()
        assert guest.reaches(OUTSIDE)


@pytest.mark.parametrize("device", ["g1", "p1", "net1"])
def test_what_somebody_took_away_is_put_back(host: Host, device: str) -> None:
    host.wires.serve(network(), [booking(5)], [])
    kind = "netns" if device == "net1" else "link"
    sh("ip", kind, "delete", f"mc-{TAG}-{device}")
    host.wires.serve(network(), [booking(5)], [])
    with plugged(host, 1, booking(5).mac) as guest:
        assert guest.lease()
        assert guest.reaches(OUTSIDE)


def test_a_dnsmasq_that_died_is_started_again(host: Host) -> None:
    host.wires.serve(network(), [booking(5)], [])
    pid = (host.state / "networks" / f"mc-{TAG}-net1" / "dnsmasq.pid").read_text()
    handle = os.pidfd_open(int(pid))
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    assert select.select([handle], [], [], 20)[0]  # readable: it has ended
    os.close(handle)
    host.wires.serve(network(), [booking(5)], [])
    with plugged(host, 1, booking(5).mac) as guest:
        assert guest.lease()


RUBBISH = b"\xff\xfe\x00\n1 2 3 4 5\nduid\n9999999999 02:00:00:00:00:05 300.55.0.5 x *\n"


def test_rubbish_among_its_leases_and_bookings_keeps_no_guest_from_its_own(host: Host) -> None:
    first, second = booking(5), booking(6)
    host.wires.serve(network(), [first, second], [])
    directory = host.state / "networks" / f"mc-{TAG}-net1"
    with plugged(host, 1, first.mac) as guest, plugged(host, 1, second.mac) as other:
        assert guest.lease()
        before = (directory / "leases").read_bytes()
        (directory / "leases").write_bytes(RUBBISH + before + RUBBISH)
        (directory / "hosts" / "10.55.0.6").write_bytes(RUBBISH)
        host.wires.serve(network(), [first, second], [])  # dnsmasq goes on, and reads no leases
        assert other.lease()[0] == "10.55.0.6"

        (directory / "leases").write_bytes(RUBBISH + before + RUBBISH)
        (directory / "dnsmasq.pid").write_bytes(RUBBISH)  # not found: another one is started
        host.wires.serve(network(), [first, second], [])
        assert guest.lease()[0] == "10.55.0.5"
        assert other.lease()[0] == "10.55.0.6"
    assert dnsmasq.alive(directory)
