"""What holds for every action there is: DryRun, filters, pages, and other projects' things.

The actions come from the registry.  A new one needs a row in `ways` (or these tests name it), and
nothing else here.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import urllib.parse
from typing import Any

import botocore
import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from minicloud import context, ids, states
from minicloud.api.aws import protocol
from minicloud.api.ec2 import actions
from minicloud.cloud import buckets, projects, shown, users
from minicloud.db import models
from minicloud.db.session import Tx, transaction
from tests import tenancy
from tests.functional.ec2.conftest import Door
from tests.tenancy import instead

Ask = dict[str, Any]
STORE = states.Daemon("objectstore@h1", "h1", 1)
PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5jDl6+YAHjXOzQhWkfGwO4XC1ueUCxIW0FJ7cGBhh6 x"


@dataclasses.dataclass(frozen=True)
class Things:
    """What a project has, as EC2 calls it: ids, and names that no other project uses."""

    guest: str  # running, with the volume `held` in it
    stopped: str
    disk: str  # available
    held: str
    image: str
    group: str
    group_name: str
    key: str
    key_name: str
    object: str  # bucket/key
    kernel: str
    reservation: str
    project: str  # its id


def ways(its: Things) -> dict[str, Ask]:
    """Action → arguments with which it succeeds."""
    rule = {
        "IpProtocol": "tcp",
        "FromPort": 80,
        "ToPort": 80,
        "IpRanges": [{"CidrIp": "10.0.0.0/8"}],
        "UserIdGroupPairs": [{"GroupId": its.group}],
    }
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"}
    tagged = {"Resources": [its.guest, its.disk, its.image, its.group, its.key]}
    return {
        "AttachVolume": {"VolumeId": its.disk, "InstanceId": its.guest, "Device": "/dev/vdf"},
        "AuthorizeSecurityGroupIngress": {"GroupId": its.group, "IpPermissions": [rule]},
        "CreateKeyPair": {"KeyName": "new"},
        "CreateSecurityGroup": {"GroupName": "new", "Description": "new"},
        "CreateTags": {**tagged, "Tags": [{"Key": "new", "Value": "x"}]},
        "CreateVolume": {"AvailabilityZone": "nova", "Size": 1},
        "DeleteKeyPair": {"KeyName": its.key_name},
        "DeleteSecurityGroup": {"GroupId": its.group},
        "DeleteTags": tagged,
        "DeleteVolume": {"VolumeId": its.disk},
        "DeregisterImage": {"ImageId": its.image},
        "DescribeAccountAttributes": {"AttributeNames": ["default-vpc"]},
        "DescribeAddresses": {},
        "DescribeAvailabilityZones": {"ZoneNames": ["nova"]},
        "DescribeImages": {"ImageIds": [its.image]},
        "DescribeInstanceAttribute": {"InstanceId": its.guest, "Attribute": "instanceType"},
        "DescribeInstanceStatus": {"InstanceIds": [its.guest]},
        "DescribeInstanceTypes": {"InstanceTypes": ["m1.nano"]},
        "DescribeInstances": {"InstanceIds": [its.guest, its.stopped]},
        "DescribeKeyPairs": {"KeyNames": [its.key_name], "KeyPairIds": [its.key]},
        "DescribeRegions": {"RegionNames": ["nova"]},
        "DescribeSecurityGroups": {"GroupIds": [its.group], "GroupNames": [its.group_name]},
        "DescribeSnapshots": {},
        "DescribeSubnets": {},
        "DescribeTags": {},
        "DescribeVolumes": {"VolumeIds": [its.disk, its.held]},
        "DescribeVpcs": {},
        "DetachVolume": {"VolumeId": its.held, "InstanceId": its.guest},
        "GetConsoleOutput": {"InstanceId": its.guest},
        "ImportKeyPair": {"KeyName": "new", "PublicKeyMaterial": PUBLIC_KEY},
        "RebootInstances": {"InstanceIds": [its.guest]},
        "RegisterImage": {"ImageLocation": its.object, "Name": "new"},
        "RevokeSecurityGroupIngress": {"GroupId": its.group, **ssh},
        "RunInstances": {
            "ImageId": its.image,
            "InstanceType": "m1.nano",
            "MinCount": 1,
            "MaxCount": 1,
            "KeyName": its.key_name,
            "SecurityGroupIds": [its.group],
        },
        "StartInstances": {"InstanceIds": [its.stopped]},
        "StopInstances": {"InstanceIds": [its.guest]},
        "TerminateInstances": {"InstanceIds": [its.guest, its.stopped]},
    }


def more_ways(its: Things) -> list[tuple[str, Ask]]:
    """Other ways of the actions to name the same things."""
    rule = {"IpProtocol": "tcp", "FromPort": 81, "ToPort": 81}
    by_name = [{"GroupName": its.group_name, "UserId": its.project}]
    run = {"ImageId": its.image, "InstanceType": "m1.nano", "MinCount": 1, "MaxCount": 1}
    return [
        (
            "AuthorizeSecurityGroupIngress",
            {
                "GroupName": its.group_name,
                "IpPermissions": [{**rule, "UserIdGroupPairs": by_name}],
            },
        ),
        (
            "AuthorizeSecurityGroupIngress",
            {
                "GroupName": its.group_name,
                "SourceSecurityGroupName": its.group_name,
                "SourceSecurityGroupOwnerId": its.project,
            },
        ),
        ("DeleteKeyPair", {"KeyPairId": its.key}),
        ("DeleteSecurityGroup", {"GroupName": its.group_name}),
        ("DescribeImages", {"Owners": [its.project]}),
        ("DescribeImages", {"ExecutableUsers": [its.project]}),
        ("RunInstances", {**run, "SecurityGroups": [its.group_name]}),
        ("RunInstances", {**run, "KernelId": its.kernel}),
        ("RegisterImage", {"ImageLocation": its.object, "Name": "new", "KernelId": its.kernel}),
    ]


# --- what there is ----------------------------------------------------------------------------


@transaction
def settle(tx: Tx) -> None:
    """Instances and volumes have a host and run, as daemons would have made them."""
    if tx.get(models.Host, STORE.id) is None:
        tx.add(models.Host(id=STORE.id, host="h1", daemon="objectstore", machine_id="m"))
    for model, state in ((models.Instance, "running"), (models.Volume, "available")):
        placed = {"state": state, "rest": state, "host": "h1", "zone": "nova"}
        tx.changed(sa.update(model).where(model.host.is_(None)).values(**placed))


@transaction
def stop(tx: Tx, id: str) -> None:
    for row in tx.scalars(sa.select(models.Instance)):
        if shown.instance_id(row) == id:
            row.state = row.rest = "stopped"


@transaction
def add_image(tx: Tx, project_id: str, kind: str = "machine") -> str:
    id = ids.new()
    facts = {"state": "active", "rest": "active", "request_id": "req-test", "size": 1}
    names = {"name": "own", "kind": kind, "file": id, "host": "h1", "virtual_size": 1}
    tx.add(models.Image(id=id, project_id=project_id, **names, **facts, sha256="0" * 64))
    return ids.ec2(shown.IMAGE_PREFIXES[kind], id)


def add_object(keys: projects.Credentials) -> str:
    ctx = context.Context(context.new_request_id(), keys.user_id, keys.project_id)
    buckets.create(ctx, keys.project, False)
    row = buckets.begin(ctx, keys.project, b"disk", STORE, id=ids.new(), public=False, headers={})
    buckets.finish(ctx, row, buckets.Facts(1, "etag", {}), lambda before: None)
    return f"{keys.project}/disk"


def furnished(door: Door) -> Things:
    """The project has some of everything."""
    ec2, whose = door.client(), door.keys.project
    run = {"ImageId": "ami-tty", "InstanceType": "m1.nano", "MinCount": 7, "MaxCount": 7}
    made = ec2.run_instances(**run)
    guest, stopped, *_ = [one["InstanceId"] for one in made["Instances"]]
    zone = {"AvailabilityZone": "nova", "Size": 1}
    disk, held, *_ = [ec2.create_volume(**zone)["VolumeId"] for _ in range(6)]
    settle()
    stop(stopped)
    ec2.attach_volume(VolumeId=held, InstanceId=guest, Device="/dev/vdb")
    image, *_ = [add_image(door.keys.project_id) for _ in range(6)]
    group, *_ = [
        ec2.create_security_group(GroupName=f"{whose}-{n}", Description="d")["GroupId"]
        for n in range(6)
    ]
    ssh = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "CidrIp": "0.0.0.0/0"}
    ec2.authorize_security_group_ingress(GroupId=group, **ssh)
    key = ec2.import_key_pair(KeyName=f"{whose}-key", PublicKeyMaterial=PUBLIC_KEY)["KeyPairId"]
    tags = [{"Key": f"tag {n}", "Value": whose} for n in range(6)]
    ec2.create_tags(Resources=[guest, disk, image, group, key], Tags=tags)
    return Things(
        guest=guest,
        stopped=stopped,
        disk=disk,
        held=held,
        image=image,
        group=group,
        group_name=f"{whose}-0",
        key=key,
        key_name=f"{whose}-key",
        object=add_object(door.keys),
        kernel=add_image(door.keys.project_id, "kernel"),
        reservation=made["ReservationId"],
        project=door.keys.project_id,
    )


@pytest.fixture
def bobs(door: Door) -> Things:
    return furnished(door)


@pytest.fixture
def eve(door: Door) -> Door:
    """Somebody else's project, through the same door."""
    users.create(context.admin(), "eve")
    projects.create(context.admin(), "eves", "eve")
    return dataclasses.replace(door, keys=projects.credentials(context.admin(), "eves", "eve"))


