"""Membership in security groups."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping, Sequence

import sqlalchemy as sa

from minicloud import ids
from minicloud.db import hosts as hosts_rows
from minicloud.db import models, tags
from minicloud.db.session import Tx

DEFAULT = "default"  # every project has a group of this name


def leave(tx: Tx, instance_ids: Sequence[str]) -> dict[str, list[str]]:
    """End the membership of these instances; the groups they were in, sorted, with those that
    were in each.  The caller raises each group's `wanted` and then calls `remember_left`."""
    member = models.GroupMember
    found: dict[str, list[str]] = collections.defaultdict(list)
    statement = (
        sa.select(member.group_id, member.instance_id)
        .where(member.instance_id.in_(instance_ids))
        .order_by(member.group_id, member.instance_id)
    )
    for group_id, instance_id in tx.execute(statement):
        found[group_id].append(instance_id)
    if found:
        tx.changed(sa.delete(member).where(member.instance_id.in_(instance_ids)))
    return found


def remember_left(tx: Tx, group_id: str, instance_ids: Sequence[str], since: int) -> None:
    """The addresses of these instances stay booked until the group's `since` is applied wherever
    the group is known (see `addresses.forget_left`)."""
    tx.execute(
        sa.insert(models.GroupLeaving),
        [{"group_id": group_id, "instance_id": id, "since": since} for id in instance_ids],
    )


def store_known(
    tx: Tx, host_id: str, applied: Mapping[str, int], forgotten: Collection[str]
) -> None:
    """The host's filter has, or is about to have, the groups `applied` and none of `forgotten`."""
    for group_id in sorted(applied):
        hosts_rows.store_applied(tx, host_id, group_id, applied[group_id])
    row = models.Applied
    if forgotten:
        tx.changed(sa.delete(row).where(row.host == host_id, row.thing.in_(forgotten)))


def hosts(tx: Tx, group_id: str) -> list[str]:
    """The hosts with a member of the group, or of a group whose rules name it as their source."""
    member, instance, rule = models.GroupMember, models.Instance, models.Rule
    naming = sa.select(rule.group_id).where(rule.source_group_id == group_id)
    found = tx.scalars(
        sa.select(instance.host)
        .join(member, member.instance_id == instance.id)
        .where(
            sa.or_(member.group_id == group_id, member.group_id.in_(naming)),
            instance.host.is_not(None),
        )
        .distinct()
    )
    return sorted(host for host in found if host)


def create_default(tx: Tx, project_id: str) -> None:
    """The project's group `default` is there: its members reach each other, nobody else does."""
    id = ids.new()
    tx.execute(
        sa.insert(models.SecurityGroup),
        [
            {
                "id": id,
                "project_id": project_id,
                "name": DEFAULT,
                "description": "default group",
            }
        ],
    )
    rule = {
        "id": ids.new(),
        "group_id": id,
        "protocol": "-1",
        "source_group_id": id,
        "same": same("-1", None, None, id),
    }
    tx.execute(sa.insert(models.Rule), [rule])


def same(protocol: str, from_port: int | None, to_port: int | None, source: str) -> str:
    """A rule in one word, unique in its group; `source` is a CIDR or the id of a group."""
    ports = "" if from_port is None else f":{from_port}:{to_port}"
    return f"{protocol}{ports}:{source}"


def join(tx: Tx, group_ids: Sequence[str], instance_ids: Sequence[str]) -> None:
    """Each of the instances is a member of each of the groups."""
    tx.execute(
        sa.insert(models.GroupMember),
        [
            {"group_id": group_id, "instance_id": instance_id}
            for group_id in group_ids
            for instance_id in instance_ids
        ],
    )


def delete(tx: Tx, group_ids: Sequence[str]) -> None:
    """Groups without members are gone with their rules and with what hosts applied of them.  That
    stays for now where it holds back the address of one that left: hosts forget it themselves."""
    rule, applied, group = models.Rule, models.Applied, models.SecurityGroup
    left = models.GroupLeaving
    held = sa.select(left.group_id).where(left.group_id.in_(group_ids))
    tx.changed(sa.delete(rule).where(rule.group_id.in_(group_ids)))
    tx.changed(sa.delete(applied).where(applied.thing.in_(group_ids), applied.thing.not_in(held)))
    tags.forget(tx, group_ids)
    tx.changed(sa.delete(group).where(group.id.in_(group_ids)))


def forget_project(tx: Tx, project_id: str) -> None:
    """All groups of the project are gone."""
    group = models.SecurityGroup
    delete(tx, list(tx.scalars(sa.select(group.id).where(group.project_id == project_id))))
