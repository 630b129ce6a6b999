"""Ingress rules as a tenant words them: checked, and brought to the one form that is stored."""

from __future__ import annotations

import dataclasses
import re

from minicloud import addresses, errors
from minicloud.cloud import names
from minicloud.db import groups

PROTOCOLS = {"tcp": "tcp", "udp": "udp", "icmp": "icmp", "-1": "-1"}
NUMBERS = {"6": "tcp", "17": "udp", "1": "icmp"}  # IANA protocol numbers
CIDR = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}")
ANY = -1  # ICMP type or code


@dataclasses.dataclass(frozen=True)
class RuleSpec:
    """A rule as it is asked for, from one `cidr` or one `source_group` (an id or a name)."""

    protocol: str
    from_port: int | None = None
    to_port: int | None = None
    cidr: str | None = None
    source_group: str | None = None
    description: str | None = None


@dataclasses.dataclass(frozen=True)
class Ingress:
    """A rule in the form of `models.Rule`; `source` is a CIDR or the id of a group."""

    protocol: str
    from_port: int | None
    to_port: int | None
    cidr: str | None
    source_group_id: str | None
    description: str | None

    @property
    def same(self) -> str:
        source = self.cidr or self.source_group_id or ""
        return groups.same(self.protocol, self.from_port, self.to_port, source)

    @property
    def words(self) -> str:
        """The rule for a reader, as AWS words it in its errors."""
        ports = (
            ""
            if self.from_port is None
            else f", from port: {self.from_port}, to port: {self.to_port}"
        )
        peer = self.cidr or self.source_group_id
        return f"peer: {peer}, {self.protocol.upper()}{ports}, ALLOW"


def checked(spec: RuleSpec, source_group_id: str | None) -> Ingress:
    """The rule in its stored form; `source_group_id` is what `spec.source_group` stands for.

    InvalidValue for a protocol, port, range or description that is none; RuleMalformed without
    exactly one source.
    """
    if (spec.cidr is None) == (spec.source_group is None):
        raise errors.RuleMalformed(
            reason="A rule has exactly one source: a range of addresses or a security group"
        )
    protocol = PROTOCOLS.get(spec.protocol.lower()) or NUMBERS.get(spec.protocol)
    if protocol is None:
        raise errors.InvalidValue(
            value=ascii(spec.protocol[:20])[1:-1],
            name="IpProtocol",
            reason="It is tcp, udp, icmp, 6, 17, 1 or -1.",
        )
    if spec.description:
        names.check(spec.description, "Description", names.GROUP)
    from_port, to_port = _ports(protocol, spec.from_port, spec.to_port)
    cidr = None if spec.cidr is None else _network(spec.cidr)
    return Ingress(protocol, from_port, to_port, cidr, source_group_id, spec.description or None)


def _ports(
    protocol: str, from_port: int | None, to_port: int | None
) -> tuple[int | None, int | None]:
    """All protocols have no ports; ICMP's are type and code (RFC 792), any when not given."""
    if protocol == "-1":
        return None, None
    if protocol == "icmp":
        type = ANY if from_port is None else from_port
        code = ANY if to_port is None else to_port
        if not (ANY <= type <= 255 and ANY <= code <= 255) or (type == ANY and code != ANY):
            raise _port_error(f"{type}-{code}", "ICMP type and code are from 0 to 255, or -1.")
        return type, code
    if from_port is None or to_port is None:
        raise _port_error("", "tcp and udp need both FromPort and ToPort.")
    if not 0 <= from_port <= to_port <= 65535:
        raise _port_error(f"{from_port}-{to_port}", "Ports go up from 0 to 65535.")
    return from_port, to_port


def _port_error(value: str, reason: str) -> errors.InvalidValue:
    return errors.InvalidValue(value=value, name="portRange", reason=reason)


def _network(cidr: str) -> str:
    """The range in canonical form, as AWS stores it: 10.0.0.5/8 becomes 10.0.0.0/8."""
    try:
        if not CIDR.fullmatch(cidr):
            raise ValueError("not of the form a.b.c.d/n")
        return str(addresses.block(cidr).cidr)
    except ValueError as error:
        raise errors.InvalidValue(
            value=ascii(cidr[:60])[1:-1], name="CidrIp", reason=f"The range is malformed: {error}."
        ) from error
