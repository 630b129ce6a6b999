"""Security groups: closed but for their rules.  Every change raises the group's `wanted`, and the
hosts that have a part in it apply it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import errors, ids, states
from minicloud.auth import policy
from minicloud.cloud import filters, lookup, names, page, quotas
from minicloud.cloud import rules as wording
from minicloud.cloud import tags as labelling
from minicloud.cloud.page import Page
from minicloud.context import Context
from minicloud.db import groups, guests, models, rows
from minicloud.db import tags as labels
from minicloud.db.session import Tx, done, hold, once, reading, transaction, visible

RuleSpec = wording.RuleSpec

PER_INSTANCE = 5  # groups; AWS's own limit
PER_REQUEST = 1000  # rules

_group, _rule = models.SecurityGroup, models.Rule
_named = sa.orm.aliased(models.SecurityGroup)


def _has_rule(match: filters.Match) -> filters.Match:
    return filters.related(match, _rule.group_id == _group.id)


FILTERS: Mapping[str, filters.Match] = filters.Tagged(
    _group.id,
    {
        "description": filters.text(_group.description),
        "group-id": filters.shown_id("sg", _group.id),
        "group-name": filters.text(_group.name),
        "ip-permission.cidr": _has_rule(filters.ascii_text(_rule.cidr)),
        "ip-permission.from-port": _has_rule(filters.number(_rule.from_port)),
        "ip-permission.group-id": _has_rule(filters.shown_id("sg", _rule.source_group_id)),
        "ip-permission.group-name": filters.related(
            filters.text(_named.name),
            _rule.group_id == _group.id,
            _named.id == _rule.source_group_id,
        ),
        "ip-permission.protocol": _has_rule(filters.ascii_text(_rule.protocol)),
        "ip-permission.to-port": _has_rule(filters.number(_rule.to_port)),
        "owner-id": filters.ascii_text(_group.project_id),
    },
)


@dataclasses.dataclass(frozen=True)
class GroupView:
    row: models.SecurityGroup
    rules: list[models.Rule]


@reading
def find(
    tx: Tx,
    ctx: Context,
    *,
    ids: Sequence[str] = (),
    names: Sequence[str] = (),
    filters: Mapping[str, Sequence[str]] = {},
    limit: int | None = None,
    after: str | None = None,
) -> Page[GroupView]:
    """The project's groups with their rules, by id.

    With `ids` or `names` only those; GroupNotFound names the ones that are not there.
    """
    policy.require(ctx, "security groups")
    conditions = [visible(ctx, _group), *_conditions(filters)]
    if ids or names:
        wanted = [*_by_id(tx, ctx, ids), *_by_name(tx, ctx, names)]
        conditions.append(_group.id.in_([row.id for row in wanted]))
    found = page.read(tx, _group, conditions, limit, after)
    rules = guests.rules(tx, [row.id for row in found.items])
    return Page([GroupView(row, rules[row.id]) for row in found.items], found.next)


def _conditions(given: Mapping[str, Sequence[str]]) -> list[Any]:
    return filters.conditions(given, FILTERS)


def _by_id(tx: Tx, ctx: Context, shown: Sequence[str]) -> list[models.SecurityGroup]:
    return lookup.by_id(
        tx,
        ctx,
        _group,
        "sg",
        shown,
        malformed=errors.InvalidGroupIdMalformed,
        missing=errors.GroupNotFound,
    )


def _by_name(tx: Tx, ctx: Context, wanted: Sequence[str]) -> list[models.SecurityGroup]:
    return lookup.by_name(tx, ctx, _group, wanted, errors.GroupNotFound)


def chosen(
    tx: Tx, ctx: Context, group_names: Sequence[str], group_ids: Sequence[str]
) -> list[models.SecurityGroup]:
    """The groups an instance asks for, the project's `default` when it asks for none; held."""
    if not group_names and not group_ids:
        group_names = [groups.DEFAULT]
    found = [*_by_name(tx, ctx, group_names), *_by_id(tx, ctx, group_ids)]
    wanted = {row.id for row in found}
    if len(wanted) > PER_INSTANCE:
        raise errors.InstanceGroupsLimitExceeded(
            resource="security groups of an instance",
            limit=PER_INSTANCE,
            used=0,
            wanted=len(wanted),
        )
    held = hold(tx, _group, sorted(wanted))
    if len(held) != len(wanted):
        raise errors.GroupNotFound(id=", ".join([*group_names, *group_ids]))
    return held


