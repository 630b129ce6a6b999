"""Packet filter and address translation of the network daemon, rendered for nft.

Addresses are translated twice: in its own namespace a network's guests become the network's link
address, on the host that becomes the address of the device they leave by.  So networks with the
same range do not meet in the host's connection table.  The host's tables name our devices by
pattern and are the same whatever networks there are.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from minicloud import shell
from minicloud.network import namespaces

LOG = logging.getLogger(__name__)

FAMILIES = ("inet", "ip")
CLIENT_CONNECTIONS = 50


def table(tag: str) -> str:
    return f"mc-{tag}-network"


def host_rules(tag: str, interface: str) -> str:
    """The host's two tables: guests reach nothing here, and leave by `interface` alone.

    What compute bridges passes `forward` with a bridge as both devices and is not judged here.
    """
    bridges, gateways = f'"mc-{tag}-n*"', f'"mc-{tag}-p*"'
    answers = "ct state established,related accept"
    leave = f"iifname {gateways} oifname {json.dumps(interface)}"
    allowed = f"    {leave} accept\n" if interface else ""
    masquerade = f"    {leave} masquerade\n" if interface else ""
    return f"""\
table inet {table(tag)} {{
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname {bridges} drop
    iifname {gateways} {answers}
    iifname {gateways} drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname {bridges} oifname != {bridges} drop
    iifname {gateways} {answers}
    oifname {gateways} {answers}
{allowed}    iifname {gateways} drop
    oifname {gateways} drop
  }}
}}
table ip {table(tag)} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{masquerade}  }}
}}
"""


def namespace_rules(tag: str, cidr: str, link: str) -> str:
    """A network's own table: from outside only the host's connections to guests come in.

    A guest has CLIENT_CONNECTIONS at once to the metadata service, so that none starves others.
    """
    answers = "ct state established,related accept"
    crowd = f"add @clients {{ ip saddr ct count over {CLIENT_CONNECTIONS} }} reject with tcp reset"
    return f"""\
table ip {table(tag)} {{
  set clients {{
    type ipv4_addr; size 65535; flags dynamic;
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "pub" {answers}
    iifname "pub" icmp type echo-request accept
    iifname "pub" drop
    tcp dport 80 ct state new {crowd}
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    {answers}
    iifname "pub" oifname "eth0" ip daddr {cidr} accept
    iifname "eth0" oifname "pub" ip saddr {cidr} ip daddr != 169.254.0.0/16 accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname "pub" ip saddr {cidr} snat to {link}
  }}
}}
"""


def apply_host(tag: str, interface: str) -> None:
    """The host's tables are as rendered, in one transaction; open connections go on."""
    fresh = "".join(_anew(family, tag) for family in FAMILIES)
    shell.run(["nft", "-f", "-"], input=fresh + host_rules(tag, interface))


def apply_namespace(tag: str, name: str, cidr: str, link: str) -> None:
    rules = _anew("ip", tag) + namespace_rules(tag, cidr, link)
    namespaces.run(name, ["nft", "-f", "-"], input=rules)


def on_host(tag: str) -> bool:
    """Whether both tables are on the host; `nft flush ruleset` of others takes them away."""
    tables = shell.run(["nft", "list", "tables"]).splitlines()
    return all(f"table {family} {table(tag)}" in tables for family in FAMILIES)


def in_namespace(tag: str, name: str) -> bool:
    """Whether a network's own table is in its namespace."""
    tables = namespaces.run(name, ["nft", "list", "tables"], check=False)
    return f"table ip {table(tag)}" in tables.splitlines()


def warn_of_others(tag: str) -> None:
    """Say which foreign chain drops what is forwarded: an accept of ours cannot undo it."""
    for family, name, chain in blocking(shell.run(["nft", "-json", "list", "ruleset"]), tag):
        LOG.warning(
            "this host's chain %s %s %s drops what it does not know: guests get out only if"
            " it accepts the devices mc-%s-* (minicloud-manage doctor says how)",
            *(family, name, chain, tag),
        )


Place = tuple[str, str, str]  # family, table and name of a chain
Rule = Sequence[dict[str, Any]]  # its statements, as nft's JSON has them


def blocking(ruleset: str, tag: str) -> list[Place]:
    """The foreign chains that drop what is forwarded between devices of ours and others;
    `ruleset` is nft's JSON.

    One that accepts our devices, as source and as destination, is not in the way.
    """
    entries = json.loads(ruleset or "{}").get("nftables", ())
    rules: dict[Place, list[Rule]] = {}
    for rule in [entry["rule"] for entry in entries if "rule" in entry]:
        place = (rule["family"], rule["table"], rule["chain"])
        rules.setdefault(place, []).append(rule.get("expr", ()))
    found = []
    for chain in [entry["chain"] for entry in entries if "chain" in entry]:
        if chain.get("hook") != "forward" or chain["family"] not in ("ip", "inet"):
            continue
        place = (chain["family"], chain["table"], chain["name"])
        foreign = not re.fullmatch(r"mc-\w{4}-\w+", chain["table"])
        if foreign and _closes(chain.get("policy"), _followed(rules, place), tag):
            found.append(place)
    return found


def _followed(rules: dict[Place, list[Rule]], place: Place) -> Iterator[Rule]:
    """The chain's rules, with those of the chains it always goes through."""
    for rule in rules.get(place, ()):
        statements = {name: value for part in rule for name, value in part.items()}
        if "match" in statements or "xt" in statements:
            yield rule
        elif "return" in statements:
            return
        elif jump := statements.get("jump") or statements.get("goto"):
            yield from _followed(rules, (*place[:2], jump["target"]))  # nft allows no loops
        else:
            yield rule


def _closes(policy: str | None, rules: Iterable[Rule], tag: str) -> bool:
    open_ways: set[str] = set()
    for rule in rules:
        matches = [part["match"] for part in rule if "match" in part]
        always = not matches and not any("xt" in part for part in rule)
        if any("accept" in part for part in rule):
            if always:
                return False
            open_ways |= {_device_way(match, tag) for match in matches if len(matches) == 1}
        elif always and any("drop" in part or "reject" in part for part in rule):
            policy = "drop"
            break
    return policy == "drop" and not {"iifname", "oifname"} <= open_ways


def _device_way(match: dict[str, Any], tag: str) -> str:
    """iifname or oifname when it is matched with devices of ours."""
    way = match["left"].get("meta", {}).get("key", "") if isinstance(match["left"], dict) else ""
    return str(way) if str(match["right"]).startswith(f"mc-{tag}-") else ""


def forget(name: str | None, address: str) -> None:
    """No connection to or from `address` is tracked in the namespace (None: on the host)."""
    for side in ("--orig-src", "--orig-dst"):
        command = ["conntrack", "--delete", side, address]
        # ends with 1 when there was nothing to delete
        if name is None:
            shell.run(command, check=False)
        else:
            namespaces.run(name, command, check=False)


def _anew(family: str, tag: str) -> str:
    name = f"{family} {table(tag)}"
    return f"add table {name}\ndelete table {name}\n"
