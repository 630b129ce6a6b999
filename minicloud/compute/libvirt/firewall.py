"""The packet filter of a compute host: who a guest may say it is, and who may talk to it.

Two tables of ours, always changed together in one transaction of `nft -f`:

    bridge mc-<tag>-compute   stateless, by port: a guest sends only with its own MAC and address,
                              is no DHCP server and no IPv6 router, and gets only what is for it
    inet mc-<tag>-compute     stateful: the security groups of the guest a packet goes to

Bridged packets pass inet's forward hook with the bridge as both devices, if the sysctl
net.bridge.bridge-nf-call-iptables is 1.  The gateway of a network is in a namespace of its own
behind a port of the bridge, so what comes from the host or from outside is bridged too and meets
the same rules.  The host itself has no part in the bridges.

Connections are tracked in a zone per bridge (see `zone_of`): networks, those of other clouds on
this kernel too, may use the same addresses, and what the host sends to a guest passes the host's
namespace twice.  Only answers pass because of their connection; what goes the way of its first
packet is looked up in the groups each time.  So a
revoked rule, address or member cuts open connections by itself.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import re
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from minicloud import addresses, errors, ids, shell, wiring
from minicloud.compute.driver import Firewall, FirewallPort, FirewallRule

BRIDGE_NF = pathlib.Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
ZONES = 0xFFFF
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,14}")  # of a network device of ours
TRACKED = re.compile(r"\b(?:src|dst)=([0-9.]+)")  # in a line of `conntrack -L`

Endpoint = tuple[str, str]  # bridge, address


@dataclasses.dataclass(frozen=True)
class Set:
    """An nft set, or a map when its elements have a value (`key : value`)."""

    kind: str
    type: str
    elements: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Chain:
    """`hook` is what makes it a base chain, empty for the others."""

    hook: str
    rules: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    sets: Mapping[str, Set]
    chains: Mapping[str, Chain]


Tables = Mapping[str, Table]  # by family
Shape = Mapping[str, frozenset[str]]  # "set NAME" → elements, "chain NAME" → {"N rules"}
SHOWN = 3  # elements named of each difference

NOTHING: Tables = {"bridge": Table({}, {}), "inet": Table({}, {})}


class Filter:
    """The two tables of one cloud on this host."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._name = f"mc-{tag}-compute"
        self._lock = threading.Lock()
        self._applied: Tables | None = None  # None: not known
        self._taps: frozenset[str] = frozenset()

    def require(self) -> None:
        """TryLater unless bridged packets come to the tables."""
        if not BRIDGE_NF.exists() or BRIDGE_NF.read_text().strip() != "1":
            raise errors.TryLater(
                reason="net.bridge.bridge-nf-call-iptables is not 1: security groups would not"
                " be kept"
            )

    def knows(self, tap: str) -> bool:
        """Whether the port is in the tables: a guest must not be plugged before."""
        return tap in self._taps

    def apply(self, firewall: Firewall, *, complete: bool) -> None:
        """The host's tables equal `firewall`; see `driver.Hypervisor.protect`."""
        wanted = render(firewall, self._tag)
        with self._lock:
            if complete or self._applied is None or not self._change(self._applied, wanted):
                self._replace(wanted)
            self._taps = frozenset(port.port.tap for port in firewall.ports)

    def differences(self, firewall: Firewall) -> tuple[str, ...]:
        """In what the kernel's tables differ from those of `firewall`, whoever changed them.

        Chains are compared by the number of their rules: nft shows a rule in other words than it
        was told.
        """
        wanted = render(firewall, self._tag)
        present = {family: self._listed(family) for family in wanted}
        return tuple(
            f"table {family} {self._name}: {words}"
            for family in wanted
            for words in unlike(shape(wanted[family]), present[family])
        )

    def _listed(self, family: str) -> Shape:
        try:
            listing = shell.run(["nft", "-j", "list", "table", family, self._name])
        except errors.CommandFailed:
            return {}
        return parse(listing)

    def _change(self, applied: Tables, wanted: Tables) -> bool:
        """False when the kernel has other tables than this process believes."""
        commands = list(difference(self._name, applied, wanted))
        if not commands:
            return True
        self._applied = None
        try:
            shell.run(["nft", "-f", "-"], input="\n".join(commands) + "\n")
        except errors.CommandFailed:
            return False
        self._applied = wanted
        self._cut(endpoints(applied) ^ endpoints(wanted))
        return True

    def _replace(self, wanted: Tables) -> None:
        before = self._present()
        commands = list(replacement(self._name, wanted))
        self._applied = None
        shell.run(["nft", "-f", "-"], input="\n".join(commands) + "\n")
        self._applied = wanted
        self._cut(before ^ endpoints(wanted))

    def _present(self) -> set[Endpoint]:
        """The endpoints in the kernel's table, whoever put them there."""
        try:
            listing = shell.run(["nft", "-j", "list", "map", "inet", self._name, "to-guest"])
        except errors.CommandFailed:
            return set()
        [found] = [item["map"] for item in json.loads(listing)["nftables"] if "map" in item]
        return {tuple(key["concat"]) for key, _verdict in found.get("elem", [])}

    def _cut(self, changed: set[Endpoint]) -> None:
        """An address that came or went has no connections of its former owner."""
        for bridge in sorted({bridge for bridge, _ in changed}):
            zone = ("--zone", str(zone_of(self._tag, bridge)))
            listing = shell.run(["conntrack", "-L", *zone], check=False)
            tracked = {(bridge, address) for address in TRACKED.findall(listing)}
            for _, address in sorted(tracked & changed):
                for side in ("--orig-src", "--orig-dst"):
                    # ends with 1 when there is none
                    shell.run(["conntrack", "-D", *zone, side, address], check=False)


