"""What a network needs on a host, by kind: deciding and applying both read it, and agree.

A kind is a module of that name here, with the two functions of `Kind`; `links.py` makes so what it
says.  Names of what we make on a host end in the network's number and stay below 16 bytes, the
kernel's limit for a device (IFNAMSIZ).
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
from typing import TYPE_CHECKING, Protocol, cast

from minicloud import errors

if TYPE_CHECKING:
    from minicloud.db.models import Network
    from minicloud.db.session import Tx

DOMAIN = "novalocal"  # the DNS domain of every guest, as in 2011
KINDS = sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"links"})


@dataclasses.dataclass(frozen=True)
class Bridge:
    """A bridge without an address: the host forwards its frames and takes no part in them."""

    name: str
    mtu: int  # bytes


class Kind(Protocol):
    def join(self, tx: Tx, network: Network, most: int) -> list[int]:
        """Up to `most` free addresses (IPv4, as numbers) of the network, which is held, in the
        order in which new guests get them."""
        ...

    def links(self, network: Network) -> tuple[Bridge, ...]:
        """What a host must have before a guest of the network can be plugged: into the first."""
        ...


def kind(name: str) -> Kind:
    """The kind of that name; Final when this release has none."""
    if name not in KINDS:
        raise errors.Final(reason=f"there are no networks of the kind {name} here")
    return cast(Kind, importlib.import_module(f"{__name__}.{name}"))


def links_of(network: Network) -> tuple[Bridge, ...]:
    """What its kind wants a host to have, the bridge of its guests first."""
    return kind(network.kind).links(network)


def artefact(tag: str, kind: str, number: int) -> str:
    """`mc-TAG-KINDNUMBER`: kind n is a bridge, g and p the veths of a gateway, net a namespace."""
    return f"mc-{tag}-{kind}{number}"


def number_of(tag: str, name: str) -> int | None:
    """The network's number in a name of `artefact`, None for any other name."""
    match = re.fullmatch(rf"mc-{re.escape(tag)}-(?:n|g|p|net)([1-9][0-9]{{0,5}})", name)
    return int(match[1]) if match else None
