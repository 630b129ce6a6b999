"""Instances: run, look, start, stop, reboot, terminate, read the console."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minicloud import config, errors, ids
from minicloud.api.ec2 import tags
from minicloud.api.ec2.actions import action, asks_nothing
from minicloud.cloud import instances, shown
from minicloud.cloud import tags as tags_
from minicloud.context import Context
from minicloud.wiring import DOMAIN

if TYPE_CHECKING:
    from minicloud.cloud.views import FixedAddress
    from minicloud.db.models import Attachment, Instance

ROOT_DEVICE = "/dev/vda"
HYPERVISOR = "xen"  # what AWS says of its KVM hosts too: the model has no other word for them
DEFAULT_TYPE = "m1.small"  # AWS's own default


@action
def run_instances(
    ctx: Context,
    *,
    image_id: str | None = None,
    min_count: int,
    max_count: int,
    instance_type: str = DEFAULT_TYPE,
    kernel_id: str | None = None,
    ramdisk_id: str | None = None,
    key_name: str | None = None,
    security_groups: list[str] | None = None,
    security_group_ids: list[str] | None = None,
    user_data: str | None = None,
    placement: dict[str, Any] | None = None,
    client_token: str | None = None,
    instance_initiated_shutdown_behavior: str = "stop",
    tag_specifications: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    if not image_id:
        raise errors.MissingParameter(name="ImageId")
    if instance_initiated_shutdown_behavior != "stop":
        raise errors.NotBuilt(what="The InstanceInitiatedShutdownBehavior terminate")
    made = instances.run(
        ctx,
        image=image_id,
        count_min=min_count,
        count_max=max_count,
        flavor=instance_type or DEFAULT_TYPE,
        kernel=kernel_id or None,
        ramdisk=ramdisk_id or None,
        key_name=key_name or None,
        groups=security_groups or [],
        group_ids=security_group_ids or [],
        user_data=user_data or None,
        zone=_zone(placement or {}),
        token=client_token or None,
        tags=tags.specified(tag_specifications, "instance"),
    )
    return _reservations(ctx, made)[0]


def _zone(placement: dict[str, Any]) -> str | None:
    """The zone; NotBuilt for whatever else a placement may ask, except for the default tenancy."""
    for name, value in placement.items():
        usual = name == "AvailabilityZone" or (name, value) == ("Tenancy", "default")
        if not usual and not asks_nothing(value):
            raise errors.NotBuilt(what=f"The parameter Placement.{name} of RunInstances")
    return placement.get("AvailabilityZone") or None


@action(filters=instances.FILTERS)
def describe_instances(
    ctx: Context,
    *,
    instance_ids: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    page = instances.find(
        ctx, ids=instance_ids or [], filters=filters or {}, limit=max_results, after=next_token
    )
    return {"Reservations": _reservations(ctx, page.items), "NextToken": page.next}


@action
def start_instances(ctx: Context, *, instance_ids: list[str]) -> dict[str, Any]:
    changes = instances.start(ctx, instance_ids)
    return {"StartingInstances": [_change(change) for change in changes]}


@action
def stop_instances(
    ctx: Context, *, instance_ids: list[str], force: bool = False
) -> dict[str, Any]:
    """`Force` asks for what is always done: a guest that does not obey is forced."""
    changes = instances.stop(ctx, instance_ids)
    return {"StoppingInstances": [_change(change) for change in changes]}


@action
def reboot_instances(ctx: Context, *, instance_ids: list[str]) -> dict[str, Any]:
    instances.reboot(ctx, instance_ids)
    return {}


@action
def terminate_instances(
    ctx: Context,
    *,
    instance_ids: list[str],
    force: bool = False,
    skip_os_shutdown: bool = False,
) -> dict[str, Any]:
    """`Force` and `SkipOsShutdown` ask for what is always done: a guest is not asked."""
    changes = instances.terminate(ctx, instance_ids)
    return {"TerminatingInstances": [_change(change) for change in changes]}


@action
def get_console_output(ctx: Context, *, instance_id: str, latest: bool = False) -> dict[str, Any]:
    """`Latest` asks for what is always given: the console as it is now."""
    output, at = instances.console_output(ctx, instance_id)
    return {
        "InstanceId": instance_id,
        "Output": base64.b64encode(output).decode(),
        "Timestamp": at,
    }


# --- how an instance looks ------------------------------------------------------------------


def state_of(state: str, rest: str | None) -> dict[str, Any]:
    """An instance's state as EC2 shows it."""
    word = shown.instance_state(state, rest)
    return {"Code": shown.INSTANCE_CODES[word], "Name": word}