@pytest.fixture
def eves(eve: Door) -> Things:
    return furnished(eve)


# --- asking -----------------------------------------------------------------------------------


def members(name: str) -> dict[str, Any]:
    found: dict[str, Any] = protocol.operation(actions.SERVICE, name).input_shape.members
    return found


def having(*wanted: str) -> list[str]:
    """The actions whose request, in EC2's own model, has these members."""
    return [name for name in actions.names() if members(name).keys() >= set(wanted)]


@functools.lru_cache(maxsize=8)  # making one takes a while
def client(door: Door) -> Any:
    return door.client()


def answer(door: Door, name: str, arguments: Ask) -> Any:
    """What a client gets: the result, or the error's (code, status, message)."""
    try:
        got = getattr(client(door), botocore.xform_name(name))(**arguments)
    except ClientError as error:
        said = error.response["Error"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return said["Code"], status, said["Message"]
    del got["ResponseMetadata"]
    return got


def code(door: Door, name: str, arguments: Ask) -> str | None:
    """The error code of the answer to exactly these parameters, which no client has checked."""
    asked = urllib.parse.urlencode({"Action": name, "Version": "2016-11-15", **arguments})
    return door.ask(asked).code


def listed(name: str, result: Ask) -> list[Any]:
    """The things in the answer to a Describe, one by one."""
    [things] = [value for value in result.values() if isinstance(value, list)]
    if name == "DescribeInstances":
        return [one for reservation in things for one in reservation["Instances"]]
    return things


def told(door: Door, name: str, arguments: Ask) -> tenancy.Seen:
    """All that a client can see of the answer."""
    came: list[tenancy.Seen] = []

    def see(response_dict: Any, **_: Any) -> None:
        headers = dict(response_dict["headers"].items())
        came.append(tenancy.seen(response_dict["status_code"], headers, response_dict["body"]))

    ec2 = client(door)
    ec2.meta.events.register("before-parse.ec2", see)
    try:
        answer(door, name, arguments)
    finally:
        ec2.meta.events.unregister("before-parse.ec2", see)
    [found] = came
    return found


# --- what holds -------------------------------------------------------------------------------


def test_every_action_has_a_row_here() -> None:
    nothing = Things(*["" for _ in dataclasses.fields(Things)])
    assert sorted(ways(nothing)) == actions.names()


def test_a_dry_run_says_what_would_happen_and_changes_nothing(
    door: Door, bobs: Things, subtests: Any
) -> None:
    before = tenancy.whole(), tenancy.remembered()
    for name, arguments in [*ways(bobs).items(), *more_ways(bobs)]:
        with subtests.test(name):
            told = answer(door, name, {**arguments, "DryRun": True})
            assert told[:2] == ("DryRunOperation", 412)
            assert (tenancy.whole(), tenancy.remembered()) == before


def nobodys(thing: str) -> str:
    """What never was, and looks like it."""
    head, dash, tail = thing.rpartition("-")
    if "/" in thing:  # of a bucket, S3 tells that its name is taken; of what is in it nothing
        return thing[:-1] + "-"
    return f"{head}{dash}{'0' * len(tail)}"


def compare(asker: Door, own: Things, theirs: Things, subtests: Any) -> int:
    """How many requests about another's thing were answered like those about nothing."""
    tried, before = 0, tenancy.whole()
    for name, arguments in [*ways(own).items(), *more_ways(own)]:
        for field, foreign in dataclasses.asdict(theirs).items():
            mine, missing = getattr(own, field), nobodys(foreign)
            if instead(arguments, mine, foreign) == arguments:
                continue
            tried += 1
            with subtests.test(f"{asker.keys.project}: {name} {field}"):
                answers, did = [], []
                for thing in (foreign, missing):
                    kept = tenancy.remembered()
                    with tenancy.statements() as statements:
                        seen = told(asker, name, instead(arguments, mine, thing))
                    answers.append(instead(seen, thing, missing))
                    did.append((statements, tenancy.remembered() - kept))
                assert answers[0] == answers[1]
                assert did[0] == did[1]
                asked = {**instead(arguments, mine, missing), "DryRun": True}
                if answers[1][0] != 200:
                    assert told(asker, name, asked) == answers[1]
        assert tenancy.whole() == before, f"{name} changed something"
    return tried


def test_anothers_thing_is_answered_like_one_that_is_not_there(
    bobs: Things, eve: Door, eves: Things, subtests: Any
) -> None:
    assert compare(eve, eves, bobs, subtests) > 50
    bucket, _, key = bobs.object.partition("/")
    there, missing = [
        told(eve, "RegisterImage", {"ImageLocation": f"{one}/{key}", "Name": "new"})
        for one in (bucket, "-" * len(bucket))
    ]
    assert instead(there, bucket, "-" * len(bucket)) == missing


def test_ones_own_things_in_another_project_are_not_there(
    eve: Door, eves: Things, subtests: Any
) -> None:
    projects.create(context.admin(), "second", "eve")
    keys = projects.credentials(context.admin(), "second", "eve")
    second = dataclasses.replace(
        eve, keys=dataclasses.replace(keys, access_key=f"{keys.access_key}:second")
    )
    assert compare(second, furnished(second), eves, subtests) > 50


def test_a_filter_finds_nothing_of_others(
    bobs: Things, eve: Door, eves: Things, subtests: Any
) -> None:
    theirs = dataclasses.astuple(bobs)
    for name in having("Filters"):
        for filter in [one.replace("tag:", "tag:tag 1") for one in actions.filters_of(name)]:
            with subtests.test(f"{name} {filter}"):
                answers = [
                    told(eve, name, {"Filters": [{"Name": filter, "Values": values}]})
                    for values in (list(theirs), [nobodys(thing) for thing in theirs])
                ]
                assert answers[0] == answers[1]


def test_keys_of_one_who_may_act_no_more_are_answered_like_keys_that_never_were(
    door: Door, bobs: Things, eve: Door, subtests: Any
) -> None:
    """In the novarc's form, KEY:PROJECT: a member no more, a project and a user that are gone."""
    operator = context.admin

    def keys(of: projects.Credentials, project: str) -> Door:
        access_key = f"{of.access_key}:{project}"
        return dataclasses.replace(door, keys=dataclasses.replace(of, access_key=access_key))

    projects.add(operator(), "bobs", "eve")
    left, nowhere = keys(eve.keys, "bobs"), keys(eve.keys, "none")
    assert told(left, "DescribeInstances", {"InstanceIds": [bobs.guest]})[0] == 200
    projects.remove(operator(), "bobs", "eve")
    users.create(operator(), "gone")
    projects.create(operator(), "void", "gone")
    gone = projects.credentials(operator(), "void", "gone")
    nobody = dataclasses.replace(gone, access_key="A" * len(gone.access_key))
    projects.delete(operator(), "void")
    users.delete(operator(), "gone")
    before = tenancy.whole()
    # who asks and who never could, and in what word their answers differ
    pairs = (
        (left, nowhere, "bobs", "none"),
        (keys(eve.keys, "void"), nowhere, "void", "none"),
        (keys(gone, "bobs"), keys(nobody, "bobs"), gone.access_key, nobody.access_key),
    )
    for name, arguments in ways(bobs).items():
        for dead, never, word, other in pairs:
            with subtests.test(f"{name} by {dead.keys.access_key}"):
                refused = told(never, name, arguments)
                assert refused[0] == 401
                assert instead(told(dead, name, arguments), word, other) == refused
    assert tenancy.whole() == before


def test_a_list_shows_no_project_anothers_things(
    door: Door, bobs: Things, eve: Door, eves: Things, subtests: Any
) -> None:
    for name in having("DryRun"):
        if name.startswith("Describe") and "InstanceId" not in members(name):
            with subtests.test(name):
                told = json.dumps(answer(door, name, {}), default=str)
                for thing in dataclasses.astuple(eves):
                    assert thing not in told


def test_a_filter_is_understood_or_refused_by_name(
    door: Door, bobs: Things, subtests: Any
) -> None:
    for name in having("Filters"):
        for filter in [one.replace("tag:", "tag:x") for one in actions.filters_of(name)]:
            with subtests.test(f"{name} {filter}"):
                asked = {"Filters": [{"Name": filter, "Values": ["nothing like it", "ü", "\\"]}]}
                assert listed(name, answer(door, name, asked)) == []
        with subtests.test(name):
            told = answer(door, name, {"Filters": [{"Name": "unheard-of", "Values": ["x"]}]})
            assert told[:2] == ("InvalidParameterValue", 400)
            assert "unheard-of" in told[2]
            known = (actions.filters_of(name) or ["x"])[0].replace("tag:", "tag:x")
            many = [{"Name": known, "Values": [str(n) for n in range(201)]}]
            assert answer(door, name, {"Filters": many})[0] == "FilterLimitExceeded"
            long = [{"Name": known, "Values": ["x" * 256]}]
            assert answer(door, name, {"Filters": long})[0] == "InvalidParameterValue"


def test_pages_together_are_the_list(door: Door, bobs: Things, eve: Door, subtests: Any) -> None:
    paged = having("MaxResults", "NextToken")
    assert {"DescribeInstances", "DescribeVolumes", "DescribeTags"} <= set(paged)
    for name in paged:
        with subtests.test(name):
            things, pages, asked = listed(name, answer(door, name, {})), [], {"MaxResults": 5}
            while True:
                got = answer(door, name, asked)
                pages.append(listed(name, got))
                if "NextToken" not in got:
                    break
                asked["NextToken"] = got["NextToken"]
                assert code(eve, name, asked) == "InvalidNextToken"
            assert list(itertools.chain(*pages)) == things
            assert [len(page) for page in pages[:-1]] == [5] * (len(pages) - 1)
            assert len(things) > 5 or not things


def test_what_is_no_page_is_refused(door: Door, subtests: Any) -> None:
    for name in having("MaxResults", "NextToken"):
        with subtests.test(name):
            for limit in ("4", "1001", "-1", "x", "9" * 30):
                assert code(door, name, {"MaxResults": limit}) == "InvalidParameterValue"
            for token in ("guess", "ü", "AAAA", "*" * 1000):
                assert code(door, name, {"NextToken": token}) == "InvalidNextToken"
