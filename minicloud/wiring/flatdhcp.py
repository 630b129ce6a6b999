"""The kind `flatdhcp`: one bridge on the host, addresses given by DHCP from the network's host."""

from __future__ import annotations

from minicloud import config
from minicloud.db import addresses
from minicloud.db.models import Network
from minicloud.db.session import Tx
from minicloud.wiring import Bridge, artefact


def join(tx: Tx, network: Network, most: int) -> list[int]:
    """Round-robin, so that an address rests as long as it can before it is somebody else's."""
    return addresses.free(tx, network, most)


def links(network: Network) -> tuple[Bridge, ...]:
    return (Bridge(artefact(config.CONF.tag, "n", network.number), network.mtu),)
