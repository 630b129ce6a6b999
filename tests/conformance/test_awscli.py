"""The aws command, with novarc and nothing else."""

from __future__ import annotations

import filecmp
import os
import pathlib
import urllib.request
from typing import Any

from tests.conformance.clients import User


def aws(user: User, *words: str) -> Any:
    return user.json("aws", "ec2", *words, "--output", "json")


def tagged(kind: str) -> tuple[str, str]:
    return "--tag-specifications", f"ResourceType={kind},Tags=[{{Key=by,Value=aws}}]"


def test_an_instance_lives_and_ends(user: User, tmp_path: pathlib.Path) -> None:
    material = aws(user, "create-key-pair", "--key-name", "aws", *tagged("key-pair"))
    assert material["KeyMaterial"].startswith("-----BEGIN")
    group = aws(
        user, "create-security-group", "--group-name", "aws", "--description", "of aws",
        *tagged("security-group"),
    )["GroupId"]  # fmt: skip
    aws(
        user, "authorize-security-group-ingress", "--group-id", group,
        "--protocol", "tcp", "--port", "22", "--cidr", "0.0.0.0/0",
    )  # fmt: skip
    (tmp_path / "user-data").write_text("#!/bin/sh\necho hello\n")
    made = aws(
        user, "run-instances", "--image-id", "ami-tty", "--instance-type", "m1.nano",
        "--count", "2", "--key-name", "aws", "--security-group-ids", group,
        "--user-data", f"file://{tmp_path}/user-data", *tagged("instance"),
    )  # fmt: skip
    one, two = (instance["InstanceId"] for instance in made["Instances"])
    aws(user, "wait", "instance-running", "--instance-ids", one, two)
    aws(user, "wait", "instance-status-ok", "--instance-ids", one)
    found = aws(
        user, "describe-instances", "--filters", "Name=tag:by,Values=aws",
        "Name=instance-state-name,Values=running",
        "--query", "Reservations[].Instances[].InstanceId",
    )  # fmt: skip
    assert sorted(found) == sorted([one, two])
    aws(user, "create-tags", "--resources", one, "--tags", "Key=Name,Value=web")
    shown = aws(user, "describe-tags", "--filters", f"Name=resource-id,Values={one}")["Tags"]
    assert {tag["Key"]: tag["Value"] for tag in shown} == {"by": "aws", "Name": "web"}
    aws(user, "delete-tags", "--resources", one, "--tags", "Key=Name")
    assert aws(user, "get-console-output", "--instance-id", one)["Output"]
    aws(user, "stop-instances", "--instance-ids", one)
    aws(user, "wait", "instance-stopped", "--instance-ids", one)
    aws(user, "start-instances", "--instance-ids", one)
    aws(user, "wait", "instance-running", "--instance-ids", one)
    aws(user, "reboot-instances", "--instance-ids", one)
    aws(user, "terminate-instances", "--instance-ids", one, two)
    aws(user, "wait", "instance-terminated", "--instance-ids", one, two)
    aws(user, "delete-security-group", "--group-id", group)
    aws(user, "delete-key-pair", "--key-name", "aws")
    assert aws(user, "describe-tags")["Tags"] == []


def test_lists_are_read_by_pages_and_shown_as_tables(user: User) -> None:
    kinds = aws(user, "describe-instance-types", "--page-size", "5")["InstanceTypes"]
    assert "m1.nano" in {kind["InstanceType"] for kind in kinds}
    assert "ami-tty" in user.says("aws", "ec2", "describe-images", "--output", "table")
    for what in ("addresses", "vpcs", "subnets", "snapshots"):
        assert list(aws(user, f"describe-{what}").values()) == [[]]
    assert "AccountAttributes" in aws(user, "describe-account-attributes")


def test_what_is_wrong_is_said_with_the_code_of_aws(user: User) -> None:
    for words, code in (
        (("describe-instances", "--instance-ids", "i-12345678"), "InvalidInstanceID.NotFound"),
        (("run-instances", "--image-id", "ami-none"), "InvalidAMIID.NotFound"),
        (("run-instances", "--image-id", "ami-tty", "--dry-run"), "DryRunOperation"),
        (("create-tags", "--resources", "x", "--tags", "Key=a,Value=b"), "InvalidID"),
        (("create-vpc", "--cidr-block", "10.0.0.0/16"), "UnsupportedOperation"),
        (("describe-regions", "--region", "mars"), "SignatureDoesNotMatch"),
    ):
        assert f"({code})" in user.fails("aws", "ec2", *words)


def test_s3_copies_synchronises_lists_and_removes(user: User, tmp_path: pathlib.Path) -> None:
    def s3(*words: str) -> str:
        return user.says("aws", "s3", *words)

    large, here, there = tmp_path / "large", tmp_path / "here", tmp_path / "there"
    large.write_bytes(os.urandom((9 << 20) + 1))  # above 8 MiB it sends parts
    (here / "b").mkdir(parents=True)
    (here / "a").write_text("a")
    (here / "b" / "ü x+y&z").write_text("z")
    s3("mb", "s3://of-aws")
    s3("cp", "large", "s3://of-aws/large", "--no-progress")
    s3("cp", "s3://of-aws/large", "back", "--no-progress")
    assert filecmp.cmp(large, tmp_path / "back", shallow=False)
    s3("mv", "s3://of-aws/large", "s3://of-aws/moved", "--no-progress")
    s3("sync", "here", "s3://of-aws/d", "--no-progress")
    assert s3("sync", "here", "s3://of-aws/d", "--no-progress") == ""  # nothing has changed
    s3("sync", "s3://of-aws/d", "there", "--no-progress")
    assert (there / "b" / "ü x+y&z").read_text() == "z"
    shown = s3("ls", "s3://of-aws").split()
    assert (shown[:2], shown[-2:]) == (["PRE", "d/"], [str((9 << 20) + 1), "moved"])
    assert "Total Objects: 3" in s3("ls", "s3://of-aws", "--recursive", "--summarize")
    with urllib.request.urlopen(s3("presign", "s3://of-aws/d/a").strip(), timeout=30) as answer:
        assert answer.read() == b"a"
    s3("rm", "s3://of-aws/moved")
    assert "BucketNotEmpty" in user.fails("aws", "s3", "rb", "s3://of-aws")
    s3("rb", "s3://of-aws", "--force")
    assert s3("ls") == ""
    assert "(NoSuchBucket)" in user.fails("aws", "s3", "ls", "s3://of-aws")
