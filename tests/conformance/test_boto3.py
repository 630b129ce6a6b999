"""boto3, as its user's guide shows it: the resource model and the waiters."""

from __future__ import annotations

from tests.conformance.clients import User

LIFE = """
import boto3, botocore.exceptions

ec2, client = boto3.resource("ec2"), boto3.client("ec2")
FAST = {"Delay": 1, "MaxAttempts": 60}

def tags(kind, **given):
    listed = [{"Key": key, "Value": value} for key, value in given.items()]
    return [{"ResourceType": kind, "Tags": listed}]

def refused(code, call, **arguments):
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        assert error.response["Error"]["Code"] == code, error
    else:
        raise AssertionError(f"{code} was not raised")

pair = ec2.create_key_pair(KeyName="boto3", TagSpecifications=tags("key-pair", by="boto3"))
assert pair.key_material.startswith("-----BEGIN RSA PRIVATE KEY-----")
refused("InvalidKeyPair.Duplicate", client.create_key_pair, KeyName="boto3")
group = ec2.create_security_group(
    GroupName="boto3", Description="of boto3", TagSpecifications=tags("security-group", by="boto3")
)
group.authorize_ingress(IpProtocol="tcp", FromPort=22, ToPort=22, CidrIp="0.0.0.0/0")
group.reload()
assert [rule["FromPort"] for rule in group.ip_permissions] == [22]

image = list(ec2.images.filter(Filters=[{"Name": "image-type", "Values": ["machine"]}]))[0]
made = ec2.create_instances(
    ImageId=image.id, InstanceType="m1.nano", MinCount=2, MaxCount=2, KeyName="boto3",
    SecurityGroupIds=[group.id], UserData="#!/bin/sh\\necho hello\\n",
    TagSpecifications=tags("instance", Name="web", by="boto3"),
)
one, two = made
one.wait_until_running(WaiterConfig=FAST)
two.wait_until_running(WaiterConfig=FAST)
client.get_waiter("instance_status_ok").wait(InstanceIds=[one.id, two.id], WaiterConfig=FAST)

mine = [{"Name": "tag:by", "Values": ["boto3"]}]
running = mine + [{"Name": "instance-state-name", "Values": ["running"]}]
assert {found.id for found in ec2.instances.filter(Filters=running)} == {one.id, two.id}
one.reload()
assert {tag["Key"]: tag["Value"] for tag in one.tags} == {"Name": "web", "by": "boto3"}
assert one.private_ip_address != two.private_ip_address
assert one.describe_attribute(Attribute="userData")["UserData"]["Value"]
one.create_tags(Tags=[{"Key": "Name", "Value": "front"}])
assert [found.id for found in ec2.instances.filter(
    Filters=[{"Name": "tag:Name", "Values": ["fr*"]}])] == [one.id]
assert one.console_output()["Output"]

pages = client.get_paginator("describe_tags").paginate(PaginationConfig={"PageSize": 5})
keys = [tag["Key"] for page in pages for tag in page["Tags"]]
assert sorted(keys) == ["Name", "Name", "by", "by", "by", "by"], keys

refused("DryRunOperation", one.stop, DryRun=True)
one.stop()
one.wait_until_stopped(WaiterConfig=FAST)
one.start()
one.wait_until_running(WaiterConfig=FAST)
one.reboot()
refused("DependencyViolation", group.delete)
refused("InvalidInstanceID.NotFound", client.describe_instances, InstanceIds=["i-12345678"])
refused("UnsupportedOperation", client.create_vpc, CidrBlock="10.0.0.0/16")

ec2.instances.filter(Filters=mine).terminate()
one.wait_until_terminated(WaiterConfig=FAST)
two.wait_until_terminated(WaiterConfig=FAST)
group.delete()
pair.delete()
assert client.describe_tags()["Tags"] == []
"""


def test_an_instance_lives_and_ends(user: User) -> None:
    user.python(LIFE)


def test_signature_version_2_is_accepted_when_it_is_asked_for(user: User) -> None:
    user.python("""
        import boto3, botocore.config
        old = boto3.client("ec2", config=botocore.config.Config(signature_version="v2"))
        assert old.describe_regions()["Regions"][0]["RegionName"] == "nova"
    """)


TRANSFER = """
import os, urllib.request

import boto3, botocore.exceptions
from boto3.s3.transfer import TransferConfig

s3, part = boto3.resource("s3"), 5 << 20
client = s3.meta.client
parts = TransferConfig(multipart_threshold=part, multipart_chunksize=part, max_concurrency=4)
with open("sent", "wb") as file:
    file.write(os.urandom(3 * part + 1))
bucket = s3.create_bucket(
    Bucket="transfer", CreateBucketConfiguration={"LocationConstraint": client.meta.region_name}
)
seen = []
bucket.upload_file(
    "sent", "large", Config=parts, Callback=seen.append, ExtraArgs={"Metadata": {"by": "me"}}
)
assert sum(seen) == 3 * part + 1
assert bucket.Object("large").e_tag.endswith('-4"'), "it came in four parts"
assert bucket.Object("large").metadata == {"by": "me"}
bucket.download_file("large", "back", Config=parts)
with open("sent", "rb") as sent, open("back", "rb") as back:
    assert sent.read() == back.read()
bucket.copy({"Bucket": "transfer", "Key": "large"}, "copied", Config=parts)
assert bucket.Object("copied").e_tag.endswith('-4"')
with open("back", "wb") as file:
    bucket.download_fileobj("copied", file, Config=parts)
with open("sent", "rb") as sent, open("back", "rb") as back:
    assert sent.read() == back.read()
assert [one.key for one in bucket.objects.filter(Prefix="c")] == ["copied"]
assert bucket.Object("large").get(Range="bytes=0-9")["ContentLength"] == 10

upload = bucket.Object("broken off").initiate_multipart_upload()
upload.Part(1).upload(Body=b"x" * part)
assert [one.id for one in bucket.multipart_uploads.all()] == [upload.id]
upload.abort()
assert list(bucket.multipart_uploads.all()) == []

where = {"Bucket": "transfer", "Key": "signed"}
url = client.generate_presigned_url("put_object", Params=where)
urllib.request.urlopen(urllib.request.Request(url, b"by url", method="PUT"))
assert client.get_object(**where)["Body"].read() == b"by url"
try:
    client.put_bucket_versioning(
        Bucket="transfer", VersioningConfiguration={"Status": "Enabled"}
    )
except botocore.exceptions.ClientError as error:
    assert error.response["Error"]["Code"] == "NotImplemented", error
else:
    raise AssertionError("versions were taken")
bucket.objects.all().delete()
bucket.delete()
"""


def test_the_transfer_manager_sends_copies_and_fetches_in_parts(user: User) -> None:
    user.python(TRANSFER)
