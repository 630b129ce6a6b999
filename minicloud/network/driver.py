"""What the network daemon needs of a host: serve networks.  Repeating any method is harmless."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from minicloud.wiring import Bridge


@dataclasses.dataclass(frozen=True)
class Net:
    """A network as it shall be served; `links` are the bridges a host must have for it, that of
    its guests first."""

    id: str
    number: int
    name: str
    kind: str
    cidr: str
    gateway: str
    mtu: int
    dns: tuple[str, ...]
    links: tuple[Bridge, ...]

    @property
    def bridge(self) -> str:
        """What guests' ports are plugged into, and the gateway's."""
        return self.links[0].name


@dataclasses.dataclass(frozen=True)
class Booking:
    """An address somebody has: dnsmasq gives it to `mac` under `hostname`."""

    mac: str
    address: str
    hostname: str


@dataclasses.dataclass(frozen=True)
class Present:
    """What of a network is on the host.

    lacks: what it needs and does not have there, in words; entries: the (address, mac) that DHCP
    is told to serve; leases: those it has given.
    """

    lacks: tuple[str, ...] = ()
    entries: frozenset[tuple[str, str]] = frozenset()
    leases: frozenset[tuple[str, str]] = frozenset()


class Wires(Protocol):
    def connect(self) -> None:
        """What this driver needs on the host (forwarding, its nft table) is there."""
        ...

    def ping(self) -> None: ...

    def serve(self, net: Net, bookings: Sequence[Booking], leaving: Sequence[Booking]) -> None:
        """Gateway, DHCP, DNS, metadata, NAT and the host's route of the network are there.

        Exactly `bookings` are answered; of `leaving` nothing answers any more (no lease, no host
        entry, no connection tracked), so that the addresses may be given on.
        """
        ...

    def withdraw(self, number: int) -> None:
        """The network with this number is not served from this host; guests of it may be here."""
        ...

    def serving(self) -> set[int]:
        """The numbers of this cloud's networks that are served from this host, or half so."""
        ...

    def remove(self, number: int) -> None:
        """Nothing of the network with this number is left on the host."""
        ...

    def inventory(self) -> Mapping[int, Present]:
        """This cloud's networks of which anything is on this host, by number.

        The next `serve` of one that lacks something believes nothing it has seen of it before.
        """
        ...
