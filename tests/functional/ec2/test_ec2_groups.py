"""Security groups by an unmodified boto3."""

import pytest
from botocore.exceptions import ClientError

from minicloud import context
from minicloud.cloud import projects


def code(call, **arguments):
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    return raised.value.response["Error"]["Code"]


@pytest.fixture
def group(ec2):
    return ec2.create_security_group(GroupName="web", Description="for the web")["GroupId"]


def permission(protocol="tcp", low=22, high=22, **sources):
    return {"IpProtocol": protocol, "FromPort": low, "ToPort": high, **sources}


def anybody(**more):
    return {"IpRanges": [{"CidrIp": "0.0.0.0/0", **more}]}


def rules(ec2, group):
    """The group's permissions, each source on its own."""
    [found] = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    return {
        (
            one["IpProtocol"],
            one.get("FromPort"),
            one.get("ToPort"),
            source.get("CidrIp") or source.get("GroupId"),
        )
        for one in found["IpPermissions"]
        for source in (*one["IpRanges"], *one["UserIdGroupPairs"])
    }


def test_a_new_group_is_closed(ec2, group, door):
    [found] = ec2.describe_security_groups(GroupNames=["web"])["SecurityGroups"]
    assert found["GroupId"] == group
    assert (found["GroupName"], found["Description"]) == ("web", "for the web")
    assert found["OwnerId"] == door.keys.project_id
    assert found["IpPermissions"] == []


def test_a_project_has_a_group_default(ec2):
    [found] = ec2.describe_security_groups()["SecurityGroups"]
    assert found["GroupName"] == "default"
    assert code(ec2.delete_security_group, GroupName="default") == "CannotDelete"


def test_a_range_a_protocol_and_ports_are_allowed_and_forbidden_again(ec2, group):
    asked = [
        permission(**anybody(Description="all of them")),
        permission("icmp", -1, -1, **anybody()),
    ]
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=asked)
    assert made["Return"] is True
    assert {rule["CidrIpv4"] for rule in made["SecurityGroupRules"]} == {"0.0.0.0/0"}
    assert {rule["GroupId"] for rule in made["SecurityGroupRules"]} == {group}
    assert rules(ec2, group) == {("tcp", 22, 22, "0.0.0.0/0"), ("icmp", -1, -1, "0.0.0.0/0")}
    assert ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=asked[:1])["Return"]
    assert rules(ec2, group) == {("icmp", -1, -1, "0.0.0.0/0")}


def test_the_older_form_has_one_rule_at_the_top(ec2, group):
    rule = {"IpProtocol": "tcp", "FromPort": 80, "ToPort": 81, "CidrIp": "10.1.0.0/16"}
    ec2.authorize_security_group_ingress(GroupName="web", **rule)
    assert rules(ec2, group) == {("tcp", 80, 81, "10.1.0.0/16")}
    ec2.revoke_security_group_ingress(GroupName="web", **rule)
    assert rules(ec2, group) == set()


def test_a_group_may_be_the_source(ec2, group, door):
    pair = {"GroupId": group, "UserId": door.keys.project_id}
    asked = [permission(UserIdGroupPairs=[pair]), permission("udp", 1, 65535, UserIdGroupPairs=[
        {"GroupName": "default"}])]  # fmt: skip
    made = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=asked)
    assert made["SecurityGroupRules"][0]["ReferencedGroupInfo"]["GroupId"].startswith("sg-")
    assert ("tcp", 22, 22, group) in rules(ec2, group)
    assert len(rules(ec2, group)) == 2
    ec2.authorize_security_group_ingress(GroupId=group, SourceSecurityGroupName="default")
    assert len(rules(ec2, group)) == 3


def test_a_rule_is_revoked_by_its_id(ec2, group):
    made = ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=[permission(**anybody())]
    )
    [rule] = made["SecurityGroupRules"]
    gone = ec2.revoke_security_group_ingress(
        GroupId=group, SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]]
    )
    [revoked] = gone["RevokedSecurityGroupRules"]
    assert revoked["SecurityGroupRuleId"] == rule["SecurityGroupRuleId"]
    assert rules(ec2, group) == set()


def test_a_rule_is_there_once(ec2, group):
    asked = {"GroupId": group, "IpPermissions": [permission(**anybody())]}
    assert code(ec2.revoke_security_group_ingress, **asked) == "InvalidPermission.NotFound"
    ec2.authorize_security_group_ingress(**asked)
    assert code(ec2.authorize_security_group_ingress, **asked) == "InvalidPermission.Duplicate"