# --- deciding -------------------------------------------------------------------------------


@transaction
def create(
    tx: Tx,
    ctx: Context,
    name: str,
    description: str,
    tags: Mapping[str, str] = {},
) -> models.SecurityGroup:
    """A group without rules is there.  GroupExists; GroupLimitExceeded."""
    policy.require(ctx, "security groups")
    _check_name(name)
    names.check(description, "GroupDescription", names.GROUP)
    labelling.check(tags)
    known = once(tx, ctx, "CreateSecurityGroup", None, [name, description, dict(tags)])
    if known is None:
        known = [_create(tx, ctx, name, description)]
        labels.add(tx, ctx.project_id, "security-group", known, tags)
        done(tx, ctx, known)
    return tx.scalars(sa.select(_group).where(_group.id == known[0])).one()


def _check_name(name: str) -> None:
    names.check(name, "GroupName", names.GROUP)
    if name.startswith("sg-"):
        raise errors.InvalidValue(
            value=name, name="GroupName", reason="Group names may not begin with sg-."
        )


def _create(tx: Tx, ctx: Context, name: str, description: str) -> str:
    if not hold(tx, models.Project, [ctx.project_id]):
        raise errors.ProjectNotFound(id=ctx.project)
    taken = list(tx.scalars(sa.select(_group.name).where(visible(ctx, _group))))
    if name in taken:
        raise errors.GroupExists(name=name)
    limit = quotas.CONF.security_groups
    if len(taken) >= limit:
        raise errors.GroupLimitExceeded(
            resource="security groups", limit=limit, used=len(taken), wanted=1
        )
    id = ids.new()
    row = {
        "id": id,
        "project_id": ctx.project_id,
        "name": name,
        "description": description,
    }
    rows.insert(tx, _group, [row])
    return id


@transaction
def delete(
    tx: Tx, ctx: Context, *, id: str | None = None, name: str | None = None
) -> models.SecurityGroup | None:
    """The group is gone; the row it had, or None when this request had deleted it before.

    GroupNotFound; GroupReserved for `default`; GroupInUse while an instance is a member, or
    another group's rule names it.
    """
    policy.require(ctx, "security groups")
    if once(tx, ctx, "DeleteSecurityGroup", None, [id, name]) is not None:
        return None
    row = _held(tx, ctx, id, name)
    if row.name == groups.DEFAULT:
        raise errors.GroupReserved
    _refuse_used(tx, row)
    groups.delete(tx, [row.id])
    return row


def _refuse_used(tx: Tx, row: models.SecurityGroup) -> None:
    member = models.GroupMember.instance_id
    users = tx.scalars(sa.select(member).where(models.GroupMember.group_id == row.id).limit(1))
    shown = [ids.ec2("i", user) for user in users]
    naming = sa.select(_rule.group_id).where(
        _rule.source_group_id == row.id, _rule.group_id != row.id
    )
    shown += [ids.ec2("sg", user) for user in tx.scalars(naming.limit(1))]
    if shown:
        raise errors.GroupInUse(id=ids.ec2("sg", row.id), user=shown[0])


def _held(
    tx: Tx, ctx: Context, id: str | None, name: str | None, others: Iterable[str] = ()
) -> models.SecurityGroup:
    """The group of that id, else of that name, locked together with the uuids `others`."""
    if id is not None:
        [found] = _by_id(tx, ctx, [id])
    elif name is not None:
        [found] = _by_name(tx, ctx, [name])
    else:
        raise errors.MissingParameter(name="GroupId")
    held = {row.id: row for row in hold(tx, _group, [found.id, *others])}
    gone = {found.id, *others} - held.keys()
    if gone:
        raise errors.GroupNotFound(id=", ".join(ids.ec2("sg", one) for one in sorted(gone)))
    return held[found.id]


