"""FIXED_RANGE: whether it meets what the host already has, and one that does not."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from collections.abc import Iterable
from typing import Any

from launcher.report import Failure, Refused

DEFAULT = ipaddress.IPv4Network("10.0.0.0/24")
WITHIN = ipaddress.IPv4Network("10.0.0.0/8")
LABS = ipaddress.IPv4Network("198.18.0.0/15")  # kept for tests of networks (RFC 2544)

Met = dict[ipaddress.IPv4Network, str]  # what is taken, and how a person would name it


def choose(asked: str, taken: Met) -> str:
    """The range of a new cloud: `asked`, or the first free /24 from 10.0.0.0/24 on.

    Refused, naming what is met and a free range, when `asked` is given and meets something.
    """
    if not asked:
        return str(free(DEFAULT.prefixlen, taken))
    wanted = ipaddress.IPv4Network(asked)
    for network, what in taken.items():
        if wanted.overlaps(network):
            other = free(wanted.prefixlen, taken)
            raise Refused(
                f"FIXED_RANGE={asked} meets {what} of this host",
                f"FIXED_RANGE={other} is free",
            )
    return str(wanted)


def free(prefixlen: int, taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """The first range of that size in 10.0.0.0/8 (else in RFC 1918's others) that meets nothing.

    Steps over what it meets, so that a host with many routes costs no more than their number.
    """
    for within in (WITHIN, "172.16.0.0/12", "192.168.0.0/16"):
        found = _free_within(ipaddress.IPv4Network(within), prefixlen, list(taken))
        if found is not None:
            return found
    raise Refused("no private range is free on this host", "give a FIXED_RANGE")


def for_lab(taken: Iterable[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """A /24 for a lab's management network that meets nothing."""
    found = _free_within(LABS, 24, list(taken))
    if found is None:
        raise Refused(f"no /24 of {LABS} is free on this host", "end a lab")
    return found


def _free_within(
    within: ipaddress.IPv4Network, prefixlen: int, taken: list[ipaddress.IPv4Network]
) -> ipaddress.IPv4Network | None:
    size = 2 ** (32 - prefixlen)
    start, end = int(within.network_address), int(within.broadcast_address)
    while start + size - 1 <= end:
        candidate = ipaddress.IPv4Network((start, prefixlen))
        met = [int(network.broadcast_address) for network in taken if network.overlaps(candidate)]
        if not met:
            return candidate
        start = (max(met) // size + 1) * size
    return None


def of_this_host() -> Met:
    """Every IPv4 address and route of this network namespace, except default routes."""
    found: Met = {}
    for link in _ip("address", "show"):
        for address in link.get("addr_info", []):
            local = ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}")
            found.setdefault(local.network, f"the address {local} on {link['ifname']}")
    for route in _ip("route", "show", "table", "all"):
        if route["dst"] == "default":
            continue
        network = ipaddress.IPv4Network(route["dst"], strict=False)
        if network.prefixlen > 1:  # 0.0.0.0/1 and 128.0.0.0/1 are a VPN's default route
            where = f" on {route['dev']}" if "dev" in route else ""
            found.setdefault(network, f"the route {network}{where}")
    return found


def _ip(*words: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        ["ip", "-4", "-j", *words], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode != 0:
        raise Failure(f"ip {' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    listed: list[dict[str, Any]] = json.loads(done.stdout or "[]")
    return listed