def _change(change: instances.Change) -> dict[str, Any]:
    return {
        "InstanceId": change.ec2_id,
        # AWS's order: libcloud takes the first name for the state now
        "CurrentState": state_of(*change.after),
        "PreviousState": state_of(*change.before),
    }


def _reservations(ctx: Context, views: Sequence[instances.InstanceView]) -> list[dict[str, Any]]:
    """What was asked by one RunInstances is one reservation, in the order given."""
    tagged = tags_.of(ctx, [view.row.id for view in views])
    found: dict[str, dict[str, Any]] = {}
    for view in views:
        reservation = found.get(view.row.reservation_id)
        if reservation is None:
            reservation = found[view.row.reservation_id] = {
                "ReservationId": shown.reservation_id(view.row),
                "OwnerId": view.row.project_id,
                "Groups": groups_of(view),
                "Instances": [],
            }
        reservation["Instances"].append(
            {**_view(view), "Tags": tags.shown(tagged.get(view.row.id))}
        )
    return list(found.values())


def _view(view: instances.InstanceView) -> dict[str, Any]:
    row = view.row
    address = view.addresses[0] if view.addresses else None
    return {
        "InstanceId": shown.instance_id(row),
        "ImageId": view.image_ec2_id,
        "State": state_of(row.state, row.rest),
        "StateReason": _reason(row),
        "StateTransitionReason": row.reason or "",
        "PrivateDnsName": _dns_name(address) if address else "",
        "PrivateIpAddress": address.address if address else None,
        "PublicDnsName": "",
        "KeyName": row.key_name,
        "AmiLaunchIndex": row.launch_index,
        "ProductCodes": [],
        "InstanceType": row.flavor,
        "LaunchTime": row.launched_at or row.created_at,
        "Placement": {
            "AvailabilityZone": row.zone or row.wanted_zone or config.CONF.zone,
            "GroupName": "",
            "Tenancy": "default",
        },
        "KernelId": view.kernel_ec2_id,
        "RamdiskId": view.ramdisk_ec2_id,
        "Monitoring": {"State": "disabled"},
        "Architecture": "x86_64",
        "RootDeviceType": "instance-store",
        "RootDeviceName": ROOT_DEVICE,
        "BlockDeviceMappings": [_disk(attachment) for attachment in view.attachments],
        "VirtualizationType": "hvm",
        "ClientToken": row.client_token or "",
        "SecurityGroups": groups_of(view),
        "NetworkInterfaces": [
            _interface(view, number, address) for number, address in enumerate(view.addresses)
        ],
        "SourceDestCheck": True,
        "Hypervisor": HYPERVISOR,
        "EbsOptimized": False,
        "CpuOptions": {"CoreCount": row.vcpus, "ThreadsPerCore": 1},
    }


def _reason(row: Instance) -> dict[str, Any] | None:
    """Why it is broken, or why it waits."""
    if row.state == "terminated":
        return {
            "Code": "Client.UserInitiatedShutdown",
            "Message": "Client.UserInitiatedShutdown: User initiated shutdown",
        }
    word = shown.instance_state(row.state, row.rest)
    if row.state == "error":
        return {"Code": "Server.InternalError", "Message": row.reason or "Server.InternalError"}
    if row.reason is None and word != "pending":
        return None
    return {"Code": word, "Message": row.reason or word}


def groups_of(view: instances.InstanceView) -> list[dict[str, Any]]:
    """The security groups it is in."""
    return [{"GroupId": ids.ec2("sg", id), "GroupName": name} for id, name in view.groups]


def _disk(attachment: Attachment) -> dict[str, Any]:
    return {
        "DeviceName": attachment.shown,
        "Ebs": {
            "VolumeId": ids.ec2("vol", attachment.volume_id),
            "Status": attachment.state,
            "AttachTime": attachment.attached_at or attachment.created_at,
            "DeleteOnTermination": False,
        },
    }


def _dns_name(address: FixedAddress) -> str:
    """The name by which the network's own DNS knows the guest."""
    return f"{address.hostname}.{DOMAIN}"


def _interface(view: instances.InstanceView, number: int, address: FixedAddress) -> dict[str, Any]:
    return {
        "NetworkInterfaceId": ids.ec2("eni", address.id),
        "MacAddress": address.mac,
        "PrivateIpAddress": address.address,
        "PrivateDnsName": _dns_name(address),
        "PrivateIpAddresses": [{"PrivateIpAddress": address.address, "Primary": True}],
        "Groups": groups_of(view),
        "OwnerId": view.row.project_id,
        "SourceDestCheck": True,
        "Status": "in-use",
        "InterfaceType": "interface",
        "Attachment": {"DeviceIndex": number, "Status": "attached", "DeleteOnTermination": True},
    }
