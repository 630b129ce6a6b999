"""Instances by an unmodified boto3, on the simulated hypervisor."""

import base64

import pytest
from botocore.exceptions import ClientError

from minicloud import context
from minicloud.cloud import projects

RUN = {"ImageId": "ami-tty", "InstanceType": "m1.nano", "MinCount": 1, "MaxCount": 1}


def refused(call, **arguments):
    with pytest.raises(ClientError) as raised:
        call(**arguments)
    error = raised.value.response["Error"]
    return error["Code"], error["Message"]


def code(call, **arguments):
    return refused(call, **arguments)[0]


def wait(ec2, name, *ids):
    waiter = ec2.get_waiter(f"instance_{name}")
    waiter.wait(InstanceIds=list(ids), WaiterConfig={"Delay": 0.05, "MaxAttempts": 600})


def run(ec2, **more):
    return ec2.run_instances(**{**RUN, **more})["Instances"]


def instance(ec2, id):
    [reservation] = ec2.describe_instances(InstanceIds=[id])["Reservations"]
    [found] = reservation["Instances"]
    return found


# --- without a daemon: what is decided -------------------------------------------------------


def test_a_new_instance_is_pending(ec2, door):
    ec2.create_key_pair(KeyName="mine")
    group = ec2.create_security_group(GroupName="web", Description="d")["GroupId"]
    reservation = ec2.run_instances(**RUN, KeyName="mine", SecurityGroupIds=[group])
    assert reservation["ReservationId"].startswith("r-")
    assert reservation["OwnerId"] == door.keys.project_id
    [made] = reservation["Instances"]
    assert made["State"] == {"Code": 0, "Name": "pending"}
    assert made["StateReason"] == {"Code": "pending", "Message": "pending"}
    assert (made["ImageId"], made["InstanceType"]) == ("ami-tty", "m1.nano")
    assert (made["KeyName"], made["AmiLaunchIndex"]) == ("mine", 0)
    assert made["Placement"]["AvailabilityZone"] == "nova"
    assert made["SecurityGroups"] == [{"GroupId": group, "GroupName": "web"}]
    assert made["PrivateIpAddress"].startswith("10.0.0.")
    [card] = made["NetworkInterfaces"]
    assert card["PrivateIpAddress"] == made["PrivateIpAddress"]
    assert instance(ec2, made["InstanceId"]) == made


def test_one_request_is_one_reservation(ec2):
    made = run(ec2, MinCount=2, MaxCount=3)
    assert [one["AmiLaunchIndex"] for one in made] == [0, 1, 2]
    assert len({one["PrivateIpAddress"] for one in made}) == 3
    [reservation] = ec2.describe_instances()["Reservations"]
    assert len(reservation["Instances"]) == 3


def test_the_same_client_token_starts_nothing_new(ec2):
    [first] = run(ec2, ClientToken="once")
    [again] = run(ec2, ClientToken="once")
    assert again["InstanceId"] == first["InstanceId"]
    assert first["ClientToken"] == "once"
    assert code(ec2.run_instances, **{**RUN, "MaxCount": 2}, ClientToken="once") == (
        "IdempotentParameterMismatch"
    )
    assert len(ec2.describe_instances()["Reservations"]) == 1


def test_what_asks_for_nothing_special_is_accepted(ec2):
    run(
        ec2,
        EbsOptimized=False,
        Monitoring={"Enabled": False},
        Placement={"Tenancy": "default", "GroupName": ""},
        InstanceInitiatedShutdownBehavior="stop",
        Ipv6AddressCount=0,
        AdditionalInfo="x",
    )


def test_a_dry_run_starts_nothing(ec2):
    assert code(ec2.run_instances, **RUN, DryRun=True) == "DryRunOperation"
    assert ec2.describe_instances()["Reservations"] == []


