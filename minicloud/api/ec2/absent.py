"""Things that this cloud has none of, but that clients look for before they do anything: the true
answer is an empty list, and "not found" to whoever names one."""

from __future__ import annotations

from typing import Any

from minicloud import errors
from minicloud.api.ec2.actions import action
from minicloud.api.ec2.filters import Names
from minicloud.context import Context

_ADDRESS_FILTERS = Names(
    {
        "allocation-id",
        "association-id",
        "domain",
        "instance-id",
        "network-interface-id",
        "private-ip-address",
        "public-ip",
        "tag-key",
        "tag-value",
    }
)
_VPC_FILTERS = Names(
    {"cidr", "is-default", "isDefault", "owner-id", "state", "tag-key", "tag-value", "vpc-id"}
)
_SNAPSHOT_FILTERS = Names(
    {
        "description",
        "owner-alias",
        "owner-id",
        "snapshot-id",
        "status",
        "tag-key",
        "tag-value",
        "volume-id",
    }
)
_SUBNET_FILTERS = Names(
    {
        "availability-zone",
        "cidr-block",
        "default-for-az",
        "owner-id",
        "state",
        "subnet-id",
        "tag-key",
        "tag-value",
        "vpc-id",
    }
)


@action(filters=_ADDRESS_FILTERS)
def describe_addresses(
    ctx: Context,
    *,
    public_ips: list[str] | None = None,
    allocation_ids: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    _refuse(public_ips, errors.ElasticAddressNotFound)
    _refuse(allocation_ids, errors.AllocationNotFound)
    return {"Addresses": []}


@action(filters=_SNAPSHOT_FILTERS)
def describe_snapshots(
    ctx: Context,
    *,
    snapshot_ids: list[str] | None = None,
    owner_ids: list[str] | None = None,
    restorable_by_user_ids: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    _refuse(snapshot_ids, errors.SnapshotNotFound)
    return {"Snapshots": []}


@action(filters=_VPC_FILTERS)
def describe_vpcs(
    ctx: Context,
    *,
    vpc_ids: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    _refuse(vpc_ids, errors.VpcNotFound)
    return {"Vpcs": []}


@action(filters=_SUBNET_FILTERS)
def describe_subnets(
    ctx: Context,
    *,
    subnet_ids: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    _refuse(subnet_ids, errors.SubnetNotFound)
    return {"Subnets": []}


def _refuse(named: list[str] | None, missing: type[errors.NotFound]) -> None:
    if named:
        raise missing(id=", ".join(one[:80] for one in named[:10]))
