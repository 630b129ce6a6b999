"""How instances are: their health, and their attributes one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from minicloud import config, errors
from minicloud.api.ec2.actions import action
from minicloud.api.ec2.instances import ROOT_DEVICE, groups_of, state_of
from minicloud.cloud import instances, shown
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Instance

# health → what AWS's only check, "reachability", says then
_REACHABILITY = {"ok": "passed", "initializing": "initializing", "insufficient-data": None}


@action(filters=instances.HEALTH_FILTERS)
def describe_instance_status(
    ctx: Context,
    *,
    instance_ids: list[str] | None = None,
    include_all_instances: bool = False,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    page = instances.health(
        ctx,
        ids=instance_ids or [],
        filters=filters or {},
        every=include_all_instances,
        limit=max_results,
        after=next_token,
    )
    statuses = [_view(row, word) for row, word in page.items]
    return {"InstanceStatuses": statuses, "NextToken": page.next}


def _view(row: Instance, word: str) -> dict[str, Any]:
    return {
        "InstanceId": shown.instance_id(row),
        "AvailabilityZone": row.zone or row.wanted_zone or config.CONF.zone,
        "Events": [],
        "InstanceState": state_of(row.state, row.rest),
        "InstanceStatus": _summary(word),
        "SystemStatus": _summary(word),
    }


def _summary(word: str) -> dict[str, Any]:
    check = _REACHABILITY.get(word)
    details = [{"Name": "reachability", "Status": check}] if check else []
    return {"Status": word, "Details": details}


# --- attributes -----------------------------------------------------------------------------

# EC2's word for the attribute → the member that shows it, and its value; what nobody can set
# here has the value that AWS gives it by default
_ATTRIBUTES: Mapping[str, tuple[str, Callable[[instances.InstanceView], Any]]] = {
    "blockDeviceMapping": ("BlockDeviceMappings", lambda view: []),
    "disableApiStop": ("DisableApiStop", lambda view: {"Value": False}),
    "disableApiTermination": ("DisableApiTermination", lambda view: {"Value": False}),
    "ebsOptimized": ("EbsOptimized", lambda view: {"Value": False}),
    "enaSupport": ("EnaSupport", lambda view: {"Value": False}),
    "enclaveOptions": ("EnclaveOptions", lambda view: {"Enabled": False}),
    "groupSet": ("Groups", groups_of),
    "instanceInitiatedShutdownBehavior": (
        "InstanceInitiatedShutdownBehavior",
        lambda view: {"Value": "stop"},
    ),
    "instanceType": ("InstanceType", lambda view: {"Value": view.row.flavor}),
    "kernel": ("KernelId", lambda view: {"Value": view.kernel_ec2_id}),
    "productCodes": ("ProductCodes", lambda view: []),
    "ramdisk": ("RamdiskId", lambda view: {"Value": view.ramdisk_ec2_id}),
    "rootDeviceName": ("RootDeviceName", lambda view: {"Value": ROOT_DEVICE}),
    "sourceDestCheck": ("SourceDestCheck", lambda view: {"Value": True}),
    "sriovNetSupport": ("SriovNetSupport", lambda view: {}),
    "userData": ("UserData", lambda view: {"Value": view.row.user_data}),
}


@action
def describe_instance_attribute(
    ctx: Context, *, instance_id: str, attribute: str
) -> dict[str, Any]:
    if attribute not in _ATTRIBUTES:
        raise errors.NotBuilt(what=f"The attribute {attribute[:80]}")
    view = instances.get(ctx, instance_id)
    member, value = _ATTRIBUTES[attribute]
    return {"InstanceId": shown.instance_id(view.row), member: value(view)}
