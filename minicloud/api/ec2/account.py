"""What the project may have, in the words EC2 has for it."""

from __future__ import annotations

from typing import Any

from minicloud import errors
from minicloud.api.ec2.actions import action
from minicloud.cloud import groups, quotas
from minicloud.context import Context


@action
def describe_account_attributes(
    ctx: Context, *, attribute_names: list[str] | None = None
) -> dict[str, Any]:
    """An instance here is in no VPC: AWS's word for such a cloud is the platform "EC2"."""
    known: dict[str, list[str]] = {
        "supported-platforms": ["EC2"],
        "default-vpc": ["none"],
        "max-elastic-ips": ["0"],
        "vpc-max-elastic-ips": ["0"],
        "vpc-max-security-groups-per-interface": [str(groups.PER_INSTANCE)],
    }
    for limit in quotas.own(ctx):
        if limit.resource == "instances" and limit.limit != quotas.UNLIMITED:
            known["max-instances"] = [str(limit.limit)]
    for name in attribute_names or ():
        if name not in known:
            raise errors.InvalidValue(
                value=name[:80], name="AttributeName", reason=f"Expected one of {sorted(known)}."
            )
    return {"AccountAttributes": [_view(name, known[name]) for name in attribute_names or known]}


def _view(name: str, values: list[str]) -> dict[str, Any]:
    return {
        "AttributeName": name,
        "AttributeValues": [{"AttributeValue": value} for value in values],
    }
