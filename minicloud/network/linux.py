"""Wires of this host's kernel.

    guests ── mc-TAG-nN (bridge) ── mc-TAG-gN ══ eth0 ┐ namespace          host
                                                      │ mc-TAG-netN
                                                      └ pub ══ mc-TAG-pN ── routes, nft, INTERFACE

In the namespace: the gateway address on eth0, 169.254.169.254 on lo, dnsmasq, NAT.  The pair
pub = mc-TAG-pN has two link addresses that nothing else on the host has; the host reaches the
guests through it.  Each step is a command that may be repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import pathlib
import socket
import time
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from netaddr import IPAddress, IPNetwork
from oslo_config import cfg
from typing_extensions import override

from minicloud import addresses, concurrency, config, errors, shell
from minicloud.checkpoint import checkpoint
from minicloud.network import dnsmasq, driver, metadata_sockets, namespaces, nat
from minicloud.network.driver import Booking, Net, Present
from minicloud.wiring import Bridge, artefact, links, number_of

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "network_linux",
    [
        cfg.StrOpt(
            "link_range",
            default="100.126.0.0/16",
            help="Range (RFC 6598 by default) of the addresses between this host and its networks'"
            " gateways, two for each network; they are free ones that are seen nowhere else.",
        )
    ],
)

BELIEVE_S = 60.0  # how long wires that were seen right are not looked at again

SETTINGS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    # a listening socket that is closed leaves its waiting connections to its successor
    "net/ipv4/tcp_migrate_req": "1",
}


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was found right when the wires of a network were made, and when."""

    net: Net
    namespace: int
    devices: tuple[int, ...]
    reachable: bool
    at: float


