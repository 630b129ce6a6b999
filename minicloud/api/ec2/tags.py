"""Tags, and the `TagSpecification` of the actions that make things."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from minicloud import errors
from minicloud.api.ec2.actions import action
from minicloud.cloud import tags as tags_
from minicloud.context import Context


@action
def create_tags(
    ctx: Context,
    *,
    resources: list[str],
    tags: list[dict[str, Any]],
) -> dict[str, Any]:
    if not tags:
        raise errors.MissingParameter(name="Tag")
    tags_.create(ctx, _resources(resources), _pairs(tags))
    return {}


@action
def delete_tags(
    ctx: Context,
    *,
    resources: list[str],
    tags: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    named = [(tag.get("Key") or "", tag.get("Value")) for tag in tags or ()]
    tags_.delete(ctx, _resources(resources), named)
    return {}


@action(filters=tags_.FILTERS)
def describe_tags(
    ctx: Context,
    *,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    page = tags_.find(ctx, filters=filters or {}, limit=max_results, after=next_token)
    return {"Tags": [_view(tag) for tag in page.items], "NextToken": page.next}


def _view(tag: tags_.TagView) -> dict[str, Any]:
    return {
        "ResourceId": tag.resource_ec2_id,
        "ResourceType": tag.row.kind,
        "Key": tag.row.name,
        "Value": tag.row.value,
    }


def _resources(given: list[str]) -> list[str]:
    if not given:
        raise errors.MissingParameter(name="ResourceId")
    return given


def _pairs(given: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Name → value of `Tag.N`; a tag without a value has an empty one."""
    found: dict[str, str] = {}
    for tag in given:
        name = tag.get("Key") or ""
        if name in found:
            raise errors.InvalidValue(value=name[:80], name="Tag.Key", reason="It is there twice.")
        found[name] = tag.get("Value") or ""
    return found


# --- for the other nouns --------------------------------------------------------------------


def specified(given: Sequence[dict[str, Any]] | None, kind: str) -> dict[str, str]:
    """The tags that a new thing of this kind is to have."""
    wanted: list[dict[str, Any]] = []
    for specification in given or ():
        if specification.get("ResourceType") != kind:
            raise errors.InvalidValue(
                value=str(specification.get("ResourceType"))[:80],
                name="TagSpecification.ResourceType",
                reason=f"Here it is {kind}.",
            )
        wanted += specification.get("Tags") or []
    return _pairs(wanted)


def shown(tags: Mapping[str, str] | None) -> list[dict[str, Any]]:
    """A thing's TagSet."""
    return [{"Key": name, "Value": value} for name, value in (tags or {}).items()]