SENSELESS = [
    (permission("tcp", 22, 22), "MissingParameter"),
    (permission("tcp", 23, 22, **anybody()), None),
    (permission("tcp", -1, 70000, **anybody()), None),
    (permission("tcp", 0, 65536, **anybody()), None),
    (permission("nonsense", 1, 2, **anybody()), None),
    (permission("icmp", 300, 0, **anybody()), None),
    ({"IpProtocol": "tcp", **anybody()}, None),
    (permission("", 1, 2, **anybody()), "MissingParameter"),
    (permission(IpRanges=[{"CidrIp": "10.0.0.0/33"}]), None),
    (permission(IpRanges=[{"CidrIp": "here"}]), None),
    (permission(IpRanges=[{"CidrIp": "10.0.0.1; drop table"}]), None),
    (permission(IpRanges=[{"Description": "no range"}]), "MissingParameter"),
    (permission(UserIdGroupPairs=[{"GroupName": "nobody"}]), "InvalidGroup.NotFound"),
    (
        permission(UserIdGroupPairs=[{"GroupName": "default", "UserId": "another"}]),
        "InvalidGroup.NotFound",
    ),
    (permission(UserIdGroupPairs=[{"Description": "none"}]), "MissingParameter"),
    (permission(Ipv6Ranges=[{"CidrIpv6": "::/0"}]), "UnsupportedOperation"),
    (permission(PrefixListIds=[{"PrefixListId": "pl-1"}]), "UnsupportedOperation"),
]


def test_a_rule_that_makes_no_sense_is_refused_whole(ec2, group, subtests):
    good = permission("tcp", 1, 2, **anybody())
    usual = ("InvalidPermission.Malformed", "InvalidParameterValue", "MissingParameter")
    for rule, error in SENSELESS:
        with subtests.test(str(rule)):
            asked = {"GroupId": group, "IpPermissions": [good, rule]}
            refused = code(ec2.authorize_security_group_ingress, **asked)
            assert refused == error or (error is None and refused in usual)
            assert rules(ec2, group) == set()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "MissingParameter"),
        ({"GroupName": "web", "GroupId": "sg-1"}, "InvalidParameterCombination"),
        ({"GroupId": "sg-1"}, "InvalidGroupId.Malformed"),
        ({"GroupId": "nonsense"}, "InvalidGroupId.Malformed"),
        ({"GroupId": "sg-0123456789abcdef0"}, "InvalidGroup.NotFound"),
        ({"GroupName": "nobody"}, "InvalidGroup.NotFound"),
    ],
)
def test_a_group_must_be_named_rightly(ec2, group, arguments, error):
    assert code(ec2.delete_security_group, **arguments) == error
    assert (
        code(
            ec2.authorize_security_group_ingress,
            IpPermissions=[permission(**anybody())],
            **arguments,
        )
        == error
    )


def test_a_name_is_taken_once(ec2, group):
    assert code(ec2.create_security_group, GroupName="web", Description="d") == (
        "InvalidGroup.Duplicate"
    )


@pytest.mark.parametrize("name", ["", "x" * 256, "a\tb", "ü", "<web>"])
def test_a_name_that_is_none_is_refused(ec2, name):
    assert code(ec2.create_security_group, GroupName=name, Description="d") == (
        "InvalidParameterValue"
    )


def test_a_group_that_others_name_cannot_go(ec2, group):
    ec2.authorize_security_group_ingress(
        GroupName="default", IpPermissions=[permission(UserIdGroupPairs=[{"GroupId": group}])]
    )
    assert code(ec2.delete_security_group, GroupId=group) == "DependencyViolation"
    ec2.revoke_security_group_ingress(
        GroupName="default", IpPermissions=[permission(UserIdGroupPairs=[{"GroupId": group}])]
    )
    assert ec2.delete_security_group(GroupId=group)["Return"] is True
    assert code(ec2.describe_security_groups, GroupIds=[group]) == "InvalidGroup.NotFound"


def test_another_projects_group_does_not_exist(door, ec2, group):
    projects.create(context.admin(), "other", "bob")
    other = door.client(access_key=f"{door.keys.access_key}:other")
    assert code(other.describe_security_groups, GroupIds=[group]) == "InvalidGroup.NotFound"
    assert code(other.delete_security_group, GroupId=group) == "InvalidGroup.NotFound"
    other.create_security_group(GroupName="web", Description="another")
    assert len(other.describe_security_groups()["SecurityGroups"]) == 2