class Linux(driver.Wires):
    """`interface`: the device guests' traffic leaves by, "" = it does not; `hook`: the program
    dnsmasq runs for each lease."""

    def __init__(self, tag: str, state_path: str, interface: str, hook: str) -> None:
        self._tag = tag
        self._state = pathlib.Path(state_path)
        self._interface = interface
        self._hook = hook
        self._events = self._state / "run" / "dhcp-events"
        self._feed = metadata_sockets.Feed(
            self._state / "run" / "metadata-sockets", lambda: self._numbers(namespaces.names())
        )
        self._seen: dict[int, Seen] = {}
        self._served: set[int] = set()  # dnsmasq has certainly read these networks' files
        self._unreachable: set[int] = set()
        self._begun = False

    @override
    def connect(self) -> None:
        _check_forwarding(self._interface)
        nat.apply_host(self._tag, self._interface)
        nat.warn_of_others(self._tag)
        if not self._begun:
            self._events.parent.mkdir(parents=True, exist_ok=True)
            self._feed.start()
            concurrency.start("dhcp-events", dnsmasq.listen, self._events)
            self._begun = True

    @override
    def ping(self) -> None:
        """The host's tables are there; they are put back when somebody has flushed them."""
        if not nat.on_host(self._tag):
            LOG.warning("this host's table %s was gone: put back", nat.table(self._tag))
            nat.apply_host(self._tag, self._interface)

    @override
    def serve(self, net: Net, bookings: Sequence[Booking], leaving: Sequence[Booking]) -> None:
        certain = net.number not in self._served
        self._served.discard(net.number)
        namespace = self._name("net", net.number)
        reachable = self._wires(net, namespace)
        dnsmasq.serve(self._server(net, namespace), bookings, certain=certain)
        held = {booking.address for booking in bookings}
        for gone in leaving:
            if gone.address not in held:
                _forget(namespace, gone.address, on_host=reachable)
        checkpoint("serve.dhcp")
        self._feed.open(net.number, net.id, namespace)
        checkpoint("serve.metadata")
        self._served.add(net.number)

    @override
    def withdraw(self, number: int) -> None:
        namespace = self._name("net", number)
        self._seen.pop(number, None)
        self._served.discard(number)
        self._feed.close(number)
        dnsmasq.stop(self._directory(number))
        present = links.devices()
        for kind in "gp":
            # the socket of a metadata server that is away may keep the namespace for a while
            if (name := self._name(kind, number)) in present:
                shell.run(["ip", "link", "delete", name])
        namespaces.remove(namespace)
        dnsmasq.remove(self._directory(number))

    @override
    def inventory(self) -> Mapping[int, Present]:
        devices = set(links.devices())
        names = {*namespaces.names(), *devices, *self._directories()}
        return {number: self._present(number, devices) for number in self._numbers(names)}

    def _present(self, number: int, devices: Collection[str]) -> Present:
        lacks = tuple(self._lacks(number, devices))
        if lacks:
            self._seen.pop(number, None)
        directory = self._directory(number)
        return Present(lacks, dnsmasq.entries(directory), dnsmasq.leases(directory))

    def _lacks(self, number: int, devices: Collection[str]) -> Iterator[str]:
        """What `serve` makes and is not there, in words; the host's own tables are `ping`'s."""
        for kind, words in (("n", "bridge"), ("g", "link"), ("p", "link")):
            if (name := self._name(kind, number)) not in devices:
                yield f"the {words} {name}"
        namespace = self._name("net", number)
        if namespaces.identity(namespace) is None:
            yield f"the namespace {namespace}"
        elif not nat.in_namespace(self._tag, namespace):
            yield f"the table {nat.table(self._tag)} of {namespace}"
        if not dnsmasq.alive(self._directory(number)):
            yield "dnsmasq"

    @override
    def serving(self) -> set[int]:
        return self._numbers({*namespaces.names(), *self._directories()})

    @override
    def remove(self, number: int) -> None:
        self.withdraw(number)
        links.remove([Bridge(self._name("n", number), 0)])

    def _directories(self) -> set[str]:
        try:
            return {entry.name for entry in (self._state / "networks").iterdir()}
        except FileNotFoundError:
            return set()

    def _numbers(self, names: set[str]) -> set[int]:
        return {number for name in names if (number := number_of(self._tag, name)) is not None}

    def _name(self, kind: str, number: int) -> str:
        return artefact(self._tag, kind, number)

    def _directory(self, number: int) -> pathlib.Path:
        return directory(self._state, self._name("net", number))

    def _server(self, net: Net, namespace: str) -> dnsmasq.Server:
        where = self._directory(net.number)
        return dnsmasq.Server(net, self._tag, namespace, where, self._hook, str(self._events))

    def _wires(self, net: Net, namespace: str) -> bool:
        """Everything below DHCP is there; whether the host has a route to the guests.

        A change of bookings finds it as it was left a moment ago and runs no command.
        """
        seen = self._seen.pop(net.number, None)
        if seen is None or seen != self._look(net, namespace, seen):
            links.ensure(net.links)
            checkpoint("serve.bridge")
            namespaces.ensure(namespace)
            namespaces.inside(namespace, _write_settings)
            checkpoint("serve.namespace")
            link = self._wire(net, namespace)
            nat.apply_namespace(self._tag, namespace, net.cidr, str(link[1]))
            reachable = self._route(net, link)
            checkpoint("serve.gateway")
            fresh = Seen(net, 0, (), reachable, time.monotonic())
            seen = self._look(net, namespace, fresh)
        self._seen[net.number] = seen
        return seen.reachable

    def _look(self, net: Net, namespace: str, seen: Seen) -> Seen:
        """`seen` as it would be if it were made now."""
        names = (net.bridge, self._name("g", net.number), self._name("p", net.number))
        old = time.monotonic() - seen.at > BELIEVE_S
        return dataclasses.replace(
            seen,
            net=net,
            namespace=namespaces.identity(namespace) or 0,
            devices=() if old else tuple(_index(name) for name in names),
        )

    def _wire(self, net: Net, namespace: str) -> tuple[IPAddress, IPAddress]:
        """Both veths are there with their addresses; the link addresses, the host's first."""
        inner, outer = self._name("g", net.number), self._name("p", net.number)
        there = links.parse_devices(namespaces.run(namespace, ["ip", "-json", "link", "show"]))
        here = links.devices()
        for name, peer in ((inner, "eth0"), (outer, "pub")):
            if peer not in there:
                if name in here:  # its other end is in a namespace that lost its name
                    shell.run(["ip", "link", "delete", name])
                add = ["ip", "link", "add", name, "mtu", str(net.mtu), "type", "veth"]
                shell.run([*add, "peer", "name", peer, "netns", namespace])
            links.without_ipv6(name)
        link = _link_addresses(outer, f"{self._tag}-{net.number}")
        host = [
            f"link set dev {inner} mtu {net.mtu} master {net.bridge} up",
            f"link set dev {outer} mtu {net.mtu} up",
            f"addr replace {link[0]}/31 dev {outer}",
        ]
        shell.run(["ip", "-batch", "-"], input="\n".join(host) + "\n")
        self._address(net, namespace, link)
        return link

    def _address(self, net: Net, namespace: str, link: tuple[IPAddress, IPAddress]) -> None:
        gateway = f"{net.gateway}/{IPNetwork(net.cidr).prefixlen}"
        wanted = {"eth0": gateway, "pub": f"{link[1]}/31", "lo": f"{metadata_sockets.ADDRESS}/32"}
        present = json.loads(namespaces.run(namespace, ["ip", "-json", "-4", "addr", "show"]))
        commands = [
            f"addr delete {address} dev {device}"
            for device, address in _addresses(present)
            if device != "lo" and address != wanted.get(device)
        ]
        for device, address in wanted.items():
            mtu = "" if device == "lo" else f" mtu {net.mtu}"
            commands += [f"link set dev {device}{mtu} up", f"addr replace {address} dev {device}"]
        commands.append(f"route replace default via {link[0]} dev pub")
        namespaces.run(namespace, ["ip", "-batch", "-"], input="\n".join(commands) + "\n")

    def _route(self, net: Net, link: tuple[IPAddress, IPAddress]) -> bool:
        """The host has a route to the guests, unless their range meets another route of it."""
        outer = self._name("p", net.number)
        for device, range_ in _routes():
            if device != outer and addresses.overlap(range_, IPNetwork(net.cidr)):
                level = logging.DEBUG if net.number in self._unreachable else logging.WARNING
                LOG.log(
                    level,
                    "network %s: %s meets %s on %s: its guests are not reachable from this host",
                    *(net.name, net.cidr, range_, device),
                )
                self._unreachable.add(net.number)
                return False
        self._unreachable.discard(net.number)
        route = [net.cidr, "via", str(link[1]), "dev", outer, "src", str(link[0])]
        shell.run(["ip", "route", "replace", *route])
        return True


