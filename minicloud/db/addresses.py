"""Bookings of fixed addresses."""

from __future__ import annotations

import collections
import secrets
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from netaddr import IPAddress, IPNetwork

from minicloud import config, ids
from minicloud.db import models, rows
from minicloud.db.session import Tx

FIRST_CHUNK = 1024  # addresses looked at in one statement; four times as many in the next


def leave(tx: Tx, instance_ids: Sequence[str]) -> list[str]:
    """Mark the live bookings of these instances as leaving; the networks they are in, sorted.

    `leaving` is the value the network's `wanted` gets when the caller raises it once, as it must
    in this transaction: the networks are locked here.
    """
    bookings = list(
        tx.scalars(
            sa.select(models.Address).where(
                models.Address.instance_id.in_(instance_ids), models.Address.leaving.is_(None)
            )
        )
    )
    by_network: dict[str, list[str]] = collections.defaultdict(list)
    for booking in bookings:
        by_network[booking.network_id].append(booking.id)
    for network_id in sorted(by_network):
        wanted = tx.scalars(
            sa.select(models.Network.wanted)
            .where(models.Network.id == network_id)
            .with_for_update()
        ).one()
        tx.changed(
            sa.update(models.Address)
            .where(models.Address.id.in_(by_network[network_id]))
            .values(leaving=wanted + 1)
        )
    return sorted(by_network)


def left(*conditions: Any) -> Any:
    """Select the bookings that nothing answers for and no packet filter names any more: the
    network's host has applied the network up to their `leaving`, and every host that knows a group
    they were in has applied that since; one that is fenced is not waited for."""
    address, network, gone = models.Address, models.Network, models.GroupLeaving
    served, filtered = sa.orm.aliased(models.Applied), sa.orm.aliased(models.Applied)
    serving = sa.and_(
        served.thing == address.network_id,
        served.host == sa.literal("network@") + network.host,
        served.applied >= address.leaving,
    )
    listed = (
        sa.select(gone.group_id)
        .join(filtered, filtered.thing == gone.group_id)
        .join(models.Host, models.Host.id == filtered.host)
        .where(
            gone.instance_id == address.instance_id,
            filtered.applied < gone.since,
            models.Host.fenced_at.is_(None),
        )
        .exists()
    )
    return (
        sa.select(address)
        .join(network, network.id == address.network_id)
        .join(served, serving)
        .where(address.leaving.is_not(None), sa.not_(listed), *conditions)
    )


def forget_left(tx: Tx, *, network_id: str | None = None, group_ids: Collection[str] = ()) -> None:
    """The addresses `left` in that network, or by instances that left one of these groups, are
    free again; and no leaving is remembered of an instance that has none any more, whoever freed
    it (the release before this one knows nothing of leavings).

    To be called after the caller has stored how far it has applied: of two that are the last to
    let go of an address, and store that at the same moment, the second sees the first.  Only who
    forgets a group in the moment in which an instance leaves it may not; then the sweep does it.
    """
    address, gone = models.Address, models.GroupLeaving
    among = (
        address.network_id == network_id
        if network_id is not None
        else address.instance_id.in_(
            sa.select(gone.instance_id).where(gone.group_id.in_(group_ids))
        )
    )
    leaving = sa.select(address.id).where(address.leaving.is_not(None), among)
    met = list(tx.scalars(leaving.order_by(address.id).with_for_update()))
    # looked at only now: whoever held one of them has committed
    found = list(tx.scalars(left(address.id.in_(met)))) if met else []
    if found:
        tx.changed(sa.delete(address).where(address.id.in_([row.id for row in found])))
    booked = sa.select(address.id).where(address.instance_id == gone.instance_id).exists()
    instances = set(tx.scalars(sa.select(gone.instance_id).where(sa.not_(booked))))
    if instances:
        tx.changed(sa.delete(gone).where(gone.instance_id.in_(instances)))


def free(tx: Tx, network: models.Network, most: int) -> list[int]:
    """Up to `most` free addresses of a network that is held, as numbers, in the order they are
    to be given: round-robin, from the one after the address given last.

    An address that is leaving is not free yet.  The number of statements does not depend on
    `most`, nor on the bookings: it grows with the logarithm of the network's size.
    """
    block = IPNetwork(network.cidr)
    first, last = block.first + 1, block.last - 1
    gateway = int(IPAddress(network.gateway))  # serves DHCP and DNS too
    at = network.last_number if first <= network.last_number <= last else last
    found: list[int] = []
    for low, high in (*_chunks(at + 1, last, 2 * most), *_chunks(first, at, 2 * most)):
        if len(found) >= most:
            break
        taken = _taken(tx, network.id, low, high) | {gateway}
        found += [number for number in range(low, high + 1) if number not in taken]
    return found[:most]


def _chunks(low: int, high: int, least: int) -> Iterator[tuple[int, int]]:
    """The numbers from `low` to `high` in pieces, each four times as large as the one before."""
    size = max(FIRST_CHUNK, least)
    while low <= high:
        yield low, min(high, low + size - 1)
        low, size = low + size, size * 4


def _taken(tx: Tx, network_id: str, low: int, high: int) -> set[int]:
    number = models.Address.number
    return set(
        tx.scalars(
            sa.select(number).where(
                models.Address.network_id == network_id, number.between(low, high)
            )
        )
    )


def hostname(number: int) -> str:
    """The name a guest is told and DNS knows: `ip-10-0-0-5`, as EC2 names them."""
    return "ip-" + str(IPAddress(number)).replace(".", "-")


def book(
    tx: Tx, network: models.Network, since: int, numbers: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Each instance (a key of `numbers`) has its address; the rows made, in this order.

    The network is held, the numbers are of `free`, `since` is the network's new `wanted`.  When
    a MAC or device name drawn is taken, the body runs again and draws another.
    """
    macs, taps = _distinct(len(numbers), _mac), _distinct(len(numbers), _tap)
    made = [
        {
            "id": ids.new(),
            "network_id": network.id,
            "number": number,
            "address": str(IPAddress(number)),
            "mac": mac,
            "tap": tap,
            "instance_id": instance_id,
            "hostname": hostname(number),
            "since": since,
        }
        for (instance_id, number), mac, tap in zip(numbers.items(), macs, taps, strict=True)
    ]
    rows.insert(tx, models.Address, made)
    return made


def _distinct(count: int, draw: Callable[[], str]) -> list[str]:
    drawn: set[str] = set()
    while len(drawn) < count:
        drawn.add(draw())
    return list(drawn)


def _mac() -> str:
    """A MAC of OpenStack's own locally administered range, 02:16:3e."""
    digits = secrets.token_hex(3)
    return f"02:16:3e:{digits[:2]}:{digits[2:4]}:{digits[4:]}"


def _tap() -> str:
    """A device name, 15 characters as the kernel allows.  No digits: the names of a network's
    own devices end in one (`wiring.artefact`), so none of them is ever drawn."""
    letters = (secrets.choice(string.ascii_lowercase) for _ in range(7))
    return f"mc-{config.CONF.tag}-{''.join(letters)}"
