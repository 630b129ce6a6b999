"""Tags, status and what clients ask before anything else, by an unmodified boto3."""

import boto3
import botocore.config
import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError

from minicloud.db import models
from minicloud.db.session import transaction

RUN = {"ImageId": "ami-tty", "InstanceType": "m1.nano", "MinCount": 1, "MaxCount": 1}
TAGS = [{"Key": "Name", "Value": "web"}, {"Key": "env", "Value": ""}]


def code(call, **arguments):
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    return raised.value.response["Error"]["Code"]


def run(ec2, **more):
    [made] = ec2.run_instances(**{**RUN, **more})["Instances"]
    return made


def volume(ec2, **more):
    return ec2.create_volume(AvailabilityZone="nova", Size=1, **more)


def given(kind, tags=TAGS):
    return [{"ResourceType": kind, "Tags": tags}]


def test_tags_given_at_birth_are_in_every_answer(ec2):
    group = ec2.create_security_group(
        GroupName="g", Description="d", TagSpecifications=given("security-group")
    )
    key = ec2.create_key_pair(KeyName="k", TagSpecifications=given("key-pair"))
    made = run(ec2, TagSpecifications=given("instance"), ClientToken="t")
    assert run(ec2, TagSpecifications=given("instance"), ClientToken="t") == made
    disk = volume(ec2, TagSpecifications=given("volume"), ClientToken="v")
    again = volume(ec2, TagSpecifications=given("volume"), ClientToken="v")
    assert again["VolumeId"] == disk["VolumeId"]
    assert group["Tags"] == key["Tags"] == made["Tags"] == disk["Tags"] == TAGS
    by_name = [{"Name": "tag:Name", "Values": ["w*"]}]
    [shown] = ec2.describe_key_pairs(Filters=by_name)["KeyPairs"]
    assert shown["Tags"] == TAGS
    [shown] = ec2.describe_security_groups(Filters=by_name)["SecurityGroups"]
    assert shown["Tags"] == TAGS
    [shown] = ec2.describe_instances(Filters=by_name)["Reservations"]
    assert shown["Instances"][0]["Tags"] == TAGS
    volume(ec2)
    [shown] = ec2.describe_volumes(Filters=by_name)["Volumes"]
    assert (shown["VolumeId"], shown["Tags"]) == (disk["VolumeId"], TAGS)
    assert len(ec2.describe_tags()["Tags"]) == 8


def test_tags_of_several_kinds_are_changed_by_one_request(ec2):
    id = run(ec2)["InstanceId"]
    group = ec2.create_security_group(GroupName="g", Description="d")["GroupId"]
    disk = volume(ec2)["VolumeId"]
    ec2.create_tags(Resources=[group, disk, id], Tags=TAGS)
    kinds = {tag["ResourceId"]: tag["ResourceType"] for tag in ec2.describe_tags()["Tags"]}
    assert kinds == {id: "instance", disk: "volume", group: "security-group"}
    of_disks = [{"Name": "resource-type", "Values": ["volume"]}]
    assert {tag["ResourceId"] for tag in ec2.describe_tags(Filters=of_disks)["Tags"]} == {disk}
    ec2.delete_volume(VolumeId=disk)  # no host has it: it is gone at once, and its tags
    assert ec2.describe_tags(Filters=of_disks)["Tags"] == []
    assert code(ec2.create_tags, Resources=[disk], Tags=TAGS) == "InvalidVolume.NotFound"
    assert code(ec2.create_tags, Resources=[id], Tags=TAGS, DryRun=True) == "DryRunOperation"
    ec2.delete_tags(Resources=[group, id], Tags=[{"Key": "Name"}, {"Key": "env", "Value": "x"}])
    assert {tag["Key"] for tag in ec2.describe_tags()["Tags"]} == {"env"}
    ec2.delete_tags(Resources=[group, id])
    assert ec2.describe_tags()["Tags"] == []


def test_wrong_tags_have_the_codes_of_aws(ec2):
    id = run(ec2)["InstanceId"]
    two = [{"Key": "a", "Value": "1"}, {"Key": "a", "Value": "2"}]
    many = [{"Key": str(number), "Value": ""} for number in range(51)]
    for arguments, error in (
        ({"Tags": two}, "InvalidParameterValue"),
        ({"Tags": many}, "TagLimitExceeded"),
        ({"Tags": [{"Key": "aws:a", "Value": ""}]}, "InvalidParameterValue"),
        ({"Tags": []}, "MissingParameter"),
        ({"Resources": ["nothing"]}, "InvalidID"),
        ({"Resources": ["i-12345678"]}, "InvalidInstanceID.NotFound"),
        ({"Resources": ["i-1"]}, "InvalidInstanceID.Malformed"),
    ):
        asked = {"Resources": [id], "Tags": TAGS, **arguments}
        assert code(ec2.create_tags, **asked) == error, arguments
    wrong = given("instance")
    assert code(ec2.create_key_pair, KeyName="k", TagSpecifications=wrong) == (
        "InvalidParameterValue"
    )


