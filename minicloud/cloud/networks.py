"""Networks: creating them, and which one a project's instances join."""

from __future__ import annotations

import re
from collections.abc import Sequence

import sqlalchemy as sa
from netaddr import IPNetwork

from minicloud import addresses, errors, ids
from minicloud.auth import policy
from minicloud.cloud import names, projects
from minicloud.context import Context
from minicloud.db import models, rows
from minicloud.db.session import Tx, done, hold, once, reading, transaction
from minicloud.wiring import KINDS

LARGEST, SMALLEST = 16, 29  # prefix lengths: more addresses nobody lists, fewer are of no use
MTU = (576, 9000)  # IPv4's least (RFC 791), and jumbo frames
HOST = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

# never a guest's: this network, loopback, link-local (metadata), multicast and reserved
FORBIDDEN = [
    IPNetwork(block) for block in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
]


def create(
    ctx: Context,
    *,
    name: str,
    cidr: str,
    kind: str = "flatdhcp",
    dns: str = "",
    mtu: int = 1500,
    project: str | None = None,
    host: str | None = None,
) -> models.Network:
    """A network is there, `project`'s alone or shared; its first address is its gateway's.

    `dns` are IPv4 addresses, comma between, "" for none outside; `host` names the network daemon
    that serves it, None for the first that comes.  InvalidValue; NameTaken; InUse when its
    addresses meet those of another network the same project or host has.
    """
    policy.require(ctx, "networks")
    names.check(name, "name", names.ACCOUNT)
    block = _block(cidr)
    if kind not in KINDS:
        raise errors.InvalidValue(
            value=kind[:40], name="kind", reason=f"It is one of {', '.join(KINDS)}."
        )
    if not MTU[0] <= mtu <= MTU[1]:
        raise errors.InvalidValue(
            value=mtu, name="mtu", reason=f"It is from {MTU[0]} to {MTU[1]}."
        )
    if host is not None and not HOST.fullmatch(host):
        raise errors.InvalidValue(value=host[:40], name="host", reason="It is no host's name.")
    facts = {
        "name": name,
        "kind": kind,
        "cidr": str(block),
        "gateway": str(block[1]),
        "mtu": mtu,
        "dns": _dns(dns),
        "host": host,
    }
    return _create(ctx, facts, project)


def _block(cidr: str) -> IPNetwork:
    try:
        block = addresses.block(cidr)
        if block.ip != block.network:
            raise ValueError(f"the range of {block.ip} begins at {block.network}")
    except ValueError as error:
        raise errors.InvalidValue(value=cidr[:40], name="cidr", reason=f"{error}.") from error
    if not LARGEST <= block.prefixlen <= SMALLEST:
        raise errors.InvalidValue(
            value=cidr, name="cidr", reason=f"A network is from /{LARGEST} to /{SMALLEST}."
        )
    for forbidden in FORBIDDEN:
        if addresses.overlap(block, forbidden):
            raise errors.InvalidValue(
                value=cidr, name="cidr", reason=f"{forbidden} cannot be given to guests."
            )
    return block


def _dns(given: str) -> str:
    try:
        found = [str(addresses.address(one.strip())) for one in given.split(",") if one.strip()]
    except ValueError as error:
        raise errors.InvalidValue(value=given[:40], name="dns", reason=f"{error}.") from error
    if len(found) > 4:
        raise errors.InvalidValue(value=given[:40], name="dns", reason="At most 4 addresses.")
    return ",".join(found)


@transaction
def _create(tx: Tx, ctx: Context, facts: dict[str, object], project: str | None) -> models.Network:
    known = once(tx, ctx, "network create", None, [facts, project])
    if known is None:
        project_id = projects.held(tx, project).id if project else None
        others = list(tx.scalars(sa.select(models.Network)))
        row = {"id": ids.new(), "number": _number(others), "project_id": project_id, **facts}
        _refuse_overlap(models.Network(**row), others)
        # the smallest number is unique: of two at once, one runs again and sees the other
        rows.insert(tx, models.Network, [row])
        known = [str(row["id"])]
        done(tx, ctx, known)
    return tx.scalars(sa.select(models.Network).where(models.Network.id == known[0])).one()


def _number(others: Sequence[models.Network]) -> int:
    taken = {network.number for network in others}
    return next(number for number in range(1, len(taken) + 2) if number not in taken)


def _refuse_overlap(new: models.Network, others: Sequence[models.Network]) -> None:
    for other in others:
        if other.name == new.name:
            raise errors.NameTaken(kind="network", name=new.name)
        # a shared network is everybody's; networks of two projects may use the same addresses
        apart = new.project_id and other.project_id and new.project_id != other.project_id
        if not apart and addresses.overlap(IPNetwork(new.cidr), IPNetwork(other.cidr)):
            raise errors.InUse(
                kind="address range", name=new.cidr, reason=f"{other.name} has {other.cidr}"
            )


@reading
def find(tx: Tx, ctx: Context) -> list[models.Network]:
    """All networks, by number."""
    policy.require(ctx, "networks")
    return list(tx.scalars(sa.select(models.Network).order_by(models.Network.number)))


def joined(tx: Tx, ctx: Context) -> models.Network:
    """The network new instances of the asker's project join, held: the project's own, else the
    shared one; one that a host serves before one that waits for its host.  NoNetwork."""
    network = models.Network
    statement = (
        sa.select(network.id)
        .where(sa.or_(network.project_id == ctx.project_id, network.project_id.is_(None)))
        .order_by(
            sa.case((network.project_id.is_(None), 1), else_=0),
            sa.case((network.host.is_(None), 1), else_=0),
            network.number,
        )
        .limit(1)
    )
    held = hold(tx, network, list(tx.scalars(statement)))
    if not held:
        raise errors.NoNetwork(project=ctx.project)
    return held[0]
