"""What the packet filter renders, and how little it changes; packets are in tests/host."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minicloud import ids
from minicloud.compute.driver import Firewall, FirewallPort, FirewallRule, Port
from minicloud.compute.libvirt import firewall

TAG = "test"
# fixed: they are in names of tests, which must be the same in every worker
GROUPS = [f"ec2{number:05x}-0000-4000-8000-000000000000" for number in range(3)]
SSH = FirewallRule("tcp", 22, 22, "0.0.0.0/0", None)


def port(number: int, *groups: str, network: int = 1) -> FirewallPort:
    card = Port(
        tap=f"mc-{TAG}-tap{number}",
        mac=f"02:16:3e:00:00:{number:02x}",
        address=f"10.0.0.{number}",
        bridge=f"mc-{TAG}-n{network}",
        mtu=1450,
        gateway="10.0.0.1",
    )
    return FirewallPort(card, groups)


def rules_of(*rules: FirewallRule) -> tuple[str, ...]:
    tables = firewall.render(Firewall([port(2, GROUPS[0])], {GROUPS[0]: rules}, {}), TAG)
    return tables["inet"].chains[ids.ec2("sg", GROUPS[0])].rules


@pytest.mark.parametrize(
    ("rule", "line"),
    [
        (SSH, "ip saddr 0.0.0.0/0 tcp dport 22-22 accept"),
        (
            FirewallRule("udp", 53, 60, "10.1.2.3/8", None),
            "ip saddr 10.0.0.0/8 udp dport 53-60 accept",
        ),
        (
            FirewallRule("icmp", -1, -1, "10.0.0.0/8", None),
            "ip saddr 10.0.0.0/8 meta l4proto icmp accept",
        ),
        (
            FirewallRule("icmp", 8, 0, "10.0.0.0/8", None),
            "ip saddr 10.0.0.0/8 meta l4proto icmp icmp type 8 icmp code 0 accept",
        ),
        (FirewallRule("-1", None, None, "10.0.0.0/8", None), "ip saddr 10.0.0.0/8 accept"),
        (
            FirewallRule("tcp", None, None, "10.0.0.0/8", None),
            "ip saddr 10.0.0.0/8 meta l4proto tcp accept",
        ),
        (
            FirewallRule("tcp", 1, 2, None, GROUPS[1]),
            f"ip saddr @{ids.ec2('sg', GROUPS[1])} tcp dport 1-2 accept",
        ),
    ],
)
def test_a_rule_becomes_one_line(rule: FirewallRule, line: str) -> None:
    assert rules_of(rule) == (line,)


def test_a_rule_for_ipv6_lets_nothing_in() -> None:
    assert rules_of(FirewallRule("tcp", 22, 22, "::/0", None)) == ()


@pytest.mark.parametrize(
    "hostile",
    [
        FirewallRule("tcp", 22, 22, "10.0.0.0/8; flush ruleset", None),
        FirewallRule("sctp", 22, 22, "10.0.0.0/8", None),
    ],
)
def test_what_is_no_rule_never_comes_to_nft(hostile: FirewallRule) -> None:
    with pytest.raises(ValueError):
        rules_of(hostile)


def test_a_guest_without_rules_ends_in_drop() -> None:
    tables = firewall.render(Firewall([port(2)], {}, {}), TAG)
    assert tables["inet"].chains[f"in-mc-{TAG}-tap2"].rules == ("drop",)


def zones(tag: str, count: int) -> set[int]:
    return {firewall.zone_of(tag, f"mc-{tag}-n{number}") for number in range(1, count + 1)}


def test_networks_with_the_same_addresses_have_zones_of_their_own() -> None:
    tables = firewall.render(Firewall([port(2, network=1), port(3, network=2)], {}, {}), TAG)
    assert tables["inet"].sets["zones"].elements == {
        f'"mc-{TAG}-n{number}" : {firewall.zone_of(TAG, f"mc-{TAG}-n{number}")}'
        for number in (1, 2)
    }
    assert len(zones(TAG, 65535)) == 65535
    assert zones(TAG, 65535) == set(range(1, 65536))


def test_clouds_on_one_kernel_have_zones_of_their_own() -> None:
    assert not zones("main", 1000) & zones("test", 1000)


def changes(before: Firewall, after: Firewall) -> list[str]:
    return list(
        firewall.difference("x", firewall.render(before, TAG), firewall.render(after, TAG))
    )


def test_a_new_member_is_one_element() -> None:
    rules = {GROUPS[0]: [FirewallRule("-1", None, None, None, GROUPS[1])]}
    before = Firewall([port(2, GROUPS[0])], rules, {GROUPS[1]: ["10.0.0.7"]})
    after = Firewall([port(2, GROUPS[0])], rules, {GROUPS[1]: ["10.0.0.7", "10.0.0.8"]})
    source = ids.ec2("sg", GROUPS[1])
    assert changes(before, after) == [f"add element inet x {source} {{ 10.0.0.8 }}"]


def test_a_changed_rule_is_one_chain_whatever_the_number_of_guests() -> None:
    ports = [port(number, GROUPS[0]) for number in range(2, 200)]
    after = FirewallRule("tcp", 23, 23, "0.0.0.0/0", None)
    group = ids.ec2("sg", GROUPS[0])
    assert changes(
        Firewall(ports, {GROUPS[0]: [SSH]}, {}), Firewall(ports, {GROUPS[0]: [after]}, {})
    ) == [
        f"flush chain inet x {group}",
        f"add rule inet x {group} ip saddr 0.0.0.0/0 tcp dport 23-23 accept",
    ]


def test_the_order_of_rules_and_members_is_no_change() -> None:
    other = FirewallRule("udp", 1, 1, "0.0.0.0/0", None)
    ports = [port(2, GROUPS[0]), port(3)]
    assert not changes(
        Firewall(ports, {GROUPS[0]: [SSH, other]}, {}),
        Firewall(ports[::-1], {GROUPS[0]: [other, SSH]}, {}),
    )


class Kernel:
    """Two tables as nft would keep them, for the commands this module gives."""

    def __init__(self) -> None:
        self.chains: dict[tuple[str, str], list[str]] = {}
        self.sets: dict[tuple[str, str], set[str]] = {}

    def run(self, command: str) -> None:
        verb, kind, family, _table, name, rest = (command + " ").split(" ", 5)
        key, rest = (family, name), rest.strip()
        if kind == "chain":
            self._chain(verb, key)
        elif kind == "rule":
            self.chains[key].append(rest)
        elif kind == "element":
            elements = set(rest.strip("{} ").split(", "))
            if verb == "add":
                self.sets[key] |= elements
            else:
                keys = {firewall.key_of(element): element for element in self.sets[key]}
                self.sets[key] -= {keys[element] for element in elements}
        elif verb == "add":
            assert key not in self.sets
            self.sets[key] = set()
        else:
            assert not any(f"@{name}" in " ".join(rules) for rules in self.chains.values())
            del self.sets[key]

    def _chain(self, verb: str, key: tuple[str, str]) -> None:
        if verb == "add":
            assert key not in self.chains
            self.chains[key] = []
        elif verb == "flush":
            self.chains[key] = []
        else:
            listed = [*self.chains.values(), *self.sets.values()]
            targets = " ".join(text for each in listed for text in each)
            assert key[1] not in targets.split()
            del self.chains[key]


sources = st.one_of(
    st.tuples(st.sampled_from(["10.0.0.0/8", "0.0.0.0/0", "::/0"]), st.none()),
    st.tuples(st.none(), st.sampled_from(GROUPS)),
)
rules = st.builds(
    lambda low, source: FirewallRule("tcp", low, low + 1, *source), st.integers(1, 3), sources
)


@st.composite
def firewalls(draw: st.DrawFn) -> Firewall:
    ports = [
        port(number, *draw(st.sets(st.sampled_from(GROUPS))), network=draw(st.integers(1, 2)))
        for number in sorted(draw(st.sets(st.integers(2, 5))))
    ]
    used = {group for each in ports for group in each.groups}
    groups = {group: draw(st.lists(rules, max_size=3)) for group in sorted(used)}
    members = st.lists(st.integers(2, 9).map(lambda n: f"10.0.0.{n}"), max_size=4, unique=True)
    return Firewall(ports, groups, {group: draw(members) for group in GROUPS})


@settings(max_examples=150, deadline=None)
@given(st.lists(firewalls(), min_size=1, max_size=4))
def test_changes_lead_to_the_same_tables_as_replacing_all(wanted: list[Firewall]) -> None:
    kernel, before = Kernel(), firewall.NOTHING
    for each in wanted:
        after = firewall.render(each, TAG)
        for command in firewall.difference("x", before, after):
            kernel.run(command)
        before = after
    for family, table in before.items():
        chains = {key[1]: rules for key, rules in kernel.chains.items() if key[0] == family}
        assert chains == {name: list(chain.rules) for name, chain in table.chains.items()}
        sets = {key[1]: found for key, found in kernel.sets.items() if key[0] == family}
        assert sets == {name: set(made.elements) for name, made in table.sets.items()}


LISTING = """{"nftables": [{"metainfo": {"version": "1.0.6"}},
 {"table": {"family": "inet", "name": "t", "handle": 1}},
 {"set": {"family": "inet", "name": "ports", "table": "t", "type": "ifname", "elem": ["tap2"]}},
 {"set": {"family": "inet", "name": "mac", "table": "t", "type": ["ifname", "ether_addr"],
          "elem": [{"concat": ["tap2", "02:16:3e:00:00:02"]}]}},
 {"map": {"family": "inet", "name": "zones", "table": "t", "map": "ct zone",
          "elem": [["mc-test-n1", 7]]}},
 {"map": {"family": "inet", "name": "to-guest", "table": "t", "map": "verdict",
          "elem": [[{"concat": ["mc-test-n1", "10.0.0.2"]}, {"goto": {"target": "in-tap2"}}]]}},
 {"chain": {"family": "inet", "name": "empty", "table": "t", "handle": 2}},
 {"chain": {"family": "inet", "name": "in-tap2", "table": "t", "handle": 3}},
 {"rule": {"family": "inet", "chain": "in-tap2", "table": "t", "expr": [{"drop": null}]}}]}"""


def listed() -> firewall.Table:
    """The table of LISTING as it would have been rendered."""
    sets = {
        "ports": firewall.Set("set", "type ifname", frozenset({'"tap2"'})),
        "mac": firewall.Set("set", "", frozenset({'"tap2" . 02:16:3e:00:00:02'})),
        "zones": firewall.Set("map", "", frozenset({'"mc-test-n1" : 7'})),
        "to-guest": firewall.Set("map", "", frozenset({'"mc-test-n1" . 10.0.0.2 : goto in-tap2'})),
    }
    return firewall.Table(
        sets, {"empty": firewall.Chain("", ()), "in-tap2": firewall.Chain("", ("drop",))}
    )


def test_what_nft_lists_is_compared_with_what_was_rendered():
    assert firewall.parse(LISTING) == firewall.shape(listed())


def test_each_difference_of_a_table_is_said_in_words():
    wanted = {"set a": frozenset({"1", "2"}), "chain b": frozenset({"1 rules"})}
    assert list(firewall.unlike(wanted, wanted)) == []
    assert list(firewall.unlike(wanted, {})) == ["it is not there"]
    present = {"set a": frozenset({"2", "3"}), "chain c": frozenset({"0 rules"})}
    assert list(firewall.unlike(wanted, present)) == [
        "it lacks chain b",
        "it has also chain c",
        "set a lacks 1",
        "set a has also 3",
    ]