@transaction
def authorize(
    tx: Tx,
    ctx: Context,
    *,
    id: str | None = None,
    name: str | None = None,
    rules: Sequence[RuleSpec],
) -> list[models.Rule]:
    """The rules are in the group, all or none; their rows in the order asked.

    GroupNotFound; RuleExists for one that was there; RuleLimitExceeded; InvalidValue.
    """
    policy.require(ctx, "security groups")
    arguments = [id, name, [dataclasses.asdict(spec) for spec in rules]]
    known = once(tx, ctx, "AuthorizeSecurityGroupIngress", None, arguments)
    if known is None:
        wanted = _checked(tx, ctx, rules)
        sources = {rule.source_group_id for rule in wanted if rule.source_group_id}
        group = _held(tx, ctx, id, name, sources)
        known = _insert(tx, group, wanted)
        states.touch(tx, _group, group.id)
        done(tx, ctx, known)
    found = {row.id: row for row in tx.scalars(sa.select(_rule).where(_rule.id.in_(known)))}
    return [found[one] for one in known if one in found]


def _checked(tx: Tx, ctx: Context, rules: Sequence[RuleSpec]) -> list[wording.Ingress]:
    if not rules:
        raise errors.MissingParameter(name="IpPermissions")
    if len(rules) > PER_REQUEST:
        raise errors.BadRequest(reason=f"A request may have {PER_REQUEST} rules")
    given = list(dict.fromkeys(spec.source_group for spec in rules if spec.source_group))
    by_id = [one for one in given if one.startswith("sg-") or lookup.UUID.fullmatch(one)]
    by_name = [one for one in given if one not in by_id]
    sources = dict(zip(by_id, _each(tx, ctx, by_id), strict=True))
    sources |= {row.name: row.id for row in _by_name(tx, ctx, by_name)}
    wanted = [wording.checked(spec, sources.get(spec.source_group or "")) for spec in rules]
    if len({rule.same for rule in wanted}) != len(wanted):
        raise errors.BadRequest(reason="The same permission must not appear multiple times")
    return wanted


def _each(tx: Tx, ctx: Context, shown: Sequence[str]) -> list[str]:
    """The uuid of each id, also where two of them mean the same group."""
    return [_by_id(tx, ctx, [one])[0].id for one in shown]


def _insert(tx: Tx, group: models.SecurityGroup, wanted: Sequence[wording.Ingress]) -> list[str]:
    there = set(tx.scalars(sa.select(_rule.same).where(_rule.group_id == group.id)))
    for rule in wanted:
        if rule.same in there:
            raise errors.RuleExists(rule=rule.words)
    limit = quotas.CONF.security_group_rules
    if len(there) + len(wanted) > limit:
        raise errors.RuleLimitExceeded(
            resource="rules of a security group", limit=limit, used=len(there), wanted=len(wanted)
        )
    new = [
        {"id": ids.new(), "group_id": group.id, "same": rule.same, **dataclasses.asdict(rule)}
        for rule in wanted
    ]
    rows.insert(tx, _rule, new)
    return [str(row["id"]) for row in new]


@transaction
def revoke(
    tx: Tx,
    ctx: Context,
    *,
    id: str | None = None,
    name: str | None = None,
    rules: Sequence[RuleSpec] = (),
    rule_ids: Sequence[str] = (),
) -> list[models.Rule]:
    """The rules, given in words or by id, are not in the group any more, all or none; the rows
    they had (none when this request is repeated).  GroupNotFound; RuleNotFound."""
    policy.require(ctx, "security groups")
    arguments = [id, name, [dataclasses.asdict(spec) for spec in rules], list(rule_ids)]
    if once(tx, ctx, "RevokeSecurityGroupIngress", None, arguments) is not None:
        return []
    wanted = _checked(tx, ctx, rules) if rules or not rule_ids else []
    group = _held(tx, ctx, id, name)
    there = guests.rules(tx, [group.id])[group.id]
    gone = [*_same(there, wanted), *_with_ids(there, rule_ids)]
    tx.changed(sa.delete(_rule).where(_rule.id.in_([rule.id for rule in gone])))
    states.touch(tx, _group, group.id)
    return gone


def _same(there: Sequence[models.Rule], wanted: Sequence[wording.Ingress]) -> list[models.Rule]:
    by_word = {rule.same: rule for rule in there}
    if any(rule.same not in by_word for rule in wanted):
        raise errors.RuleNotFound
    return [by_word[rule.same] for rule in wanted]


def _with_ids(there: Sequence[models.Rule], shown: Sequence[str]) -> list[models.Rule]:
    by_id = {ids.ec2("sgr", rule.id): rule for rule in there} | {rule.id: rule for rule in there}
    if any(one not in by_id for one in shown):
        raise errors.RuleNotFound
    return [by_id[one] for one in dict.fromkeys(shown)]
