"""Security groups, as Compute had them before there was a network service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from minicloud import errors
from minicloud.api.openstack import wire
from minicloud.api.openstack.compute.service import route
from minicloud.cloud import groups, lookup
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.cloud.groups import GroupView
    from minicloud.db.models import Rule

_PORT = {"type": ["integer", "string", "null"], "pattern": "^-?[0-9]{1,5}$"}
CREATE = wire.wrapped(
    "security_group",
    wire.obj({"name": wire.NAME, "description": {"type": ["string", "null"]}}, ("name",)),
)
CREATE_RULE = wire.wrapped(
    "security_group_rule",
    wire.obj(
        {
            "parent_group_id": wire.NAME,
            "ip_protocol": {"type": ["string", "null"]},
            "from_port": _PORT,
            "to_port": _PORT,
            "cidr": {"type": ["string", "null"]},
            "group_id": {"type": ["string", "null"]},
        },
        ("parent_group_id",),
    ),
)


@route("GET", "/os-security-groups")
def list_groups(ctx: Context, req: wire.Request) -> dict[str, Any]:
    found = groups.find(ctx).items
    names = {view.row.id: view.row.name for view in found}
    return {"security_groups": [_view(view, names) for view in found]}


@route("POST", "/os-security-groups", schema=CREATE)
def create_group(ctx: Context, req: wire.Request) -> dict[str, Any]:
    given = req.body["security_group"]
    row = groups.create(ctx, given["name"], given.get("description") or given["name"])
    return {"security_group": _view(groups.GroupView(row, []), {})}


@route("GET", "/os-security-groups/{group_id}")
def show_group(ctx: Context, req: wire.Request, group_id: str) -> dict[str, Any]:
    [view] = groups.find(ctx, ids=[_id(group_id)]).items
    sources = {rule.source_group_id for rule in view.rules if rule.source_group_id}
    named = groups.find(ctx, ids=sorted(sources)).items if sources else []
    return {"security_group": _view(view, {one.row.id: one.row.name for one in named})}


@route("DELETE", "/os-security-groups/{group_id}", status=202)
def delete_group(ctx: Context, req: wire.Request, group_id: str) -> None:
    groups.delete(ctx, id=_id(group_id))


@route("POST", "/os-security-group-rules", schema=CREATE_RULE)
def create_rule(ctx: Context, req: wire.Request) -> dict[str, Any]:
    given = req.body["security_group_rule"]
    parent = _id(given["parent_group_id"])
    source = given.get("group_id")
    spec = groups.RuleSpec(
        protocol=(given.get("ip_protocol") or "-1").lower(),
        from_port=_port(given.get("from_port")),
        to_port=_port(given.get("to_port")),
        cidr=None if source else given.get("cidr") or "0.0.0.0/0",
        source_group=_id(source) if source else None,
    )
    [rule] = groups.authorize(ctx, id=parent, rules=[spec])
    named = groups.find(ctx, ids=[source]).items if source else []
    names = {one.row.id: one.row.name for one in named}
    return {"security_group_rule": _rule(rule, names, ctx.project_id)}


@route("DELETE", "/os-security-group-rules/{rule_id}", status=202)
def delete_rule(ctx: Context, req: wire.Request, rule_id: str) -> None:
    for view in groups.find(ctx).items:
        if any(rule.id == rule_id for rule in view.rules):
            groups.revoke(ctx, id=view.row.id, rule_ids=[rule_id])
            return
    raise errors.RuleNotFound


def _id(group_id: str) -> str:
    if not lookup.UUID.fullmatch(group_id):
        raise errors.GroupNotFound(id=group_id)
    return group_id


def _port(given: Any) -> int | None:
    return None if given is None else int(given)


def _view(view: GroupView, names: Mapping[str, str]) -> dict[str, Any]:
    row = view.row
    return {
        "id": row.id,
        "name": row.name,
        "description": row.description,
        "tenant_id": row.project_id,
        "rules": [_rule(rule, names, row.project_id) for rule in view.rules],
    }


def _rule(rule: Rule, names: Mapping[str, str], project_id: str) -> dict[str, Any]:
    source = rule.source_group_id
    return {
        "id": rule.id,
        "parent_group_id": rule.group_id,
        "ip_protocol": None if rule.protocol == "-1" else rule.protocol,
        "from_port": rule.from_port,
        "to_port": rule.to_port,
        "ip_range": {"cidr": rule.cidr} if rule.cidr else {},
        "group": {"tenant_id": project_id, "name": names.get(source, "")} if source else {},
    }