def zone_of(tag: str, bridge: str) -> int:
    """The conntrack zone of a bridge, 1 to 65535; 0 is what nobody chose.

    The networks of a cloud have zones in a row, so that no two of 65535 share one; where the row
    begins is drawn from the tag, so that clouds on one kernel hardly ever do.
    """
    return (zlib.crc32(tag.encode()) + _number(tag, bridge)) % ZONES + 1


def _number(tag: str, bridge: str) -> int:
    number = wiring.number_of(tag, bridge)
    if number is None:
        raise ValueError(f"not a bridge of ours: {bridge}")
    return number


def endpoints(tables: Tables) -> set[Endpoint]:
    """Bridge and address of every guest in the tables."""
    keys = (key_of(element) for element in tables["inet"].sets["to-guest"].elements)
    pairs = (key.split(" . ") for key in keys)
    return {(bridge.strip('"'), address) for bridge, address in pairs}


# --- what the tables shall be ---------------------------------------------------------------


def render(firewall: Firewall, tag: str) -> Tables:
    """Both tables, complete; ValueError for a name or address that is none."""
    return {"bridge": _bridge(firewall.ports, tag), "inet": _inet(firewall, tag)}


def _bridge(ports: Iterable[FirewallPort], tag: str) -> Table:
    taps, macs, owners, servers, gateways = set(), set(), set(), set(), set()
    for each in ports:
        port = each.port
        tap, mac, address = _device(port.tap), _mac(port.mac), _address(port.address)
        taps.add(tap)
        macs.add(f"{tap} . {mac}")
        owners.add(f"{tap} . {mac} . {address}")
        servers.add(f"{tap} . {_address(port.gateway)}")
        gateways.add(_device(wiring.artefact(tag, "g", _number(tag, port.bridge))))
    sets = {
        "ports": Set("set", "type ifname", frozenset(taps)),
        "gateways": Set("set", "type ifname", frozenset(gateways)),
        "mac": Set("set", "type ifname . ether_addr", frozenset(macs)),
        "owner": Set("set", "type ifname . ether_addr . ipv4_addr", frozenset(owners)),
        "server": Set("set", "type ifname . ipv4_addr", frozenset(servers)),
    }
    from_guest = (
        # what has a VLAN tag passes inet's hooks unseen, and a tag of 0 counts for none elsewhere
        "ether type != { ip, arp } drop",
        "iifname . ether saddr != @mac drop",
        "ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept",
        "udp sport 67 drop",
        "iifname . ether saddr . ip saddr @owner accept",
        "iifname . arp saddr ether . arp saddr ip @owner accept",
        "iifname . arp saddr ether @mac arp saddr ip 0.0.0.0 accept",  # probe, RFC 5227
        "drop",
    )
    to_guest = (
        "ether type arp accept",
        "oifname . ip saddr @server udp sport 67 udp dport 68 accept",
        "oifname . ether daddr . ip daddr @owner accept",
        "drop",
    )
    ours = f'"mc-{tag}-*"'  # a port of ours that no row names is closed
    into, out_of = (
        (f"{side} @ports goto {chain}", f"{side} @gateways accept", f"{side} {ours} drop")
        for side, chain in (("iifname", "from-guest"), ("oifname", "to-guest"))
    )
    chains = {
        "from-guest": Chain("", from_guest),
        "to-guest": Chain("", to_guest),
        # before conntrack (-200), so that nothing forged is tracked
        "prerouting": _hooked("prerouting", -300, *into),
        "forward": _hooked("forward", -200, *out_of),
        "output": _hooked("output", -200, *out_of),
    }
    return Table(sets, chains)


