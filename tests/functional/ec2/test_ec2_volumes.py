"""Volumes by an unmodified boto3: words, codes and what is beside an instance."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from minicloud.context import Context
from tests.conftest import InProcessCloud
from tests.functional.ec2.conftest import Door


def code(call: Callable[..., Any], **arguments: Any) -> str:
    """The error code that the call is answered with."""
    with pytest.raises(ClientError) as refused:
        call(**arguments)
    return str(refused.value.response["Error"]["Code"])


@pytest.fixture
def ready(cloud: InProcessCloud, door: Door, caller: Callable[[], Context]) -> Any:
    """boto3 before a cloud with a volume host and a running instance; (client, instance id)."""
    cloud.volume("h1")
    ec2 = door.client()
    made = ec2.run_instances(ImageId="ami-tty", InstanceType="m1.nano", MinCount=1, MaxCount=1)
    id = made["Instances"][0]["InstanceId"]
    ec2.get_waiter("instance_running").wait(
        InstanceIds=[id], WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )
    return ec2, id


FAST = {"Delay": 1, "MaxAttempts": 30}


def test_the_life_of_a_volume_as_boto3_sees_it(ready: Any, cloud: InProcessCloud) -> None:
    ec2, instance = ready
    made = ec2.create_volume(AvailabilityZone="nova", Size=2, VolumeType="gp3")
    id = made["VolumeId"]
    assert re.fullmatch("vol-[0-9a-f]{17}", id)
    assert (made["State"], made["Size"], made["VolumeType"]) == ("creating", 2, "gp3")
    ec2.get_waiter("volume_available").wait(VolumeIds=[id], WaiterConfig=FAST)
    told = ec2.attach_volume(VolumeId=id, InstanceId=instance, Device="/dev/sdf")
    assert (told["State"], told["Device"], told["InstanceId"]) == (
        "attaching",
        "/dev/sdf",
        instance,
    )
    ec2.get_waiter("volume_in_use").wait(VolumeIds=[id], WaiterConfig=FAST)

    def attached() -> Any:
        return ec2.describe_volumes(
            Filters=[
                {"Name": "attachment.status", "Values": ["attached"]},
                {"Name": "attachment.instance-id", "Values": [instance]},
                {"Name": "status", "Values": ["in-use"]},
            ]
        )["Volumes"]

    [shown] = cloud.wait(attached)  # type: ignore[misc]
    assert shown["VolumeId"] == id
    holding = [{"Name": "block-device-mapping.volume-id", "Values": [id]}]
    [described] = ec2.describe_instances(Filters=holding)["Reservations"][0]["Instances"]
    [mapping] = described["BlockDeviceMappings"]
    assert (mapping["DeviceName"], mapping["Ebs"]["VolumeId"]) == ("/dev/sdf", id)
    assert mapping["Ebs"]["Status"] == "attached"
    assert ec2.detach_volume(VolumeId=id)["State"] == "detaching"
    ec2.get_waiter("volume_available").wait(VolumeIds=[id], WaiterConfig=FAST)
    ec2.delete_volume(VolumeId=id)
    ec2.get_waiter("volume_deleted").wait(VolumeIds=[id], WaiterConfig=FAST)
    assert ec2.describe_volumes()["Volumes"] == []


def test_what_is_wrong_has_the_code_aws_gives_it(ready: Any) -> None:
    ec2, instance = ready
    id = ec2.create_volume(AvailabilityZone="nova", Size=1)["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[id], WaiterConfig=FAST)
    attach, detach, delete = ec2.attach_volume, ec2.detach_volume, ec2.delete_volume
    gone = "vol-" + "0" * 17
    at = {"InstanceId": instance, "Device": "/dev/vdb"}
    assert code(delete, VolumeId=gone) == "InvalidVolume.NotFound"
    assert code(delete, VolumeId="vol-x") == "InvalidVolumeID.Malformed"
    assert code(detach, VolumeId=id) == "IncorrectState"
    assert code(attach, VolumeId=id, **at | {"Device": "/dev/sda"}) == "InvalidParameterValue"
    assert code(attach, VolumeId=id, **at | {"InstanceId": "i-" + "0" * 17}) == (
        "InvalidInstanceID.NotFound"
    )
    assert code(attach, VolumeId=id, DryRun=True, **at) == "DryRunOperation"
    attach(VolumeId=id, **at)
    assert code(attach, VolumeId=id, **at) == "VolumeInUse"
    assert code(delete, VolumeId=id) == "VolumeInUse"
    create = ec2.create_volume
    assert code(create, AvailabilityZone="mars", Size=1) == "InvalidParameterValue"
    assert code(create, AvailabilityZone="nova", Size=0) == "InvalidParameterValue"
    assert code(create, AvailabilityZone="nova", Size=1000) == "VolumeLimitExceeded"
    assert code(create, AvailabilityZone="nova") == "MissingParameter"
    snapshot = {"SnapshotId": "snap-12345678"}
    assert code(create, AvailabilityZone="nova", Size=1, **snapshot) == "UnsupportedOperation"


def test_a_client_token_makes_one_volume(ready: Any) -> None:
    ec2, _ = ready
    wish = {"AvailabilityZone": "nova", "Size": 1, "ClientToken": "once"}
    assert ec2.create_volume(**wish)["VolumeId"] == ec2.create_volume(**wish)["VolumeId"]
    assert code(ec2.create_volume, **wish | {"Size": 2}) == "IdempotentParameterMismatch"


def test_anothers_volume_is_none(ready: Any, caller: Callable[[], Context]) -> None:
    from minicloud.cloud import volumes
    from minicloud.ids import ec2 as shown

    ec2, _ = ready
    other = shown("vol", volumes.create(caller(), size_gib=1, zone="nova").row.id)
    assert ec2.describe_volumes()["Volumes"] == []
    assert code(ec2.describe_volumes, VolumeIds=[other]) == "InvalidVolume.NotFound"
    assert code(ec2.delete_volume, VolumeId=other) == "InvalidVolume.NotFound"
