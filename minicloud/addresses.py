"""IPv4 addresses and ranges out of texts that nobody has checked.

netaddr reads prefix lengths like Python's `int`, so `/ 24`, `/+24` and `/2_4` are `/24` to it, and
its errors are no ValueError: texts from elsewhere come in here, and only digits and dots pass.
"""

from __future__ import annotations

import re

from netaddr import AddrFormatError, IPAddress, IPNetwork

_ADDRESS = re.compile(r"[0-9.]{7,15}")
_RANGE = re.compile(rf"{_ADDRESS.pattern}(/[0-9.]{{1,15}})?")


def address(text: str) -> IPAddress:
    """The address `a.b.c.d`; ValueError."""
    if not _ADDRESS.fullmatch(text):
        raise ValueError("an IPv4 address is of the form a.b.c.d")
    try:
        return IPAddress(text, 4)
    except AddrFormatError as error:
        raise ValueError("an IPv4 address has four numbers from 0 to 255") from error


def block(text: str) -> IPNetwork:
    """The range `a.b.c.d/n`, `n` a length or a mask, 32 when left out; ValueError.

    Of `10.0.0.5/8` the `ip` is 10.0.0.5 and the `cidr` 10.0.0.0/8.
    """
    if not _RANGE.fullmatch(text):
        raise ValueError("an IPv4 range is of the form a.b.c.d/n")
    try:
        return IPNetwork(text, 4)
    except AddrFormatError as error:
        raise ValueError("it is no range of IPv4 addresses") from error


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Whether two ranges have an address in common; then one of them holds the other."""
    return one in other or other in one
