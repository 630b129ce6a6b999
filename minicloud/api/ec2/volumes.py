"""Volumes and their attachments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from minicloud import errors, ids
from minicloud.api.ec2 import tags
from minicloud.api.ec2.actions import action
from minicloud.cloud import shown, volumes
from minicloud.cloud import tags as tags_
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Attachment


@action
def create_volume(
    ctx: Context,
    *,
    availability_zone: str | None = None,
    size: int | None = None,
    volume_type: str = "standard",
    client_token: str | None = None,
    tag_specifications: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    if not availability_zone:
        raise errors.MissingParameter(name="AvailabilityZone")
    if size is None:
        raise errors.MissingParameter(name="Size")
    view = volumes.create(
        ctx,
        size_gib=size,
        zone=availability_zone,
        kind=volume_type or "standard",
        token=client_token or None,
        tags=tags.specified(tag_specifications, "volume"),
    )
    return _views(ctx, [view])[0]


@action(filters=volumes.FILTERS)
def describe_volumes(
    ctx: Context,
    *,
    volume_ids: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    page = volumes.find(
        ctx, ids=volume_ids or [], filters=filters or {}, limit=max_results, after=next_token
    )
    return {"Volumes": _views(ctx, page.items), "NextToken": page.next}


@action
def attach_volume(
    ctx: Context, *, volume_id: str, instance_id: str, device: str
) -> dict[str, Any]:
    return _attachment(volumes.attach(ctx, volume_id, instance_id, device))


@action
def detach_volume(
    ctx: Context,
    *,
    volume_id: str,
    instance_id: str | None = None,
    device: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """`Force` asks for what is always done: the disk is taken out, mounted or not."""
    return _attachment(volumes.detach(ctx, volume_id, instance_id or None, device or None))


@action
def delete_volume(ctx: Context, *, volume_id: str) -> dict[str, Any]:
    volumes.delete(ctx, volume_id)
    return {}


def _views(ctx: Context, found: Sequence[volumes.VolumeView]) -> list[dict[str, Any]]:
    tagged = tags_.of(ctx, [view.row.id for view in found])
    return [{**_view(view), "Tags": tags.shown(tagged.get(view.row.id))} for view in found]


def _view(view: volumes.VolumeView) -> dict[str, Any]:
    row = view.row
    return {
        "VolumeId": shown.volume_id(row),
        "Size": row.size_gib,
        "SnapshotId": "",
        "AvailabilityZone": row.zone or row.wanted_zone,
        "State": shown.volume_state(row.state, bool(view.attachments)),
        "CreateTime": row.created_at,
        "Attachments": [_attachment(one) for one in view.attachments],
        "VolumeType": row.kind,
        "Encrypted": False,
        "MultiAttachEnabled": False,
    }


def _attachment(attachment: Attachment) -> dict[str, Any]:
    return {
        "VolumeId": ids.ec2("vol", attachment.volume_id),
        "InstanceId": ids.ec2("i", attachment.instance_id),
        "Device": attachment.shown,
        "State": attachment.state,
        "AttachTime": attachment.attached_at or attachment.created_at,
        "DeleteOnTermination": False,
    }
