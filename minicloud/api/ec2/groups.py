"""Security groups and their ingress rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from minicloud import errors, ids
from minicloud.api.ec2 import tags
from minicloud.api.ec2.actions import action
from minicloud.cloud import groups
from minicloud.cloud import tags as tags_
from minicloud.cloud.groups import RuleSpec
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Rule

ALL = "-1"  # every protocol


@action
def create_security_group(
    ctx: Context,
    *,
    group_name: str,
    description: str,
    tag_specifications: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    wanted = tags.specified(tag_specifications, "security-group")
    group = groups.create(ctx, group_name, description, tags=wanted)
    return {"GroupId": ids.ec2("sg", group.id), "Tags": tags.shown(wanted)}


@action(filters=groups.FILTERS)
def describe_security_groups(
    ctx: Context,
    *,
    group_ids: list[str] | None = None,
    group_names: list[str] | None = None,
    filters: dict[str, list[str]] | None = None,
    max_results: int | None = None,
    next_token: str | None = None,
) -> dict[str, Any]:
    page = groups.find(
        ctx,
        ids=group_ids or [],
        names=group_names or [],
        filters=filters or {},
        limit=max_results,
        after=next_token,
    )
    tagged = tags_.of(ctx, [group.row.id for group in page.items])
    views = [
        {**_view(group), "Tags": tags.shown(tagged.get(group.row.id))} for group in page.items
    ]
    return {"SecurityGroups": views, "NextToken": page.next}


@action
def delete_security_group(
    ctx: Context,
    *,
    group_id: str | None = None,
    group_name: str | None = None,
) -> dict[str, Any]:
    groups.delete(ctx, **_which(group_id, group_name))
    return {"Return": True}


@action
def authorize_security_group_ingress(
    ctx: Context,
    *,
    group_id: str | None = None,
    group_name: str | None = None,
    ip_permissions: list[dict[str, Any]] | None = None,
    ip_protocol: str | None = None,
    from_port: int | None = None,
    to_port: int | None = None,
    cidr_ip: str | None = None,
    source_security_group_name: str | None = None,
    source_security_group_owner_id: str | None = None,
) -> dict[str, Any]:
    rules = _rules(
        ctx,
        ip_permissions,
        _single(ip_protocol, from_port, to_port, cidr_ip, source_security_group_name),
        source_security_group_owner_id,
    )
    if not rules:
        raise errors.MissingParameter(name="IpPermissions")
    made = groups.authorize(ctx, **_which(group_id, group_name), rules=rules)
    return {"Return": True, "SecurityGroupRules": [_rule(ctx, rule) for rule in made]}


@action
def revoke_security_group_ingress(
    ctx: Context,
    *,
    group_id: str | None = None,
    group_name: str | None = None,
    security_group_rule_ids: list[str] | None = None,
    ip_permissions: list[dict[str, Any]] | None = None,
    ip_protocol: str | None = None,
    from_port: int | None = None,
    to_port: int | None = None,
    cidr_ip: str | None = None,
    source_security_group_name: str | None = None,
    source_security_group_owner_id: str | None = None,
) -> dict[str, Any]:
    rules = _rules(
        ctx,
        ip_permissions,
        _single(ip_protocol, from_port, to_port, cidr_ip, source_security_group_name),
        source_security_group_owner_id,
    )
    if not rules and not security_group_rule_ids:
        raise errors.MissingParameter(name="IpPermissions")
    gone = groups.revoke(
        ctx,
        **_which(group_id, group_name),
        rules=rules,
        rule_ids=security_group_rule_ids or [],
    )
    return {"Return": True, "RevokedSecurityGroupRules": [_revoked(rule) for rule in gone]}


# --- what a request asks --------------------------------------------------------------------


def _which(group_id: str | None, group_name: str | None) -> dict[str, str | None]:
    if not group_id and not group_name:
        raise errors.MissingParameter(name="GroupId")
    if group_id and group_name:
        raise errors.InvalidCombination(
            reason="The parameters GroupId and GroupName cannot be used together"
        )
    return {"id": group_id or None, "name": group_name or None}


def _single(
    protocol: str | None,
    from_port: int | None,
    to_port: int | None,
    cidr: str | None,
    source: str | None,
) -> dict[str, Any] | None:
    """The one permission of the older form, which has its members at the top of the request."""
    if protocol is None and cidr is None and source is None:
        return None
    if source is None and protocol is None:
        raise errors.MissingParameter(name="IpProtocol")
    permission: dict[str, Any] = {"IpProtocol": protocol or ALL}
    if from_port is not None:
        permission["FromPort"] = from_port
    if to_port is not None:
        permission["ToPort"] = to_port
    if cidr is not None:
        permission["IpRanges"] = [{"CidrIp": cidr}]
    if source is not None:
        permission["UserIdGroupPairs"] = [{"GroupName": source}]
    return permission


def _rules(
    ctx: Context,
    permissions: list[dict[str, Any]] | None,
    single: dict[str, Any] | None,
    source_owner: str | None,
) -> list[RuleSpec]:
    if permissions and single:
        raise errors.InvalidCombination(
            reason="The parameter IpPermissions cannot be used with IpProtocol, CidrIp or"
            " SourceSecurityGroupName"
        )
    if source_owner and source_owner != ctx.project_id:
        raise errors.GroupNotFound(id=f"{source_owner[:80]}/…")
    asked = [*(permissions or ()), *([single] if single else ())]
    return [rule for permission in asked for rule in _permission(ctx, permission)]


def _permission(ctx: Context, permission: dict[str, Any]) -> Iterable[RuleSpec]:
    """A rule for each source that the permission names."""
    for name in ("Ipv6Ranges", "PrefixListIds"):
        if permission.get(name):
            raise errors.NotBuilt(what=f"The parameter IpPermissions.{name}")
    if not permission.get("IpProtocol"):
        raise errors.MissingParameter(name="IpPermissions.IpProtocol")
    ranges = permission.get("IpRanges") or []
    pairs = permission.get("UserIdGroupPairs") or []
    if not ranges and not pairs:  # an open door must be asked for by its name, 0.0.0.0/0
        raise errors.MissingParameter(name="IpPermissions.IpRanges")
    common = {
        "protocol": permission["IpProtocol"],
        "from_port": permission.get("FromPort"),
        "to_port": permission.get("ToPort"),
    }
    for source in ranges:
        cidr, description = _cidr(source), source.get("Description")
        yield RuleSpec(**common, cidr=cidr, source_group=None, description=description)
    for source in pairs:
        group, description = _source_group(ctx, source), source.get("Description")
        yield RuleSpec(**common, cidr=None, source_group=group, description=description)


def _cidr(source: dict[str, Any]) -> str:
    if not source.get("CidrIp"):
        raise errors.MissingParameter(name="IpPermissions.IpRanges.CidrIp")
    return str(source["CidrIp"])


def _source_group(ctx: Context, source: dict[str, Any]) -> str:
    named = source.get("GroupId") or source.get("GroupName")
    if not named:
        raise errors.MissingParameter(name="IpPermissions.Groups.GroupId")
    if source.get("UserId") not in (None, "", ctx.project_id):
        raise errors.GroupNotFound(id=f"{source['UserId'][:80]}/{named[:255]}")
    return str(named)


# --- how a group looks ----------------------------------------------------------------------

_OPEN = {  # what leaves a guest is not filtered by groups
    "IpProtocol": ALL,
    "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
    "Ipv6Ranges": [],
    "PrefixListIds": [],
    "UserIdGroupPairs": [],
}


def _view(group: groups.GroupView) -> dict[str, Any]:
    row = group.row
    return {
        "GroupId": ids.ec2("sg", row.id),
        "GroupName": row.name,
        "Description": row.description,
        "OwnerId": row.project_id,
        "IpPermissions": _permissions(row.project_id, group.rules),
        "IpPermissionsEgress": [_OPEN],
    }


def _permissions(project_id: str, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Rules of one protocol and one range of ports are one permission."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for rule in rules:
        key = (rule.protocol, rule.from_port, rule.to_port)
        permission = found.setdefault(
            key,
            {
                "IpProtocol": rule.protocol,
                "FromPort": rule.from_port,
                "ToPort": rule.to_port,
                "IpRanges": [],
                "Ipv6Ranges": [],
                "PrefixListIds": [],
                "UserIdGroupPairs": [],
            },
        )
        if rule.source_group_id is None:
            source = {"CidrIp": rule.cidr, "Description": rule.description}
            permission["IpRanges"].append(source)
        else:
            group_id = ids.ec2("sg", rule.source_group_id)
            pair = {"GroupId": group_id, "UserId": project_id, "Description": rule.description}
            permission["UserIdGroupPairs"].append(pair)
    return list(found.values())


def _revoked(rule: Rule) -> dict[str, Any]:
    source = rule.source_group_id
    return {**_common(rule), "ReferencedGroupId": ids.ec2("sg", source) if source else None}


def _rule(ctx: Context, rule: Rule) -> dict[str, Any]:
    source = rule.source_group_id
    group = {"GroupId": ids.ec2("sg", source), "UserId": ctx.project_id} if source else None
    return {**_common(rule), "GroupOwnerId": ctx.project_id, "ReferencedGroupInfo": group}


def _common(rule: Rule) -> dict[str, Any]:
    return {
        "SecurityGroupRuleId": ids.ec2("sgr", rule.id),
        "GroupId": ids.ec2("sg", rule.group_id),
        "IsEgress": False,
        "IpProtocol": rule.protocol,
        "FromPort": rule.from_port,
        "ToPort": rule.to_port,
        "CidrIpv4": rule.cidr,
        "Description": rule.description,
    }
