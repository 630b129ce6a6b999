"""Which packets reach a guest and leave it: groups, forged addresses, the way out."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.host import spaces
from tests.host.guests import ECHO, Echo, Guest, opens, stays_closed
from tests.integration.running import wait

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]

ETH_P_ALL = 0x0003
ARP, IPV4 = b"\x08\x06", b"\x08\x00"
FROM_ANYWHERE: dict[str, Any] = {"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


@contextlib.contextmanager
def authorized(ec2: Any, **sources: Any) -> Iterator[None]:
    """The group `doors` lets the echo port in, from these sources."""
    rule = {"IpProtocol": "tcp", "FromPort": ECHO, "ToPort": ECHO, **sources}
    ec2.authorize_security_group_ingress(GroupName="doors", IpPermissions=[rule])
    try:
        yield
    finally:
        ec2.revoke_security_group_ingress(GroupName="doors", IpPermissions=[rule])


def test_a_port_opens_when_it_is_authorized_and_closes_when_that_is_revoked(
    echoing: list[Guest], ec2: Any
):
    guest = echoing[0]
    assert stays_closed(guest.address, ECHO)
    with authorized(ec2, **FROM_ANYWHERE):
        wait(lambda: opens(guest.address, ECHO), 60, "the authorized port opens")
        assert not opens(guest.address, ECHO + 1)
    wait(lambda: not opens(guest.address, ECHO), 60, "the revoked port closes")
    assert stays_closed(guest.address, ECHO)


def test_revoking_cuts_what_was_connected(echoing: list[Guest], ec2: Any):
    address = echoing[0].address
    with authorized(ec2, **FROM_ANYWHERE):
        wait(lambda: opens(address, ECHO), 60, "the authorized port opens")
        echo = Echo(address)
        assert echo.answers(20)
    wait(lambda: not echo.answers(), 60, "the connection is cut")
    assert not echo.answers()
    echo.close()


def test_guests_do_not_reach_each_other_unless_their_group_is_a_source(
    echoing: list[Guest], ec2: Any
):
    left, right = echoing
    ask = f"echo hello | timeout 5 nc {right.address} {ECHO}"
    assert left.ssh(ask).stdout == ""
    [group] = ec2.describe_security_groups(GroupNames=["doors"])["SecurityGroups"]
    with authorized(ec2, UserIdGroupPairs=[{"GroupId": group["GroupId"]}]):
        wait(lambda: left.ssh(ask).stdout == "hello\n", 60, "a member of the group is let in")
        assert stays_closed(right.address, ECHO), "the host is no member of the group"
    wait(lambda: left.ssh(ask).stdout == "", 60, "the member is shut out again")


class Wire:
    """Every frame the host sees, except at the card of one guest, where all of its own are."""

    def __init__(self, guest: Guest) -> None:
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.settimeout(0.2)
        links = json.loads(spaces.sh("ip", "-j", "link", "show"))
        [self.card] = [
            link["ifname"] for link in links if link.get("address") == f"fe{guest.mac[2:]}"
        ]

    def seen(self, address: str) -> set[str]:
        """Which of ARP and IP came through with that source, of what has arrived so far."""
        source = ipaddress.IPv4Address(address).packed
        found = set()
        with contextlib.suppress(TimeoutError):
            while True:
                frame, (card, *_) = self.socket.recvfrom(2048)
                if card == self.card:
                    continue
                if frame[12:14] == ARP and frame[28:32] == source:
                    found.add("arp")
                if frame[12:14] == IPV4 and frame[26:30] == source:
                    found.add("ip")
        return found

    def close(self) -> None:
        self.socket.close()


def test_a_forged_source_address_does_not_leave_the_guest(pair: list[Guest]):
    left, right = pair
    forged = str(ipaddress.IPv4Address(left.address) + 100)
    ping = f"ping -c 3 -W 1 -I %s {right.address}"
    arping = f"arping -c 3 -w 3 -I eth0 -s %s {right.address}"
    left.run(f"ip address add {forged}/32 dev eth0")
    wire = Wire(left)
    try:
        left.run(ping % left.address)  # so the forged ping need not ask who has the address
        left.ssh(arping % left.address)
        assert wire.seen(left.address) == {"arp", "ip"}, "what is true passes"
        assert left.ssh(ping % forged).returncode != 0
        left.ssh(arping % forged)
        assert wire.seen(forged) == set()
    finally:
        wire.close()
        left.run(f"ip address delete {forged}/32 dev eth0")


def test_a_guest_reaches_the_outside_as_the_host(places: tuple[str, str], first: Guest):
    callers = []
    with spaces.inside(places[1]):
        listener = socket.create_server(("198.51.100.2", 8080))

    def answer() -> None:
        connection, peer = listener.accept()
        callers.append(peer[0])
        connection.sendall(b"outside\n")
        connection.close()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    assert first.run("timeout 20 nc 198.51.100.2 8080 < /dev/null") == "outside\n"
    thread.join(20)
    listener.close()
    assert callers == ["198.51.100.1"]