CANNOT = [
    ({"ImageId": "ami-nothing"}, None),
    ({"ImageId": ""}, "MissingParameter"),
    ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
    ({"ImageId": "nonsense"}, "InvalidAMIID.Malformed"),
    ({"ImageId": "x" * 10000}, "InvalidAMIID.Malformed"),
    ({"MinCount": 0}, "InvalidParameterValue"),
    ({"MinCount": -1}, "InvalidParameterValue"),
    ({"MinCount": 2}, None),
    ({"MaxCount": 2**31 - 1}, None),
    ({"InstanceType": "t3.micro"}, "InvalidParameterValue"),
    ({"InstanceType": "m1.xlarge\x00"}, "InvalidParameterValue"),
    ({"KeyName": "nobody"}, "InvalidKeyPair.NotFound"),
    ({"SecurityGroups": ["nobody"]}, "InvalidGroup.NotFound"),
    ({"SecurityGroupIds": ["sg-0123456789abcdef0"]}, "InvalidGroup.NotFound"),
    ({"SecurityGroupIds": ["web"]}, "InvalidGroupId.Malformed"),
    ({"UserData": "x" * 100_000}, "InvalidParameterValue"),
    ({"ClientToken": "x" * 65}, "InvalidParameterValue"),
    ({"Placement": {"AvailabilityZone": "mars"}}, "InvalidParameterValue"),
    ({"Placement": {"Tenancy": "dedicated"}}, "UnsupportedOperation"),
    ({"InstanceInitiatedShutdownBehavior": "terminate"}, "UnsupportedOperation"),
    ({"EbsOptimized": True}, "UnsupportedOperation"),
    (
        {"TagSpecifications": [{"ResourceType": "volume", "Tags": [{"Key": "a"}]}]},
        "InvalidParameterValue",
    ),
]


def test_what_cannot_be_run_is_refused_and_leaves_no_trace(ec2, subtests):
    for change, error in CANNOT:
        with subtests.test(str(change)[:100]):
            given = code(ec2.run_instances, **{**RUN, **change})
            unplanned = given in ("InternalError", "Unavailable")
            assert given == error or (error is None and not unplanned)
            assert ec2.describe_instances()["Reservations"] == []


def test_user_data_must_be_base64(ec2, door):
    run_ = "Action=RunInstances&ImageId=ami-tty&MinCount=1&MaxCount=1&UserData="
    assert door.ask(run_ + "not%20base64!").code == "InvalidParameterValue"
    assert door.ask(run_ + "aGVsbG8%3D").status == 200


def test_the_quota_is_told(ec2):
    given, message = refused(ec2.run_instances, **{**RUN, "MinCount": 11, "MaxCount": 11})
    assert given == "InstanceLimitExceeded"
    assert "10" in message


@pytest.mark.parametrize("verb", ["start", "stop", "reboot", "terminate"])
def test_an_instance_that_is_not_there_is_not_found(ec2, verb):
    call = getattr(ec2, f"{verb}_instances")
    assert code(call, InstanceIds=["i-0123456789abcdef0"]) == "InvalidInstanceID.NotFound"
    assert code(call, InstanceIds=["i-xyz"]) == "InvalidInstanceID.Malformed"
    assert code(call, InstanceIds=["sg-0123456789abcdef0"]) == "InvalidInstanceID.Malformed"
    assert code(ec2.describe_instances, InstanceIds=["i-0123456789abcdef0"]) == (
        "InvalidInstanceID.NotFound"
    )


def test_one_wrong_id_stops_the_whole_request(ec2):
    [made] = run(ec2)
    ids = [made["InstanceId"], "i-0123456789abcdef0"]
    assert code(ec2.terminate_instances, InstanceIds=ids) == "InvalidInstanceID.NotFound"
    assert instance(ec2, made["InstanceId"])["State"]["Name"] == "pending"


def test_another_projects_instance_does_not_exist(door, ec2):
    [made] = run(ec2)
    projects.create(context.admin(), "other", "bob")
    other = door.client(access_key=f"{door.keys.access_key}:other")
    for call in (other.describe_instances, other.terminate_instances, other.stop_instances):
        assert code(call, InstanceIds=[made["InstanceId"]]) == "InvalidInstanceID.NotFound"
    assert code(other.get_console_output, InstanceId=made["InstanceId"]) == (
        "InvalidInstanceID.NotFound"
    )
    assert other.describe_instances()["Reservations"] == []