def _inet(firewall: Firewall, tag: str) -> Table:
    bridges = {each.port.bridge for each in firewall.ports}
    pairs = {f"{_device(bridge)} . {_device(bridge)}" for bridge in bridges}
    zones = {f"{_device(bridge)} : {zone_of(tag, bridge)}" for bridge in bridges}
    servers, verdicts = set(), set()
    chains = _base_chains()
    for group, rules in firewall.groups.items():
        chains[_group(group)] = Chain("", tuple(_rules(rules)))
    for each in firewall.ports:
        port, inbound = each.port, f"in-{each.port.tap}"
        bridge = _device(port.bridge)
        servers.add(f"{bridge} . {_address(port.gateway)}")
        verdicts.add(f"{bridge} . {_address(port.address)} : goto {inbound}")
        jumps = (f"jump {_group(group)}" for group in sorted(set(each.groups)))
        chains[inbound] = Chain("", (*jumps, "drop"))
    sets = {
        "bridges": Set("set", "type ifname", frozenset(map(_device, bridges))),
        "bridged": Set("set", "type ifname . ifname", frozenset(pairs)),
        "server": Set("set", "type ifname . ipv4_addr", frozenset(servers)),
        "zones": Set("map", "typeof iifname : ct zone", frozenset(zones)),
        "to-guest": Set("map", "type ifname . ipv4_addr : verdict", frozenset(verdicts)),
    }
    for group in sorted(_sources(firewall)):
        members = firewall.members.get(group, ())
        sets[_group(group)] = Set("set", "type ipv4_addr", frozenset(map(_address, members)))
    return Table(sets, chains)


def _base_chains() -> dict[str, Chain]:
    between = (
        "ct state invalid drop",
        "ct state related meta l4proto icmp accept",
        # a connection that was cut must not come back as one that the guest began
        "ct state new tcp flags & (fin | syn | rst | ack) != syn drop",
        "ct direction reply ct state established accept",
        "iifname . ip saddr @server udp sport 67 udp dport 68 accept",
        "oifname . ip daddr vmap @to-guest",
    )
    forward = (
        "iifname . oifname @bridged goto between",
        "iifname @bridges drop",  # the host routes nothing out of or into a bridge
        "oifname @bridges drop",
    )
    return {
        "between": Chain("", between),
        "zoned": _hooked("prerouting", -300, "ct zone set iifname map @zones"),
        "forward": _hooked("forward", 0, *forward),
        "input": _hooked("input", 0, "iifname @bridges drop"),
        "output": _hooked("output", 0, "oifname @bridges drop"),
    }


def _hooked(hook: str, priority: int, *rules: str) -> Chain:
    return Chain(f"type filter hook {hook} priority {priority}; policy accept;", rules)


def _sources(firewall: Firewall) -> set[str]:
    rules = (rule for each in firewall.groups.values() for rule in each)
    return {rule.source_group for rule in rules if rule.source_group is not None}


def _rules(rules: Iterable[FirewallRule]) -> Iterator[str]:
    """One line for each rule that can let an IPv4 packet in, in an order of its own."""
    lines = {f"{source} {what} accept".strip() for source, what in map(_rule, rules) if source}
    yield from sorted(" ".join(line.split()) for line in lines)


def _rule(rule: FirewallRule) -> tuple[str, str]:
    return _source(rule), _what(rule)


def _source(rule: FirewallRule) -> str:
    """The packet's origin; empty when no packet can have it (guests have no IPv6)."""
    if rule.source_group is not None:
        return f"ip saddr @{_group(rule.source_group)}"
    cidr = rule.cidr or ""
    return "" if ":" in cidr else f"ip saddr {addresses.block(cidr).cidr}"


def _what(rule: FirewallRule) -> str:
    low, high = rule.from_port, rule.to_port
    if rule.protocol == "-1":
        return ""
    if rule.protocol == "icmp":
        return " ".join(["meta l4proto icmp", *_icmp(low, high)])
    if rule.protocol not in ("tcp", "udp"):
        raise ValueError(f"unknown protocol {rule.protocol}")
    if low is None or high is None:
        return f"meta l4proto {rule.protocol}"
    return f"{rule.protocol} dport {int(low)}-{int(high)}"


def _icmp(type: int | None, code: int | None) -> Iterator[str]:
    """For icmp the "ports" are type and code, -1 for any (EC2, IpPermission)."""
    if type is not None and type >= 0:
        yield f"icmp type {int(type)}"
    if code is not None and code >= 0:
        yield f"icmp code {int(code)}"


def _group(id: str) -> str:
    """Chain of the group's rules and set of its members: the id that EC2 shows."""
    return ids.ec2("sg", id)


def _device(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"not a device of ours: {name!r}")
    return f'"{name}"'


def _mac(mac: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac):
        raise ValueError(f"not a MAC: {mac!r}")
    return mac


def _address(address: str) -> str:
    return str(addresses.address(address))


# --- what the tables are ---------------------------------------------------------------------