def test_the_status_is_told_of_what_runs(ec2, cloud):
    id = run(ec2, TagSpecifications=given("instance"))["InstanceId"]
    waiter = ec2.get_waiter("instance_status_ok")
    waiter.wait(InstanceIds=[id], WaiterConfig={"Delay": 0.05, "MaxAttempts": 600})
    [status] = ec2.describe_instance_status()["InstanceStatuses"]
    assert status["InstanceState"] == {"Code": 16, "Name": "running"}
    assert status["SystemStatus"]["Details"] == [{"Name": "reachability", "Status": "passed"}]
    ok = [{"Name": "instance-status.status", "Values": ["ok"]}]
    assert ec2.describe_instance_status(Filters=ok)["InstanceStatuses"] == [status]
    by_tag = [{"Name": "tag:Name", "Values": ["db"]}]
    assert ec2.describe_instance_status(Filters=by_tag)["InstanceStatuses"] == []


def test_only_who_asks_for_all_hears_of_those_that_do_not_run(ec2):
    id = run(ec2)["InstanceId"]
    assert ec2.describe_instance_status()["InstanceStatuses"] == []
    assert ec2.describe_instance_status(InstanceIds=[id])["InstanceStatuses"] == []
    [status] = ec2.describe_instance_status(IncludeAllInstances=True)["InstanceStatuses"]
    assert status["InstanceStatus"]["Status"] == "initializing"
    ec2.terminate_instances(InstanceIds=[id])
    [status] = ec2.describe_instance_status(IncludeAllInstances=True)["InstanceStatuses"]
    assert status["SystemStatus"]["Status"] == "not-applicable"
    assert code(ec2.describe_instance_status, InstanceIds=["i-12345678"]) == (
        "InvalidInstanceID.NotFound"
    )


def test_a_host_that_is_silent_is_no_good_sign(ec2, cloud):
    id = run(ec2)["InstanceId"]
    ec2.get_waiter("instance_running").wait(
        InstanceIds=[id], WaiterConfig={"Delay": 0.05, "MaxAttempts": 600}
    )
    cloud.stop("compute@h1")

    def status():
        silent()  # again and again: its last beat may still be on the way
        [one] = ec2.describe_instance_status()["InstanceStatuses"]
        return one["InstanceStatus"]

    cloud.wait(lambda: status() == {"Status": "insufficient-data", "Details": []})


@transaction
def silent(tx):
    tx.changed(sa.update(models.Host).values(heartbeat=models.now(-3600)))


def test_attributes_one_by_one(ec2):
    id = run(ec2, UserData="hello")["InstanceId"]
    ask = ec2.describe_instance_attribute
    assert ask(InstanceId=id, Attribute="userData")["UserData"] == {"Value": "aGVsbG8="}
    assert ask(InstanceId=id, Attribute="instanceType")["InstanceType"] == {"Value": "m1.nano"}
    assert ask(InstanceId=id, Attribute="groupSet")["Groups"][0]["GroupName"] == "default"
    model = ec2.meta.service_model.operation_model("DescribeInstanceAttribute")
    for name in model.input_shape.members["Attribute"].enum:
        assert ask(InstanceId=id, Attribute=name)["InstanceId"] == id


def test_there_is_none_of_what_this_cloud_has_not(ec2):
    for call, member, argument, error in (
        (ec2.describe_addresses, "Addresses", "PublicIps", "InvalidAddress.NotFound"),
        (ec2.describe_addresses, "Addresses", "AllocationIds", "InvalidAllocationID.NotFound"),
        (ec2.describe_vpcs, "Vpcs", "VpcIds", "InvalidVpcID.NotFound"),
        (ec2.describe_subnets, "Subnets", "SubnetIds", "InvalidSubnetID.NotFound"),
        (ec2.describe_snapshots, "Snapshots", "SnapshotIds", "InvalidSnapshot.NotFound"),
    ):
        assert call()[member] == []
        assert call(Filters=[{"Name": "tag:x", "Values": ["y"]}])[member] == []
        assert code(call, Filters=[{"Name": "x", "Values": ["y"]}]) == "InvalidParameterValue"
        assert code(call, **{argument: ["x-12345678"]}) == error
    pages = ec2.get_paginator("describe_snapshots").paginate(
        OwnerIds=["self"], PaginationConfig={"PageSize": 5}
    )
    assert [page["Snapshots"] for page in pages] == [[]]


def test_the_account_is_described(ec2):
    told = {
        one["AttributeName"]: one["AttributeValues"][0]["AttributeValue"]
        for one in ec2.describe_account_attributes()["AccountAttributes"]
    }
    assert (told["supported-platforms"], told["default-vpc"]) == ("EC2", "none")
    assert told["max-instances"] == "10"
    assert code(ec2.describe_account_attributes, AttributeNames=["x"]) == "InvalidParameterValue"


def test_version_2_of_the_signature_and_the_oldest_api_are_understood(ec2, door):
    id = run(ec2)["InstanceId"]
    old = boto3.client(
        "ec2",
        endpoint_url=door.url + "/services/Cloud",
        aws_access_key_id=door.keys.access_key,
        aws_secret_access_key=door.keys.secret,
        config=botocore.config.Config(signature_version="v2", retries={"max_attempts": 0}),
        region_name="anything",
    )
    [shown] = old.describe_instances(InstanceIds=[id])["Reservations"]
    assert shown["Instances"][0]["InstanceId"] == id
    answer = door.ask("Action=DescribeInstances&Version=2010-08-31")
    assert b'xmlns="http://ec2.amazonaws.com/doc/2010-08-31/"' in answer.body
    short = answer.find("reservationSet/item/instancesSet/item/instanceId")
    assert short == id[:10]
    asked = f"Action=DescribeInstances&Filter.1.Name=instance-id&Filter.1.Value.1={short}"
    assert door.ask(asked).find("reservationSet/item/instancesSet/item/instanceId") == id
