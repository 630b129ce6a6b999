"""What the EC2 API answers to requests, right and wrong, whatever the action."""

import logging
import re
import socket
import urllib.parse

import botocore.exceptions
import pytest
import sqlalchemy as sa

from minicloud import context
from minicloud.cloud import projects, users
from minicloud.db.session import transaction


def refused(call, **arguments):
    """The error that boto3 raises: its code, HTTP status and message."""
    with pytest.raises(botocore.exceptions.ClientError) as raised:
        call(**arguments)
    answer = raised.value.response
    return (
        answer["Error"]["Code"],
        answer["ResponseMetadata"]["HTTPStatusCode"],
        answer["Error"]["Message"],
    )


# --- paths, methods, bodies ------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/services/Cloud", "/services/Cloud/"])
def test_the_api_is_at_three_paths(door, path):
    answer = door.ask("Action=DescribeRegions&Version=2016-11-15", path)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/xml;charset=UTF-8")
    assert answer.find("regionInfo/item/regionName") == "nova"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_it_tells_without_a_signature_that_it_lives(door, method):
    answer = door.send(method, "/services/Cloud", {})
    assert answer.status == 200
    assert answer.body == (b"2016-11-15\n" if method == "GET" else b"")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "InvalidRequest"),
        ("POST", "/services/Cloud/more", 404, "InvalidRequest"),
        ("GET", "/%00%ff/../etc/passwd", 404, "InvalidRequest"),
        ("PUT", "/", 405, "InvalidRequest"),
        ("DELETE", "/services/Cloud", 405, "InvalidRequest"),
        ("OPTIONS", "/", 405, "InvalidRequest"),
        ("POST", "/", 401, "MissingAuthenticationToken"),
        ("GET", "/?Action=DescribeInstances", 401, "MissingAuthenticationToken"),
    ],
)
def test_what_is_not_there_is_answered_in_xml_with_a_request_id(door, method, path, status, code):
    answer = door.send(method, path, {}, b"" if method in ("POST", "PUT") else None)
    assert (answer.status, answer.code) == (status, code)
    assert re.fullmatch("req-[0-9a-f-]{36}", answer.find("RequestID"))
    assert answer.headers["x-amzn-requestid"] == answer.find("RequestID")
    assert ("Allow" in answer.headers) == (status == 405)