def directory(state: pathlib.Path, namespace: str) -> pathlib.Path:
    """Where the files of the network served in that namespace are."""
    return state / "networks" / namespace


def peer(address: str) -> str:
    """The gateway's end of the link whose end on the host has this address."""
    return str(IPAddress(address) + 1)


def _check_forwarding(interface: str) -> None:
    setting = pathlib.Path("/proc/sys/net/ipv4/ip_forward")
    if interface and setting.read_text().strip() != "1":
        raise errors.TryLater(
            reason="net.ipv4.ip_forward is 0 on this host: guests' traffic cannot leave by"
            f" {interface} (tools/minicloud.sh run sets it, or: sysctl net.ipv4.ip_forward=1)"
        )


def _index(device: str) -> int:
    try:
        return socket.if_nametoindex(device)
    except OSError:
        return 0


def _write_settings() -> None:
    for name, value in SETTINGS.items():
        setting = pathlib.Path("/proc/sys") / name
        with contextlib.suppress(FileNotFoundError):  # a kernel without it
            if setting.read_text().strip() != value:
                setting.write_text(value)


def _link_addresses(device: str, seed: str) -> tuple[IPAddress, IPAddress]:
    """The two addresses of a link: those it has, or a pair that no one on this host has.

    Counting begins at a place made from `seed`, so that two clouds starting at once differ.
    """
    span = addresses.block(CONF.link_range)
    taken = [(name, range_) for name, range_ in _routes()]
    listing = json.loads(shell.run(["ip", "-json", "-4", "addr", "show"]))
    for name, text in _addresses(listing):
        found = IPNetwork(text)
        if name == device and found.prefixlen == 31 and found.ip in span:
            return found.ip, found.ip + 1
        taken.append((name, IPNetwork(found.ip)))
    pairs = span.size // 2
    start = zlib.crc32(seed.encode())
    for step in range(pairs):
        first = span.network + 2 * ((start + step) % pairs)
        pair = IPNetwork((int(first), 31))
        if not any(addresses.overlap(pair, other) for name, other in taken if name != device):
            return first, first + 1
    raise errors.TryLater(reason=f"no free pair of addresses in {span} (network_linux.link_range)")


def _addresses(listing: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    for device in listing:
        for entry in device.get("addr_info", ()):
            if entry["family"] == "inet":
                yield device["ifname"], f"{entry['local']}/{entry['prefixlen']}"


def _routes() -> Iterator[tuple[str, IPNetwork]]:
    """The host's routes by device, without the default one."""
    for route in json.loads(shell.run(["ip", "-json", "-4", "route", "show"]) or "[]"):
        if route["dst"] != "default":
            yield route.get("dev", route.get("type", "")), IPNetwork(route["dst"])


def _forget(namespace: str, address: str, *, on_host: bool) -> None:
    """Nothing remembers who had the address: no connection and no neighbour."""
    nat.forget(namespace, address)
    if on_host:
        nat.forget(None, address)
    namespaces.run(namespace, ["ip", "neighbour", "flush", "to", address, "dev", "eth0"])
