"""Images: machine images and the kernels and ramdisks they boot with."""

from __future__ import annotations

from typing import Any

from minicloud import errors
from minicloud.api.ec2 import tags
from minicloud.api.ec2.actions import action
from minicloud.api.ec2.instances import HYPERVISOR, ROOT_DEVICE
from minicloud.cloud import images, shown
from minicloud.cloud import tags as tags_
from minicloud.context import Context


@action(filters=images.FILTERS)
def describe_images(
    ctx: Context,
    *,
    image_ids: list[str] | None = None,
    owners: list[str] | None = None,
    executable_users: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    page = images.find(
        ctx,
        ids=image_ids or [],
        owners=owners or [],
        executable_by=executable_users or [],
        filters=filters or {},
        limit=max_results,
        after=next_token,
    )
    tagged = tags_.of(ctx, [image.row.id for image in page.items])
    views = [
        {**_view(image), "Tags": tags.shown(tagged.get(image.row.id))} for image in page.items
    ]
    return {"Images": views, "NextToken": page.next}


@action
def register_image(
    ctx: Context,
    *,
    image_location: str | None = None,
    name: str | None = None,
    architecture: str = "x86_64",
    kernel_id: str | None = None,
    ramdisk_id: str | None = None,
    virtualization_type: str = "hvm",
    root_device_name: str = ROOT_DEVICE,
) -> dict[str, Any]:
    if image_location is None:
        raise errors.MissingParameter(name="ImageLocation")
    if virtualization_type != "hvm":
        raise errors.NotBuilt(what="A VirtualizationType other than hvm")
    if root_device_name != ROOT_DEVICE:
        raise errors.NotBuilt(what=f"A RootDeviceName other than {ROOT_DEVICE}")
    id = images.register_object(
        ctx,
        location=image_location,
        name=name or image_location,
        architecture=architecture,
        kernel=kernel_id,
        ramdisk=ramdisk_id,
    )
    return {"ImageId": id}


@action
def deregister_image(ctx: Context, *, image_id: str | None = None) -> dict[str, Any]:
    if image_id is None:
        raise errors.MissingParameter(name="ImageId")
    images.delete(ctx, image_id)
    return {"Return": True}


def _view(image: images.ImageView) -> dict[str, Any]:
    row = image.row
    return {
        "ImageId": image.ec2_id,
        "ImageLocation": row.location or f"{image.owner}/{row.name}",
        "Name": row.name,
        "State": shown.image_state(row.state),
        "StateReason": _reason(row),
        "OwnerId": image.owner,
        "CreationDate": f"{row.created_at:%Y-%m-%dT%H:%M:%S}.000Z",
        "Public": row.is_public,
        "ProductCodes": [],
        "Architecture": row.architecture,
        "ImageType": row.kind,
        "KernelId": image.kernel_ec2_id,
        "RamdiskId": image.ramdisk_ec2_id,
        "RootDeviceName": ROOT_DEVICE if row.kind == "machine" else None,
        "RootDeviceType": "instance-store",
        "VirtualizationType": "hvm",
        "Hypervisor": HYPERVISOR,
        "BlockDeviceMappings": [],
    }


def _reason(row: Any) -> dict[str, Any] | None:
    if row.reason is None:
        return None
    return {"Code": "Server.InternalError", "Message": row.reason}