def raw(door, head, body=b""):
    """What is answered to these bytes."""
    host, port = urllib.parse.urlsplit(door.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_body_over_the_limit_is_not_read(door):
    answer = raw(door, "POST / HTTP/1.0\nContent-Length: 999999999999")
    assert b" 413 " in answer.split(b"\r\n")[0]
    assert b"<Code>RequestEntityTooLarge</Code>" in answer


def test_a_body_that_ends_early_is_refused(door):
    answer = raw(door, "POST / HTTP/1.0\nContent-Length: 100", b"Action=")
    assert b"ended early" in answer


# --- authentication --------------------------------------------------------------------------


def test_a_wrong_secret_and_an_unknown_key_are_told_apart(door):
    wrong = door.client(secret="no")
    assert refused(wrong.describe_regions)[:2] == ("SignatureDoesNotMatch", 403)
    unknown = door.client(access_key="NOBODY")
    code, status, message = refused(unknown.describe_regions)
    assert (code, status) == ("AuthFailure", 401)
    assert "NOBODY" in message


def test_another_region_is_refused_and_ours_named(door, options):
    options("DEFAULT", region="elsewhere")
    code, _, message = refused(door.client().describe_regions)
    assert code == "SignatureDoesNotMatch"
    assert "region 'elsewhere', not 'nova'" in message


def test_the_access_key_names_the_project(door):
    projects.create(context.admin(), "other", "bob")
    client = door.client(access_key=f"{door.keys.access_key}:other")
    client.create_key_pair(KeyName="in-other")
    assert door.client().describe_key_pairs()["KeyPairs"] == []
    client = door.client(access_key=f"{door.keys.access_key}:nowhere")
    assert refused(client.describe_regions)[:2] == ("AuthFailure", 401)


def test_a_deleted_users_key_signs_nothing(door):
    users.create(context.admin(), "gone")
    projects.create(context.admin(), "gones", "gone")
    keys = projects.credentials(context.admin(), "gones", "gone")
    client = door.client(keys.access_key, keys.secret)
    client.describe_regions()
    projects.delete(context.admin(), "gones")
    users.delete(context.admin(), "gone")
    assert refused(client.describe_regions)[0] == "AuthFailure"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_presigned_url_works_without_keys(door, method):
    url = door.client().generate_presigned_url("describe_regions", HttpMethod=method)
    path = url.removeprefix(door.url)
    answer = door.send(method, path, {})
    assert (answer.status, answer.find("regionInfo/item/regionName")) == (200, "nova")
    tampered = door.send(method, path.replace("DescribeRegions", "DescribeImages"), {})
    assert (tampered.status, tampered.code) == (403, "SignatureDoesNotMatch")


# --- actions and parameters ------------------------------------------------------------------


WRONG = [
        ("", "MissingAction", "Action"),
        ("Action=", "MissingAction", "Action"),
        ("Action=Nope", "InvalidAction", "Nope"),
        ("Action=DescribeRegions&Action=RunInstances", "InvalidParameterValue", "Action"),
        ("Action=DescribeRegions&Action.1=x", "UnknownParameter", "Action"),
        ("Action=describe_regions", "InvalidAction", "describe_regions"),
        ("Action=%3Cb%3E%00", "InvalidAction", "<b>\ufffd"),
        ("Action=CreateSnapshot", "UnsupportedOperation", "CreateSnapshot"),
        ("Action=DescribeRegions&Version=yesterday", "InvalidParameterValue", "Version"),
        ("Action=DescribeRegions&Version=<x>", "InvalidParameterValue", "Version"),
        ("Action=CreateKeyPair", "MissingParameter", "KeyName"),
        ("Action=CreateKeyPair&KeyName=a&KeyName=b", "InvalidParameterValue", "KeyName"),
        ("Action=CreateKeyPair&KeyName=k&KeyFormat=ppk", "UnsupportedOperation", "ppk"),
        ("Action=RunInstances&MinCount=x", "InvalidParameterValue", "MinCount"),
        (
            "Action=RunInstances&MinCount=1&MaxCount=1&ImageId=ami-tty&SubnetId=subnet-1",
            "UnsupportedOperation",
            "SubnetId of RunInstances",
        ),
        (
            "Action=RunInstances&MinCount=1&MaxCount=1&ImageId=ami-tty&Placement.HostId=h",
            "UnsupportedOperation",
            "Placement.HostId",
        ),
        (
            "Action=RunInstances&MinCount=1&MaxCount=1&ImageId=ami-tty&Monitoring.Enabled=true",
            "UnsupportedOperation",
            "Monitoring",
        ),
        ("Action=DescribeInstances&Filter=i-1", "UnknownParameter", "Filter"),
        ("Action=StartInstances&InstanceId=", "MissingParameter", "InstanceId"),
        ("Action=DescribeInstances&Filter.1.Name=nope&Filter.1.Value.1=x", "InvalidParameterValue",
         "'nope'"),
        ("Action=DescribeInstances&Filter.1.Name=image-id", "InvalidParameterValue", "no value"),
        ("Action=DescribeInstances&Filter.1.Value.1=x", "MissingParameter", "Filter"),
        ("Action=DescribeInstances&MaxResults=4", "InvalidParameterValue", "5"),
        ("Action=DescribeInstances&MaxResults=1001", "InvalidParameterValue", "1000"),
        ("Action=DescribeInstances&MaxResults=5&InstanceId.1=i-1", "InvalidParameterCombination",
         "InstanceIds"),
        ("Action=DescribeInstances&NextToken=guess", "InvalidNextToken", "token"),
        ("Action=DescribeInstances&NextToken=%C3%BC", "InvalidNextToken", "token"),
        ("Action=DescribeRegions&RegionName.1=mars", "InvalidParameterValue", "mars"),
        ("Action=DescribeAvailabilityZones&ZoneName.1=mars", "InvalidParameterValue", "mars"),
        ("Action=DescribeRegions&X=%FF", "InvalidParameterValue", "UTF-8"),
        ("Action=DescribeRegions&" + "&".join(f"A.{n}=1" for n in range(10001)),
         "InvalidParameterValue", "10000"),
    ]  # fmt: skip


def test_a_wrong_request_is_400_and_says_why(door, subtests):
    for parameters, code, names in WRONG:
        with subtests.test(parameters[:100]):
            answer = door.ask(parameters)
            assert (answer.status, answer.code) == (400, code)
            assert names in answer.message
            assert answer.headers["x-amzn-requestid"] == answer.find("RequestID")


def test_a_body_that_is_not_utf8_is_refused(door):
    answer = door.ask(b"Action=DescribeRegions&X=\xff")
    assert (answer.status, answer.code) == (400, "InvalidParameterValue")
    assert "UTF-8" in answer.message


@pytest.mark.parametrize("version", ["2009-04-04", "2014-10-01", "2016-11-15", "1.0"])
def test_a_version_gets_its_namespace_back(door, version):
    answer = door.ask(f"Action=DescribeRegions&Version={version}")
    namespace = f"http://ec2.amazonaws.com/doc/{version}/"
    assert f'<DescribeRegionsResponse xmlns="{namespace}"><requestId>req-'.encode() in answer.body


def test_older_versions_see_short_ids_and_may_use_them(door, ec2):
    long = ec2.create_security_group(GroupName="g", Description="d")["GroupId"]
    asked = "Action=DescribeSecurityGroups&GroupName.1=g&Version="
    assert door.ask(asked + "2016-11-15").find("securityGroupInfo/item/groupId") == long
    short = door.ask(asked + "2014-10-01").find("securityGroupInfo/item/groupId")
    assert short == long[: len("sg-12345678")]
    found = door.ask(f"Action=DescribeSecurityGroups&GroupId.1={short}&Version=2014-10-01")
    assert found.find("securityGroupInfo/item/groupName") == "g"


def test_what_asks_for_nothing_is_accepted(door, ec2):
    assert ec2.describe_regions(AllRegions=True)["Regions"][0]["OptInStatus"]
    ec2.describe_instances(IncludeManagedResources=True)
    ec2.describe_images(IncludeDeprecated=True, IncludeDisabled=True)
    ec2.create_key_pair(KeyName="k", TagSpecifications=[{"Tags": []}])
    assert door.ask("Action=DescribeInstances&Verbose=true").status == 200


def test_a_dry_run_that_would_succeed_says_so(ec2):
    would = ("DryRunOperation", 412)
    assert refused(ec2.describe_regions, DryRun=True)[:2] == would
    assert refused(ec2.describe_instances, DryRun=True)[:2] == would
    assert refused(ec2.create_key_pair, KeyName="k", DryRun=True)[:2] == would
    assert ec2.describe_key_pairs()["KeyPairs"] == []
    ec2.create_key_pair(KeyName="k")
    code = refused(ec2.create_key_pair, KeyName="k", DryRun=True)[0]
    assert code == "InvalidKeyPair.Duplicate"


# --- pages -----------------------------------------------------------------------------------


def test_pages_hold_everything_once(ec2):
    for number in range(12):
        ec2.create_security_group(GroupName=f"g{number}", Description="d")
    paginator = ec2.get_paginator("describe_security_groups")
    pages = paginator.paginate(PaginationConfig={"PageSize": 5})
    sizes, names = [], []
    for page in pages:
        sizes.append(len(page["SecurityGroups"]))
        names += [group["GroupName"] for group in page["SecurityGroups"]]
    assert sizes == [5, 5, 3]  # and the group "default"
    assert sorted(names) == sorted(["default", *(f"g{number}" for number in range(12))])


def test_a_token_is_good_for_its_own_question_only(door, ec2):
    for number in range(6):
        ec2.create_security_group(GroupName=f"g{number}", Description="d")
    token = ec2.describe_security_groups(MaxResults=5)["NextToken"]
    assert len(ec2.describe_security_groups(MaxResults=5, NextToken=token)["SecurityGroups"]) == 2
    assert len(ec2.describe_security_groups(NextToken=token)["SecurityGroups"]) == 2
    filters = [{"Name": "group-name", "Values": ["*"]}]
    for call, arguments in (
        (ec2.describe_security_groups, {"Filters": filters, "NextToken": token}),
        (ec2.describe_security_groups, {"NextToken": token[:-4] + "AAAA"}),
        (ec2.describe_images, {"NextToken": token}),
    ):
        assert refused(call, **arguments)[:2] == ("InvalidNextToken", 400)
    projects.create(context.admin(), "other", "bob")
    other = door.client(access_key=f"{door.keys.access_key}:other")
    assert refused(other.describe_security_groups, NextToken=token)[0] == "InvalidNextToken"


# --- our own failures ------------------------------------------------------------------------


@transaction
def lose_table(tx, name):
    tx.execute(sa.text(f"DROP TABLE {name}"))


def test_a_database_that_fails_is_503_with_the_reason(ec2):
    lose_table("key_pairs")
    code, status, message = refused(ec2.describe_key_pairs)
    assert (code, status) == ("Unavailable", 503)
    assert "the database does not answer" in message


def test_each_request_is_one_line_in_the_log(door, ec2, caplog):
    caplog.set_level(logging.INFO, "minicloud.wsgi")
    ec2.describe_regions()
    door.send("GET", "/%1b[31mred", {})
    first, second = [record.getMessage() for record in caplog.records
                     if record.name == "minicloud.wsgi"]  # fmt: skip
    assert re.fullmatch(
        r"POST /services/Cloud 200 [0-9]+ bytes [0-9.]+ ms bob from 127\.0\.0\.1", first
    )
    assert re.fullmatch(r"GET \S+ 404 [0-9]+ bytes [0-9.]+ ms - from 127\.0\.0\.1", second)
    assert "\x1b" not in second


def test_secrets_are_never_logged(door, ec2, caplog):
    caplog.set_level(logging.DEBUG, "minicloud")
    material = ec2.create_key_pair(KeyName="k")["KeyMaterial"]
    assert door.keys.secret not in caplog.text
    assert material.splitlines()[1] not in caplog.text
