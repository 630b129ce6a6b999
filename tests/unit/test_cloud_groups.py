"""Security groups: what is a rule, and what a change brings with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from minicloud import errors, ids
from minicloud.cloud import groups, instances
from minicloud.cloud.groups import RuleSpec
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import Tx, reading

Caller = Callable[[], Context]

SSH = RuleSpec("tcp", 22, 22, cidr="0.0.0.0/0", description="ssh from anywhere")


@reading
def wanted(tx: Tx, name: str) -> int:
    group = models.SecurityGroup
    return tx.scalars(sa.select(group.wanted).where(group.name == name)).one()


def shown_rules(ctx: Context, name: str) -> set[str]:
    [view] = groups.find(ctx, names=[name]).items
    return {rule.same for rule in view.rules}


def test_every_project_has_a_group_whose_members_reach_each_other(caller: Caller) -> None:
    [view] = groups.find(caller()).items
    [rule] = view.rules
    assert view.row.name == "default"
    assert (rule.protocol, rule.from_port, rule.source_group_id) == ("-1", None, view.row.id)
    with pytest.raises(errors.GroupReserved):
        groups.delete(caller(), name="default")


def test_a_rule_is_there_until_it_is_revoked(caller: Caller) -> None:
    made = groups.create(caller(), "web", "all about the web")
    group_id = ids.ec2("sg", made.id)
    before = wanted("web")
    [rule] = groups.authorize(caller(), id=group_id, rules=[SSH])
    assert wanted("web") == before + 1
    assert (rule.protocol, rule.from_port, rule.to_port) == ("tcp", 22, 22)
    assert rule.description == "ssh from anywhere"
    with pytest.raises(errors.RuleExists):
        groups.authorize(caller(), id=group_id, rules=[SSH])
    groups.revoke(caller(), name="web", rules=[RuleSpec("6", 22, 22, cidr="1.2.3.4/0")])
    assert wanted("web") == before + 2
    assert shown_rules(caller(), "web") == set()
    with pytest.raises(errors.RuleNotFound):
        groups.revoke(caller(), name="web", rules=[SSH])
    assert wanted("web") == before + 2


def test_rules_are_revoked_by_their_ids(caller: Caller) -> None:
    groups.create(caller(), "web", "web")
    one, two = groups.authorize(
        caller(), name="web", rules=[SSH, RuleSpec("icmp", cidr="10.0.0.0/8")]
    )
    with pytest.raises(errors.RuleNotFound):
        groups.revoke(caller(), name="web", rule_ids=[ids.ec2("sgr", one.id), "sgr-0"])
    groups.revoke(caller(), name="web", rule_ids=[ids.ec2("sgr", one.id)])
    assert shown_rules(caller(), "web") == {two.same}


ONE_FORM: list[tuple[RuleSpec, str]] = [
    (RuleSpec("tcp", 0, 65535, cidr="10.1.2.3/8"), "tcp:0:65535:10.0.0.0/8"),
    (RuleSpec("UDP", 53, 53, cidr="10.0.0.1/32"), "udp:53:53:10.0.0.1/32"),
    (RuleSpec("17", 53, 53, cidr="10.0.0.1/32"), "udp:53:53:10.0.0.1/32"),
    (RuleSpec("icmp", cidr="0.0.0.0/0"), "icmp:-1:-1:0.0.0.0/0"),
    (RuleSpec("1", 8, 0, cidr="0.0.0.0/0"), "icmp:8:0:0.0.0.0/0"),
    (RuleSpec("icmp", 8, -1, cidr="0.0.0.0/0"), "icmp:8:-1:0.0.0.0/0"),
    (RuleSpec("-1", 22, 23, cidr="0.0.0.0/0"), "-1:0.0.0.0/0"),
]


def test_rules_have_one_form(caller: Caller) -> None:
    for number, (spec, same) in enumerate(ONE_FORM):
        groups.create(caller(), f"group{number}", "a group")
        [rule] = groups.authorize(caller(), name=f"group{number}", rules=[spec])
        assert rule.same == same


NO_RULES: list[RuleSpec] = [
    RuleSpec("tcp", 22, 22),
    RuleSpec("tcp", 22, 22, cidr="0.0.0.0/0", source_group="default"),
    RuleSpec("tcp", cidr="0.0.0.0/0"),
    RuleSpec("tcp", 22, cidr="0.0.0.0/0"),
    RuleSpec("tcp", 23, 22, cidr="0.0.0.0/0"),
    RuleSpec("tcp", -1, -1, cidr="0.0.0.0/0"),
    RuleSpec("udp", 0, 65536, cidr="0.0.0.0/0"),
    RuleSpec("icmp", -1, 3, cidr="0.0.0.0/0"),
    RuleSpec("icmp", 256, 0, cidr="0.0.0.0/0"),
    RuleSpec("sctp", 22, 22, cidr="0.0.0.0/0"),
    RuleSpec("50", cidr="0.0.0.0/0"),
    RuleSpec("", 22, 22, cidr="0.0.0.0/0"),
    RuleSpec("tcp", 22, 22, cidr="0.0.0.0"),
    RuleSpec("tcp", 22, 22, cidr="10.0.0.0/33"),
    RuleSpec("tcp", 22, 22, cidr="10.0.0.0/255.0.0.0"),
    RuleSpec("tcp", 22, 22, cidr="010.0.0.0/8"),
    RuleSpec("tcp", 22, 22, cidr="10.0.0.0/8\n"),
    RuleSpec("tcp", 22, 22, cidr="::/0"),
    RuleSpec("tcp", 22, 22, cidr=""),
    RuleSpec("tcp", 22, 22, source_group="nobody's"),
    RuleSpec("tcp", 22, 22, source_group="sg-00000000000000000"),
    RuleSpec("tcp", 22, 22, cidr="0.0.0.0/0", description="x" * 256),
    RuleSpec("tcp", 22, 22, cidr="0.0.0.0/0", description="a\x1bb"),
]


def test_what_is_no_rule_is_refused_with_all_beside_it(caller: Caller) -> None:
    before = shown_rules(caller(), "default")
    for spec in NO_RULES:
        with pytest.raises((errors.BadRequest, errors.GroupNotFound)):
            groups.authorize(caller(), name="default", rules=[SSH, spec])
    assert shown_rules(caller(), "default") == before


def test_one_permission_may_not_come_twice(caller: Caller) -> None:
    with pytest.raises(errors.BadRequest, match="multiple times"):
        groups.authorize(caller(), name="default", rules=[SSH, SSH])


def test_a_group_may_name_others_and_itself_as_sources(caller: Caller) -> None:
    web = groups.create(caller(), "web", "web")
    by_id = RuleSpec("tcp", 80, 80, source_group=ids.ec2("sg", web.id))
    by_name = RuleSpec("tcp", 81, 81, source_group="default")
    rules = groups.authorize(caller(), name="web", rules=[by_id, by_name])
    default = groups.find(caller(), names=["default"]).items[0].row
    assert [rule.source_group_id for rule in rules] == [web.id, default.id]


def test_a_group_in_use_is_kept(caller: Caller) -> None:
    groups.create(caller(), "web", "web")
    groups.create(caller(), "db", "db")
    groups.authorize(caller(), name="db", rules=[RuleSpec("-1", source_group="web")])
    with pytest.raises(errors.GroupInUse, match="sg-"):
        groups.delete(caller(), name="web")
    groups.revoke(caller(), name="db", rules=[RuleSpec("-1", source_group="web")])
    [view] = instances.run(
        caller(), image="ami-tty", count_min=1, count_max=1, flavor="m1.nano", groups=["web"]
    )
    with pytest.raises(errors.GroupInUse, match="i-"):
        groups.delete(caller(), name="web")
    instances.terminate(caller(), [view.row.id])
    groups.delete(caller(), name="web")
    with pytest.raises(errors.GroupNotFound):
        groups.delete(caller(), name="web")


WRONG_NAMES: list[str] = ["", " ", "web ", "sg-web", "żółw", "a\nb", "x" * 256, "a'b", "default"]


def test_wrong_names_are_refused(caller: Caller) -> None:
    for name in WRONG_NAMES:
        with pytest.raises((errors.InvalidValue, errors.GroupExists)):
            groups.create(caller(), name, "web")


def test_groups_and_rules_have_limits(caller: Caller, options: Callable[..., None]) -> None:
    options("quota", security_groups=2, security_group_rules=3)
    groups.create(caller(), "web", "web")
    with pytest.raises(errors.GroupLimitExceeded):
        groups.create(caller(), "db", "db")
    rules = [RuleSpec("tcp", port, port, cidr="0.0.0.0/0") for port in range(4)]
    with pytest.raises(errors.RuleLimitExceeded):
        groups.authorize(caller(), name="web", rules=rules)
    assert len(groups.authorize(caller(), name="web", rules=rules[:3])) == 3