def test_an_instance_that_no_host_has_is_terminated_at_once(ec2):
    [made] = run(ec2)
    [change] = ec2.terminate_instances(InstanceIds=[made["InstanceId"]])["TerminatingInstances"]
    assert change["PreviousState"]["Name"] == "pending"
    assert change["CurrentState"]["Name"] == "terminated"
    [again] = ec2.terminate_instances(InstanceIds=[made["InstanceId"]])["TerminatingInstances"]
    assert again["CurrentState"]["Name"] == "terminated"
    gone = instance(ec2, made["InstanceId"])
    assert gone["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert "PrivateIpAddress" not in gone


def test_instances_are_found_by_filters(ec2):
    [one] = run(ec2)
    [two] = run(ec2, InstanceType="m1.tiny")
    ec2.terminate_instances(InstanceIds=[two["InstanceId"]])

    def found(**filters):
        asked = [{"Name": n.replace("_", "-"), "Values": v} for n, v in filters.items()]
        reservations = ec2.describe_instances(Filters=asked)["Reservations"]
        return {made["InstanceId"] for each in reservations for made in each["Instances"]}

    assert found(instance_state_name=["pending"]) == {one["InstanceId"]}
    assert found(instance_state_name=["pending", "terminated"]) == {
        one["InstanceId"],
        two["InstanceId"],
    }
    assert found(instance_type=["m1.*"], instance_state_name=["term*"]) == {two["InstanceId"]}
    assert found(instance_id=[one["InstanceId"]]) == {one["InstanceId"]}
    assert found(image_id=["ami-tty"], private_ip_address=["10.0.0.*"]) == {one["InstanceId"]}
    assert found(instance_type=["m1_*"]) == set()


def test_instances_come_in_pages(ec2):
    run(ec2, MinCount=7, MaxCount=7)
    paginator = ec2.get_paginator("describe_instances")
    pages = paginator.paginate(PaginationConfig={"PageSize": 5})
    counts = [sum(len(r["Instances"]) for r in page["Reservations"]) for page in pages]
    assert counts == [5, 2]


# --- with a cloud behind it ------------------------------------------------------------------


def test_the_life_of_an_instance(cloud, ec2):
    [made] = run(ec2, UserData="#!/bin/sh\necho hello\n")
    id = made["InstanceId"]
    wait(ec2, "running", id)
    running = instance(ec2, id)
    assert running["State"] == {"Code": 16, "Name": "running"}
    assert "StateReason" not in running

    [change] = ec2.stop_instances(InstanceIds=[id])["StoppingInstances"]
    assert change["PreviousState"]["Name"] == "running"
    assert change["CurrentState"]["Name"] in ("stopping", "stopped")
    wait(ec2, "stopped", id)
    [change] = ec2.start_instances(InstanceIds=[id])["StartingInstances"]
    assert change["PreviousState"]["Name"] == "stopped"
    assert change["CurrentState"]["Name"] == "pending"
    wait(ec2, "running", id)
    assert ec2.reboot_instances(InstanceIds=[id])["ResponseMetadata"]["HTTPStatusCode"] == 200
    wait(ec2, "running", id)

    console = ec2.get_console_output(InstanceId=id)
    assert console["InstanceId"] == id
    assert isinstance(console["Output"], str)
    assert console["Timestamp"].year > 2000

    ec2.terminate_instances(InstanceIds=[id])
    wait(ec2, "terminated", id)
    assert instance(ec2, id)["State"] == {"Code": 48, "Name": "terminated"}


def test_stopping_what_is_stopped_changes_nothing(cloud, ec2):
    [made] = run(ec2)
    wait(ec2, "running", made["InstanceId"])
    for verb, word in (("stop", "Stopping"), ("start", "Starting")):
        call = getattr(ec2, f"{verb}_instances")
        call(InstanceIds=[made["InstanceId"]])
        wait(ec2, {"stop": "stopped", "start": "running"}[verb], made["InstanceId"])
        [change] = call(InstanceIds=[made["InstanceId"]])[f"{word}Instances"]
        assert change["PreviousState"] == change["CurrentState"]


def test_an_instance_no_host_can_take_says_why(bare_cloud, options, ec2):
    options("simulated", memory_mib=1024)
    bare_cloud.compute("h1")
    bare_cloud.scheduler("h1")
    [made] = run(ec2, InstanceType="m1.xlarge")
    id = made["InstanceId"]
    bare_cloud.wait(lambda: instance(ec2, id)["State"]["Name"] == "terminated")
    reason = instance(ec2, id)["StateReason"]
    assert reason["Code"] == "Server.InternalError"
    assert "h1" in reason["Message"]
    assert "16384" in reason["Message"]


def test_the_console_is_base64_on_the_wire(cloud, ec2, door):
    [made] = run(ec2)
    wait(ec2, "running", made["InstanceId"])
    answer = door.ask(f"Action=GetConsoleOutput&InstanceId={made['InstanceId']}")
    base64.b64decode(answer.find("output") or "", validate=True)
