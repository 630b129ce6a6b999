"""APPLY for networks: what this host serves is what the rows say, and an address that left is
given back only when nothing answers for it any more."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection
from typing import Any

from oslo_config import cfg
from typing_extensions import override

from minicloud import auditing, config, errors, interfaces, states, work
from minicloud.checkpoint import checkpoint
from minicloud.context import Context
from minicloud.db import addresses, hosts, models, networks
from minicloud.db.session import Tx, reading, transaction
from minicloud.findings import Finding
from minicloud.network import comparing
from minicloud.network.driver import Booking, Net, Wires
from minicloud.wiring import links_of
from minicloud.work import applies

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "network",
    [
        cfg.StrOpt(
            "connection_type",
            default="linux",
            choices=["linux", "simulated"],
            help="What serves the networks: this host's kernel, or a simulation.",
        ),
        cfg.StrOpt(
            "interface",
            default="",
            help="Device by which guests' traffic leaves the host; empty: it does not leave.",
        ),
    ],
)


class Manager(interfaces.Network):
    """One per network host."""

    protocol = interfaces.Network
    me: states.Daemon
    work: Any
    trusted = True
    still_trusted: Callable[[], bool]

    def __init__(self, wires: Wires) -> None:
        self.driver = wires

    def start(self) -> None:
        """Every network of this host is applied anew, whatever `applied` says: the host may have
        forgotten."""
        self.driver.connect()
        _adopt(self.me)
        self._apply_all()

    def let_go(self, host: str, *, everything: bool) -> None:
        """No network is served here whose row names another host or none; with `everything` none
        at all that a row has."""
        self.driver.connect()
        for number in sorted(_foreign(host, self.driver.serving(), everything)):
            LOG.warning("network number %d is no longer served here", number)
            self.driver.withdraw(number)

    def alive(self) -> dict[str, Any]:
        self.driver.ping()
        return {}

    @override
    def ping(self, ctx: Context) -> dict[str, Any]:
        return work.pong(self.me)

    def sweep(self) -> None:
        """The host is compared with the rows: networks are served anew, others taken away."""
        present = self.driver.inventory()
        _adopt(self.me)
        self._apply_all()
        found = comparing.orphans(present, _numbers())
        for finding in found if self.still_trusted() else ():
            LOG.warning("%s: removing it", finding.what)
            job = functools.partial(self._remove, int(finding.id))
            self.work.add(f"number:{finding.id}", "remove", job, "ending")

    @override
    @applies(models.Network)
    def apply_network(self, id: str) -> None:
        """Gateway, DHCP, DNS, metadata and NAT of the network are as its rows say."""
        found = _read(self.me.host, id)
        if found is None:
            return
        net, wanted, bookings, leaving = found
        checkpoint("apply_network.read")
        self.driver.serve(net, bookings, leaving)
        checkpoint("apply_network.served")
        _store(self.me, id, wanted, bool(leaving))
        checkpoint("apply_network.stored")

    @override
    def audit(self, ctx: Context) -> dict[str, Any]:
        return auditing.answer(self, {"networks": self._compare})

    @override
    def mend(self, ctx: Context, *, trust: bool) -> None:
        auditing.mend(self, trust=trust)

    def _compare(self) -> list[Finding]:
        present = self.driver.inventory()
        found = comparing.orphans(present, _numbers())
        for network, bookings, applied in _served(self.me):
            here = present.get(network.number)
            found += comparing.served(network, here, bookings, applied)
        return found

    def _apply_all(self) -> None:
        for network in _mine(self.me.host):
            self.apply_network(Context("sweep"), network.id)

    def _remove(self, number: int) -> None:
        if number in _numbers() or not self.still_trusted():
            return
        try:
            self.driver.remove(number)
        except errors.Error as error:
            LOG.warning("network number %d stays for now: %s", number, error)


@transaction
def _adopt(tx: Tx, me: states.Daemon) -> list[str]:
    return networks.adopt(tx, me.host, me.alive())


@reading
def _mine(tx: Tx, host: str) -> list[models.Network]:
    return networks.of_host(tx, host)


@reading
def _served(tx: Tx, me: states.Daemon) -> list[tuple[models.Network, list[Any], int]]:
    """The networks of this host, with their bookings and how far each is applied."""
    return [
        (row, networks.bookings(tx, row.id), hosts.applied(tx, me.id, row.id))
        for row in networks.of_host(tx, me.host)
    ]


@reading
def _foreign(tx: Tx, host: str, serving: Collection[int], everything: bool) -> set[int]:
    return networks.foreign(tx, host, serving, everything)


@reading
def _numbers(tx: Tx) -> set[int]:
    return networks.numbers(tx)


@reading
def _read(tx: Tx, host: str, id: str) -> tuple[Net, int, list[Booking], list[Booking]] | None:
    """`wanted` first, then the data: what is stored as applied was certainly read."""
    row = tx.get(models.Network, id)
    if row is None or row.host != host:
        return None
    rows = networks.bookings(tx, id)
    net = Net(
        id=row.id,
        number=row.number,
        name=row.name,
        kind=row.kind,
        cidr=row.cidr,
        gateway=row.gateway,
        mtu=row.mtu,
        dns=tuple(word for word in row.dns.split(",") if word),
        links=links_of(row),
    )
    live = [Booking(a.mac, a.address, a.hostname) for a in rows if a.leaving is None]
    left = [Booking(a.mac, a.address, a.hostname) for a in rows if a.leaving is not None]
    return net, row.wanted, live, left


@transaction
def _store(tx: Tx, me: states.Daemon, id: str, wanted: int, leaving: bool) -> None:
    if not hosts.is_there(tx, models.Network, id):
        return
    me.require(tx)
    hosts.store_applied(tx, me.id, id, wanted)
    if leaving:
        addresses.forget_left(tx, network_id=id)
