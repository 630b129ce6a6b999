"""What users, operators and hosts do, each verb once: a few lines a story.

A story is told in three parts, with a `yield` after each of the first two: how the cloud comes to
be as the verb needs it; the verb, asked by the public API as a user would who asks again when he
gets no answer; what must be true once all has settled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import signal
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.promises import play
from tests.promises.bed import DAEMONS, HOST, Cloud
from tests.promises.clients import AWAY, REFUSED
from tests.promises.daemons import wait

Tell = Callable[[Cloud], Iterator[None]]


@dataclasses.dataclass(frozen=True)
class Story:
    """`spoils`: the cloud cannot be put back by its API, and is thrown away afterwards."""

    tell: Tell
    spoils: bool = False

    @property
    def name(self) -> str:
        return self.tell.__name__


STORIES: dict[str, Story] = {}


def story(tell: Tell) -> Tell:
    STORIES[tell.__name__] = Story(tell)
    return tell


def last_story(tell: Tell) -> Tell:
    STORIES[tell.__name__] = Story(tell, spoils=True)
    return tell


# --- what is there before ----------------------------------------

NANO = {"ImageId": "ami-tty", "InstanceType": "m1.nano"}
GONE = "InvalidInstanceID.NotFound"


def launch(cloud: Cloud, count: int = 1, **more: Any) -> list[str]:
    answer = cloud.ask(
        *("ec2", "run_instances"),
        **{**NANO, "MinCount": count, "MaxCount": count, "ClientToken": cloud.token(), **more},
    )
    return [one["InstanceId"] for one in answer["Instances"]]


def running(cloud: Cloud, **more: Any) -> str:
    [id] = launch(cloud, **more)
    play.settle(cloud)
    return id


def stopped(cloud: Cloud) -> str:
    id = running(cloud)
    cloud.ask("ec2", "stop_instances", InstanceIds=[id])
    play.settle(cloud)
    return id


def make_volume(cloud: Cloud) -> str:
    wish = {"AvailabilityZone": "nova", "Size": 1, "ClientToken": cloud.token()}
    return str(cloud.ask("ec2", "create_volume", **wish)["VolumeId"])


def available(cloud: Cloud) -> str:
    id = make_volume(cloud)
    play.settle(cloud)
    return id


def attach(cloud: Cloud, volume: str, instance: str) -> None:
    where = {"VolumeId": volume, "InstanceId": instance, "Device": "/dev/vdb"}
    cloud.ask("ec2", "attach_volume", "VolumeInUse", **where)


def attached(cloud: Cloud) -> tuple[str, str]:
    volume, instance = make_volume(cloud), launch(cloud)[0]
    play.settle(cloud)
    attach(cloud, volume, instance)
    play.settle(cloud)
    return volume, instance


def bucket(cloud: Cloud) -> dict[str, str]:
    """A bucket, and a key in it where nothing is yet."""
    cloud.ask("s3", "create_bucket", "BucketAlreadyOwnedByYou", Bucket="bucket")
    return {"Bucket": "bucket", "Key": "key"}


OLD, NEW = b"old" * 1000, b"new" * 2000
WRONG = "AAAAAAAAAAAAAAAAAAAAAA=="  # nobody's MD5


def stored(cloud: Cloud) -> dict[str, str]:
    where = bucket(cloud)
    cloud.ask("s3", "put_object", **where, Body=OLD)
    play.settle(cloud)
    return where


def body(cloud: Cloud, where: dict[str, str]) -> bytes:
    door = cloud.insist(lambda doors: doors["s3"].get_object(**where)["Body"].read())
    assert door is not None
    return bytes(door)


# --- what is asserted ----------------------------------------


def states(cloud: Cloud, table: str) -> list[str]:
    """The states of what was made since the cloud was empty."""
    return sorted(
        state
        for (state,) in cloud.rows(
            f"SELECT state FROM {table} WHERE id IN ({MADE})", **made(cloud)
        )
    )


MADE = "SELECT resource_id FROM events WHERE id > :since"


def made(cloud: Cloud) -> dict[str, int]:
    return {"since": cloud.since}


def count(cloud: Cloud, query: str, **values: object) -> int:
    [(number,)] = cloud.rows(f"SELECT count(*) FROM {query}", **values)
    return int(number)


# --- instances ----------------------------------------


@story
def run(cloud: Cloud) -> Iterator[None]:
    yield
    ids = launch(cloud, 2)
    yield
    assert len(set(ids)) == 2
    assert states(cloud, "instances") == ["running", "running"]


@story
def run_what_no_host_can_take(cloud: Cloud) -> Iterator[None]:
    yield
    launch(cloud, InstanceType="m1.xlarge")
    yield
    assert states(cloud, "instances") == ["error"]


@story
def run_while_the_network_is_away(cloud: Cloud) -> Iterator[None]:
    play.end(cloud, "network")
    yield
    launch(cloud)
    wait(lambda: count(cloud, "instances WHERE waits > 0"), "the instance waits")
    cloud.start("network")
    yield
    assert states(cloud, "instances") == ["running"]


@story
def terminate(cloud: Cloud) -> Iterator[None]:
    id = running(cloud)
    yield
    cloud.ask("ec2", "terminate_instances", InstanceIds=[id])
    yield
    assert states(cloud, "instances") == ["terminated"]


@story
def terminate_with_a_volume(cloud: Cloud) -> Iterator[None]:
    _, id = attached(cloud)
    yield
    cloud.ask("ec2", "terminate_instances", InstanceIds=[id])
    yield
    assert states(cloud, "instances") == ["terminated"]
    assert states(cloud, "volumes") == ["available"]
    assert states(cloud, "attachments") == ["detached"]


@story
def stop(cloud: Cloud) -> Iterator[None]:
    id = running(cloud)
    yield
    cloud.ask("ec2", "stop_instances", InstanceIds=[id])
    yield
    assert states(cloud, "instances") == ["stopped"]


@story
def start(cloud: Cloud) -> Iterator[None]:
    id = stopped(cloud)
    yield
    cloud.ask("ec2", "start_instances", InstanceIds=[id])
    yield
    assert states(cloud, "instances") == ["running"]


@story
def reboot(cloud: Cloud) -> Iterator[None]:
    id = running(cloud)
    yield
    cloud.ask("ec2", "reboot_instances", InstanceIds=[id])
    yield
    assert states(cloud, "instances") == ["running"]


@story
def the_host_boots(cloud: Cloud) -> Iterator[None]:
    """Its guests are off, and nobody had asked for that."""
    running(cloud)
    [file] = cloud.path.glob("instances/simulated/*/*.json")
    yield
    play.end(cloud, "compute")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "stopped"}))
    cloud.execute("UPDATE hosts SET boot_id = 'the one before' WHERE id = 'compute@h1'")
    cloud.start("compute")
    wait(lambda: not count(cloud, "hosts WHERE boot_id = 'the one before'"), "it has noticed")
    yield
    assert states(cloud, "instances") == ["running"]


@story
def a_guest_halts(cloud: Cloud) -> Iterator[None]:
    running(cloud)
    [file] = cloud.path.glob("instances/simulated/*/*.json")
    yield
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "stopped"}))
    wait(lambda: states(cloud, "instances") == ["stopped"], "it is seen")
    yield


# --- volumes ----------------------------------------


@story
def create_volume(cloud: Cloud) -> Iterator[None]:
    yield
    make_volume(cloud)
    yield
    assert states(cloud, "volumes") == ["available"]


@story
def delete_volume(cloud: Cloud) -> Iterator[None]:
    id = available(cloud)
    yield
    cloud.ask("ec2", "delete_volume", "InvalidVolume.NotFound", VolumeId=id)
    yield
    assert states(cloud, "volumes") == ["deleted"]


@story
def attach_volume(cloud: Cloud) -> Iterator[None]:
    volume, instance = make_volume(cloud), launch(cloud)[0]
    play.settle(cloud)
    yield
    attach(cloud, volume, instance)
    yield
    assert states(cloud, "attachments") == ["attached"]


@story
def detach_volume(cloud: Cloud) -> Iterator[None]:
    volume, _ = attached(cloud)
    yield
    cloud.ask("ec2", "detach_volume", "IncorrectState", VolumeId=volume)
    yield
    assert states(cloud, "attachments") == ["detached"]
    assert states(cloud, "volumes") == ["available"]


@story
def the_bytes_of_a_volume_vanish(cloud: Cloud) -> Iterator[None]:
    available(cloud)
    [file] = cloud.path.glob(f"**/simulated/{HOST}/volumes/*")
    kept = file.read_text()
    yield
    file.unlink()
    wait(lambda: states(cloud, "volumes") == ["error"], "it is seen")
    file.write_text(kept)
    wait(lambda: states(cloud, "volumes") == ["available"], "it is seen, too")
    yield


@story
def a_guest_loses_a_disk(cloud: Cloud) -> Iterator[None]:
    attached(cloud)
    [file] = cloud.path.glob("instances/simulated/*/*.json")
    yield
    file.write_text(json.dumps(json.loads(file.read_text()) | {"volumes": []}))
    wait(lambda: states(cloud, "attachments") == ["detached"], "it is seen")
    yield


# --- key pairs, groups, tags ----------------------------------------


@story
def create_key_pair(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.ask("ec2", "create_key_pair", "InvalidKeyPair.Duplicate", KeyName="k", KeyType="ed25519")
    yield
    assert count(cloud, "key_pairs") == 1


@story
def delete_key_pair(cloud: Cloud) -> Iterator[None]:
    cloud.ask("ec2", "create_key_pair", KeyName="k", KeyType="ed25519")
    yield
    cloud.ask("ec2", "delete_key_pair", KeyName="k")
    yield
    assert count(cloud, "key_pairs") == 0


RULE = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}


def group(cloud: Cloud) -> None:
    cloud.ask(
        *("ec2", "create_security_group", "InvalidGroup.Duplicate"),
        GroupName="group",
        Description="of a story",
    )


@story
def create_group(cloud: Cloud) -> Iterator[None]:
    yield
    group(cloud)
    yield
    assert count(cloud, "security_groups WHERE name = 'group'") == 1


@story
def delete_group(cloud: Cloud) -> Iterator[None]:
    group(cloud)
    yield
    cloud.ask("ec2", "delete_security_group", "InvalidGroup.NotFound", GroupName="group")
    yield
    assert count(cloud, "security_groups WHERE name = 'group'") == 0


@story
def authorize(cloud: Cloud) -> Iterator[None]:
    group(cloud)
    running(cloud, SecurityGroups=["group"])
    yield
    cloud.ask(
        *("ec2", "authorize_security_group_ingress", "InvalidPermission.Duplicate"),
        GroupName="group",
        IpPermissions=[RULE],
    )
    yield
    assert count(cloud, "rules WHERE from_port = 22") == 1


@story
def revoke(cloud: Cloud) -> Iterator[None]:
    group(cloud)
    words = {"GroupName": "group", "IpPermissions": [RULE]}
    cloud.ask("ec2", "authorize_security_group_ingress", **words)
    running(cloud, SecurityGroups=["group"])
    yield
    cloud.ask(
        *("ec2", "revoke_security_group_ingress", "InvalidPermission.NotFound"),
        **words,
    )
    yield
    assert count(cloud, "rules WHERE from_port = 22") == 0


LABEL = [{"Key": "name", "Value": "value"}]


@story
def create_tags(cloud: Cloud) -> Iterator[None]:
    id = running(cloud)
    yield
    cloud.ask("ec2", "create_tags", Resources=[id], Tags=LABEL)
    yield
    assert count(cloud, "tags") == 1


@story
def delete_tags(cloud: Cloud) -> Iterator[None]:
    id = running(cloud)
    cloud.ask("ec2", "create_tags", Resources=[id], Tags=LABEL)
    yield
    cloud.ask("ec2", "delete_tags", Resources=[id], Tags=LABEL)
    yield
    assert count(cloud, "tags") == 0


# --- images ----------------------------------------


@story
def register_image(cloud: Cloud) -> Iterator[None]:
    stored(cloud)
    wish = {"Name": "disk", "ImageLocation": "bucket/key"}
    yield
    cloud.ask("ec2", "register_image", **wish)
    yield
    # who gets no answer and asks again gets another: EC2 has no client token for this
    assert set(states(cloud, "images")) == {"active"}


@story
def deregister_image(cloud: Cloud) -> Iterator[None]:
    stored(cloud)
    id = cloud.ask("ec2", "register_image", Name="disk", ImageLocation="bucket/key")["ImageId"]
    play.settle(cloud)
    yield
    cloud.ask("ec2", "deregister_image", "InvalidAMIID.NotFound", ImageId=id)
    yield
    assert states(cloud, "images") == ["deleted"]


@story
def upload_an_image(cloud: Cloud) -> Iterator[None]:
    """By OpenStack, which says the row first and the bytes next; one cut off is begun anew."""
    yield
    facts = {"name": "disk", "disk_format": "raw", "container_format": "bare"}
    for _ in range(5):
        id = cloud.openstack("POST", "image", "/v2/images", facts)["id"]
        try:
            cloud.openstack("PUT", "image", f"/v2/images/{id}/file", OLD)
        except REFUSED:  # it was cut off, or had come through before the answer was lost
            pass
        play.until_settled_rows(cloud, "images")
        if count(cloud, "images WHERE id = :id AND state = 'active'", id=id):
            break
    yield
    # one whose making was not answered waits for its user
    assert set(states(cloud, "images")) <= {"active", "deleted", "uploading"}
    assert states(cloud, "images").count("active") == 1


@story
def register_an_image_file(cloud: Cloud) -> Iterator[None]:
    file = cloud.path / "disk"
    file.write_bytes(OLD)
    yield
    words = ("image", "register", "disk", str(file), "--word", "disk")
    operate(cloud, *words)
    yield
    assert states(cloud, "images").count("active") == 1
    assert cloud.managed(*words)[0] == 0  # the same bytes: nothing to do
    file.write_bytes(NEW)
    assert cloud.managed(*words)[0] == 1
    assert states(cloud, "images").count("active") == 1


@story
def the_bytes_of_an_image_vanish(cloud: Cloud) -> Iterator[None]:
    [file] = (cloud.path / "images").iterdir()
    aside = cloud.path / "aside"
    yield
    file.rename(aside)
    wait(lambda: count(cloud, "images WHERE state = 'error'"), "it is seen")
    aside.rename(file)
    wait(lambda: count(cloud, "images WHERE state = 'active'"), "it is seen, too")
    yield


@story
def an_upload_is_refused(cloud: Cloud) -> Iterator[None]:
    """Its bytes need a backing file: nothing of it stays."""
    file = cloud.path / "bad"
    file.write_bytes(b"QFI\xfb\x00\x00\x00\x03" + b"\x00" * 8 + b"\x00\x00\x00\x0a" * 100)
    yield
    while True:
        status, _ = cloud.managed("image", "register", "bad", str(file))
        if status is not None:
            break
    assert status == 1
    yield
    assert set(states(cloud, "images")) <= {"deleted", "uploading"}


# --- the object store ----------------------------------------


@story
def create_bucket(cloud: Cloud) -> Iterator[None]:
    yield
    bucket(cloud)
    yield
    assert count(cloud, "buckets") == 1


@story
def delete_bucket(cloud: Cloud) -> Iterator[None]:
    where = bucket(cloud)
    upload = cloud.ask("s3", "create_multipart_upload", **where)["UploadId"]
    cloud.ask("s3", "upload_part", **where, UploadId=upload, PartNumber=1, Body=OLD)
    yield
    cloud.ask("s3", "delete_bucket", "NoSuchBucket", Bucket="bucket")
    yield
    assert count(cloud, "buckets") == 0
    assert count(cloud, "uploads") == 0


@story
def publish(cloud: Cloud) -> Iterator[None]:
    where = stored(cloud)
    yield
    cloud.ask("s3", "put_bucket_acl", Bucket="bucket", ACL="public-read")
    cloud.ask("s3", "put_object_acl", **where, ACL="public-read")
    yield
    assert count(cloud, "buckets WHERE is_public") == 1
    assert count(cloud, "objects WHERE live IS NOT NULL AND is_public") == 1


@story
def put_object(cloud: Cloud) -> Iterator[None]:
    where = stored(cloud)
    yield
    cloud.ask("s3", "put_object", **where, Body=NEW)
    yield
    assert body(cloud, where) == NEW


@story
def put_object_and_never_again(cloud: Cloud) -> Iterator[None]:
    """Whoever gets no answer finds the old object or the new one, never half of one."""
    where = stored(cloud)
    yield
    with contextlib.suppress(*AWAY, REFUSED):
        cloud.once("s3", "put_object", **where, Body=NEW)
        assert body(cloud, where) == NEW
    yield
    assert body(cloud, where) in (OLD, NEW)


@story
def put_what_is_refused(cloud: Cloud) -> Iterator[None]:
    where = stored(cloud)
    yield
    with pytest.raises(REFUSED, match="Digest"):
        cloud.ask("s3", "put_object", **where, Body=NEW, ContentMD5=WRONG)
    yield
    assert body(cloud, where) == OLD


@story
def copy_object(cloud: Cloud) -> Iterator[None]:
    where = stored(cloud)
    yield
    cloud.ask("s3", "copy_object", Bucket="bucket", Key="copy", CopySource=where)
    yield
    assert body(cloud, {"Bucket": "bucket", "Key": "copy"}) == OLD


@story
def delete_object(cloud: Cloud) -> Iterator[None]:
    where = stored(cloud)
    yield
    cloud.ask("s3", "delete_object", **where)
    yield
    assert count(cloud, "objects WHERE live IS NOT NULL") == 0


def begun(cloud: Cloud) -> dict[str, str]:
    where = bucket(cloud)
    return {**where, "UploadId": cloud.ask("s3", "create_multipart_upload", **where)["UploadId"]}


@story
def begin_an_upload(cloud: Cloud) -> Iterator[None]:
    where = bucket(cloud)
    yield
    cloud.ask("s3", "create_multipart_upload", **where)
    yield
    assert count(cloud, "uploads") >= 1


@story
def upload_a_part(cloud: Cloud) -> Iterator[None]:
    where = begun(cloud)
    cloud.ask("s3", "upload_part", **where, PartNumber=1, Body=OLD)
    yield
    cloud.ask("s3", "upload_part", **where, PartNumber=1, Body=NEW)
    yield
    assert count(cloud, "parts") == 1


@story
def a_part_is_cut_off(cloud: Cloud) -> Iterator[None]:
    """The object store dies in the middle of it."""
    where = begun(cloud)
    words = urllib.parse.urlsplit(
        cloud.once("s3", "generate_presigned_url", "upload_part", {**where, "PartNumber": 1})
    )
    yield
    first = cloud.daemons["objectstore"]
    sender = http.client.HTTPConnection(words.netloc)
    with contextlib.closing(sender), contextlib.suppress(*AWAY):
        sender.putrequest("PUT", f"{words.path}?{words.query}")
        sender.putheader("Content-Length", str(2 << 20))
        sender.endheaders(bytes(1 << 20))
        wait(lambda: count(cloud, "parts") or first.gone(), "it is begun")
    play.end(cloud, "objectstore")
    cloud.revive()
    yield
    assert count(cloud, "parts") == 0


@story
def upload_a_part_that_is_refused(cloud: Cloud) -> Iterator[None]:
    where = begun(cloud)
    yield
    with pytest.raises(REFUSED, match="Digest"):
        cloud.ask("s3", "upload_part", **where, PartNumber=1, Body=NEW, ContentMD5=WRONG)
    yield
    assert count(cloud, "parts") == 0


@story
def copy_a_part(cloud: Cloud) -> Iterator[None]:
    source = stored(cloud)
    where = {**source, "UploadId": ""}
    where["UploadId"] = cloud.ask("s3", "create_multipart_upload", **source)["UploadId"]
    yield
    cloud.ask("s3", "upload_part_copy", **where, PartNumber=1, CopySource=source)
    yield
    assert count(cloud, "parts") == 1


@story
def complete_an_upload(cloud: Cloud) -> Iterator[None]:
    where = begun(cloud)
    tags = [
        {
            "PartNumber": number,
            "ETag": cloud.ask("s3", "upload_part", **where, PartNumber=number, Body=one)["ETag"],
        }
        for number, one in enumerate([bytes(5 << 20), NEW], 1)
    ]
    yield
    cloud.ask("s3", "complete_multipart_upload", **where, MultipartUpload={"Parts": tags})
    yield
    assert body(cloud, {"Bucket": "bucket", "Key": "key"}) == bytes(5 << 20) + NEW
    assert count(cloud, "parts") == 0


@story
def abort_an_upload(cloud: Cloud) -> Iterator[None]:
    where = begun(cloud)
    cloud.ask("s3", "upload_part", **where, PartNumber=1, Body=OLD)
    yield
    cloud.ask("s3", "abort_multipart_upload", "NoSuchUpload", **where)
    yield
    assert count(cloud, "uploads") == 0


# --- accounts and operators ----------------------------------------


def operate(cloud: Cloud, *words: str, already: str = "already") -> None:
    """minicloud-manage has done it, if need be at the second time of asking."""
    again = False
    while True:
        status, said = cloud.managed(*words)
        if status == 0 or (again and already in said):
            return
        # one that is killed, or whose object store was, is repeated
        assert status is None or "not answer" in said or "object store" in said, said
        again = True


@story
def create_user(cloud: Cloud) -> Iterator[None]:
    yield
    operate(cloud, "user", "create", "zoe")
    yield
    assert count(cloud, "users WHERE name = 'zoe'") == 1


@story
def delete_user(cloud: Cloud) -> Iterator[None]:
    operate(cloud, "user", "create", "zoe")
    yield
    operate(cloud, "user", "delete", "zoe", already="zoe")
    yield
    assert count(cloud, "users WHERE name = 'zoe'") == 0


@story
def give_a_user_a_password(cloud: Cloud) -> Iterator[None]:
    operate(cloud, "user", "create", "zoe")
    operate(cloud, "project", "create", "zoo", "zoe")
    cloud.execute(
        "UPDATE users SET password = NULL WHERE name = 'zoe'"
    )  # of before there were any
    yield
    operate(cloud, "project", "environment", "zoo", "zoe", str(cloud.path / "rc"))
    yield
    assert (cloud.path / "rc").read_text().count("OS_PASSWORD") == 1


@story
def create_project(cloud: Cloud) -> Iterator[None]:
    yield
    operate(cloud, "project", "create", "zoo", "admin")
    yield
    assert count(cloud, "projects WHERE name = 'zoo'") == 1


@story
def delete_project(cloud: Cloud) -> Iterator[None]:
    operate(cloud, "project", "create", "zoo", "admin")
    yield
    operate(cloud, "project", "delete", "zoo", already="zoo")
    yield
    assert count(cloud, "projects WHERE name = 'zoo'") == 0


@story
def add_and_remove_a_member(cloud: Cloud) -> Iterator[None]:
    operate(cloud, "project", "create", "zoo", "admin")
    operate(cloud, "user", "create", "zoe")
    yield
    operate(cloud, "project", "add", "zoo", "zoe")
    operate(cloud, "project", "remove", "zoo", "zoe", already="zoe")
    yield
    assert count(cloud, "memberships") == 2


@story
def change_a_quota(cloud: Cloud) -> Iterator[None]:
    operate(cloud, "project", "create", "zoo", "admin")
    yield
    operate(cloud, "project", "quota", "zoo", "instances", "3")
    yield
    assert cloud.rows("SELECT value FROM quotas") == [(3,)]


@story
def purge_what_ended(cloud: Cloud) -> Iterator[None]:
    cloud.execute(
        "INSERT INTO revoked_tokens (id, expires_at) VALUES ('long-ago', '2001-01-01 00:00:00')"
    )
    yield
    operate(cloud, "db", "purge", "30")
    yield
    assert count(cloud, "revoked_tokens WHERE id = 'long-ago'") == 0


@story
def mend_by_an_audit(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.execute(
        "INSERT INTO group_members (group_id, instance_id)"
        " SELECT id, 'ec200000-0000-0000-0000-000000000000' FROM security_groups"
    )
    while cloud.managed("audit", "--fix")[0] is None:
        pass
    yield
    assert count(cloud, "group_members") == 0


@story
def revoke_a_token(cloud: Cloud) -> Iterator[None]:
    before = count(cloud, "revoked_tokens")
    given = cloud.openstack_token()
    yield

    def call(door: Any) -> Any:
        path, headers = "/v3/auth/tokens", {"X-Subject-Token": given}
        return door["openstack"].call("DELETE", "identity", path, None, headers)

    cloud.insist(call, already=("404",))
    yield
    assert count(cloud, "revoked_tokens") == before + 1


@last_story
def change_the_password(cloud: Cloud) -> Iterator[None]:
    yield
    cloud.change_password("a longer word")
    yield
    assert cloud.can_login("a longer word")


@last_story
def create_network(cloud: Cloud) -> Iterator[None]:
    yield
    operate(cloud, "network", "create", "other", "10.10.0.0/29")
    yield
    assert cloud.rows("SELECT name, host FROM networks WHERE name = 'other'") == [("other", HOST)]


@last_story
def forget_all_tenants(cloud: Cloud) -> Iterator[None]:
    running(cloud)
    stored(cloud)
    operate(cloud, "cloud", "terminate")
    play.settle(cloud)
    yield
    operate(cloud, "cloud", "forget")
    yield
    assert count(cloud, "projects") == 0
    assert count(cloud, "networks") == 0


@last_story
def adopt_images(cloud: Cloud) -> Iterator[None]:
    operate(cloud, "cloud", "terminate")
    operate(cloud, "cloud", "forget")
    operate(cloud, "user", "create", "admin", "--admin")
    operate(cloud, "project", "create", "admin", "admin")
    yield
    operate(cloud, "image", "adopt", "admin")
    yield
    assert count(cloud, "images WHERE project_id NOT IN (SELECT id FROM projects)") == 0


# --- a host that dies ----------------------------------------

HOSTED = ("compute", "network", "volume", "objectstore", "scheduler")


def fallen(cloud: Cloud) -> None:
    """Every daemon of the host is dead, and the operator has said so."""
    for name in HOSTED:
        play.end(cloud, name)
    operate(cloud, "host", "fence", HOST, "--force")


def back(cloud: Cloud) -> None:
    for name in HOSTED:
        cloud.start(name)
    wait(lambda: not count(cloud, "hosts WHERE fenced_at IS NOT NULL"), "the host is back")


@story
def fence(cloud: Cloud) -> Iterator[None]:
    attached(cloud)
    yield
    fallen(cloud)
    back(cloud)
    yield
    assert states(cloud, "instances") == ["running"]
    assert states(cloud, "attachments") == ["attached"]


@story
def evacuate(cloud: Cloud) -> Iterator[None]:
    """The one host there is: it lets go of everything, and is given it again."""
    attached(cloud)
    stopped(cloud)
    fallen(cloud)
    yield
    operate(cloud, "host", "evacuate", HOST)
    back(cloud)
    yield
    assert states(cloud, "instances") == ["running", "stopped"]
    assert states(cloud, "attachments") == ["attached"]
    # it was in error while its host was given up, until a sweep of the host sees it again
    wait(lambda: states(cloud, "volumes") == ["available"], "the volume is seen again")


@story
def rebind(cloud: Cloud) -> Iterator[None]:
    running(cloud)
    [(machine,)] = cloud.rows("SELECT DISTINCT machine_id FROM hosts")
    fallen(cloud)
    yield
    operate(cloud, "host", "rebind", HOST, machine)
    back(cloud)
    yield
    assert states(cloud, "instances") == ["running"]


@story
def forget_a_host(cloud: Cloud) -> Iterator[None]:
    """One that was fenced and is empty, and never comes back."""
    yield
    cloud.execute(
        "INSERT INTO hosts (id, host, daemon, epoch, machine_id, boot_id, version, zone, disabled,"
        " vcpus, memory_mib, disk_gib, hypervisor, created_at, fenced_at)"
        " SELECT 'compute@lost', 'lost', daemon, epoch, 'lost', boot_id, version, zone, disabled,"
        " vcpus, memory_mib, disk_gib, hypervisor, created_at, created_at"
        f" FROM hosts WHERE id = 'compute@{HOST}'"
    )
    operate(cloud, "host", "forget", "lost", already="lost")
    yield
    assert count(cloud, "hosts WHERE host = 'lost'") == 0


@story
def take_a_host_out_of_scheduling(cloud: Cloud) -> Iterator[None]:
    yield
    operate(cloud, "host", "disable", HOST)
    launch(cloud)
    wait(lambda: count(cloud, "instances WHERE waits > 0"), "the instance waits")
    operate(cloud, "host", "enable", HOST)
    yield
    assert states(cloud, "instances") == ["running"]


# --- daemons ----------------------------------------


@story
def nothing(cloud: Cloud) -> Iterator[None]:
    """Only heartbeats and sweeps, with a guest and a volume to look after."""
    attached(cloud)
    yield
    before = {name: len(cloud.passed(name)) for name in DAEMONS}
    beats = "daemon._beat.committed"
    wait(
        lambda: all(
            cloud.passed(name)[before[name] :].count(beats) >= 3
            for name in ("compute", "network", "volume")
        ),
        "all have looked around",
    )
    yield
    assert states(cloud, "attachments") == ["attached"]


@story
def restart(cloud: Cloud) -> Iterator[None]:
    """Of all daemons, politely."""
    attached(cloud)
    yield
    old = {name: cloud.daemons[name] for name in DAEMONS}
    for daemon in old.values():
        daemon.signal(signal.SIGTERM)
    for daemon in old.values():
        wait(
            lambda daemon=daemon: daemon.gone() or daemon.stopped(),  # type: ignore[misc]
            f"{daemon.name} stops",
        )
    cloud.revive()
    yield
    assert states(cloud, "attachments") == ["attached"]