def shape(table: Table) -> Shape:
    """A table as `parse` would find it."""
    sets = {f"set {name}": _plain(one.elements) for name, one in table.sets.items()}
    chains = {f"chain {name}": _counted(len(one.rules)) for name, one in table.chains.items()}
    return sets | chains


def parse(listing: str) -> Shape:
    """The sets and chains of what `nft -j list table` says (man libnftables-json)."""
    found: dict[str, frozenset[str]] = {}
    rules: collections.Counter[str] = collections.Counter()
    for item in json.loads(listing)["nftables"]:
        for kind in ("set", "map"):
            if kind in item:
                elements = map(_element, item[kind].get("elem", ()))
                found[f"set {item[kind]['name']}"] = frozenset(elements)
        if "chain" in item:
            rules[f"chain {item['chain']['name']}"] += 0
        if "rule" in item:
            rules[f"chain {item['rule']['chain']}"] += 1
    return found | {name: _counted(count) for name, count in rules.items()}


def _counted(rules: int) -> frozenset[str]:
    return frozenset({f"{rules} rules"})


def _plain(elements: Iterable[str]) -> frozenset[str]:
    return frozenset(element.replace('"', "") for element in elements)


def _element(shown: Any) -> str:
    if isinstance(shown, list):  # of a map
        key, value = shown
        if isinstance(value, dict):  # a verdict: {"goto": {"target": "in-…"}}
            [(verb, more)] = value.items()
            value = f"{verb} {more['target']}" if more else verb
        return f"{_element(key)} : {value}"
    if isinstance(shown, dict) and "concat" in shown:
        return " . ".join(str(part) for part in shown["concat"])
    return str(shown)


def unlike(wanted: Shape, present: Shape) -> Iterator[str]:
    """In words what of `wanted` is missing in `present`, and what is too much there."""
    if not present:
        yield "it is not there"
        return
    for name in sorted(wanted.keys() | present.keys()):
        for words, one, other in (("lacks", wanted, present), ("has also", present, wanted)):
            if name not in other:
                if name in one:
                    yield f"it {words} {name}"
            elif more := one.get(name, frozenset()) - other[name]:
                yield f"{name} {words} {', '.join(sorted(more)[:SHOWN])}"


# --- how nft is told ------------------------------------------------------------------------


def replacement(name: str, wanted: Tables) -> Iterator[str]:
    """Commands that make the tables new, whatever was there."""
    for family in wanted:
        yield f"add table {family} {name}"  # so that there is one to delete
        yield f"delete table {family} {name}"
        yield f"add table {family} {name}"
    yield from difference(name, NOTHING, wanted)


def difference(name: str, before: Tables, after: Tables) -> Iterator[str]:
    """Commands that turn tables `before` into `after`, touching only what differs.

    What is referred to is made before and removed after what refers to it.
    """
    for family in after:
        table = f"{family} {name}"
        yield from _new(table, before[family], after[family])
    for family in after:
        table = f"{family} {name}"
        yield from _filled(table, before[family], after[family])
        yield from _gone(table, before[family], after[family])


def _new(table: str, before: Table, after: Table) -> Iterator[str]:
    for name in sorted(after.sets.keys() - before.sets.keys()):
        made = after.sets[name]
        yield f"add {made.kind} {table} {name} {{ {made.type}; }}"
    for name in sorted(after.chains.keys() - before.chains.keys()):
        hook = after.chains[name].hook
        yield f"add chain {table} {name}" + (f" {{ {hook} }}" if hook else "")


def _filled(table: str, before: Table, after: Table) -> Iterator[str]:
    for name, chain in sorted(after.chains.items()):
        known = before.chains.get(name)
        if known != chain:
            if known is not None:
                yield f"flush chain {table} {name}"
            yield from (f"add rule {table} {name} {rule}" for rule in chain.rules)
    for name, wanted in sorted(after.sets.items()):
        present = before.sets[name].elements if name in before.sets else frozenset()
        removed, added = present - wanted.elements, wanted.elements - present
        yield from _elements("delete", table, name, map(key_of, removed))
        yield from _elements("add", table, name, added)


def _gone(table: str, before: Table, after: Table) -> Iterator[str]:
    chains = sorted(before.chains.keys() - after.chains.keys())
    yield from (f"flush chain {table} {name}" for name in chains)
    yield from (f"delete chain {table} {name}" for name in chains)
    for name in sorted(before.sets.keys() - after.sets.keys()):
        yield f"delete {before.sets[name].kind} {table} {name}"


def _elements(verb: str, table: str, name: str, elements: Iterable[str]) -> Iterator[str]:
    listed = ", ".join(sorted(elements))
    if listed:
        yield f"{verb} element {table} {name} {{ {listed} }}"


def key_of(element: str) -> str:
    """A map's element without its value."""
    return element.partition(" : ")[0]
