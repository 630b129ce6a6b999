"""S3 as boto3 uses it: buckets, objects, listings, conditions, copies, ACLs, presigned URLs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import botocore.exceptions
import pytest

from minicloud import context, errors
from minicloud.cloud import projects
from minicloud.objectstore import operations
from tests.conftest import InProcessCloud
from tests.functional.s3.conftest import Store


def code(call: Any, **arguments: Any) -> str:
    """The error code that the call ends with."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**arguments)
    assert caught.value.response["ResponseMetadata"]["HTTPHeaders"]["x-amz-request-id"]
    return str(caught.value.response["Error"]["Code"])


def put(s3: Any, *keys: str) -> None:
    for key in keys:
        s3.put_object(Bucket="box", Key=key, Body=key.encode())


def test_buckets_are_made_listed_and_removed(store: Store) -> None:
    s3 = store.client()
    s3.create_bucket(Bucket="one")
    s3.create_bucket(Bucket="two", CreateBucketConfiguration={"LocationConstraint": "nova"})
    assert [one["Name"] for one in s3.list_buckets()["Buckets"]] == ["one", "two"]
    assert s3.get_bucket_location(Bucket="one")["LocationConstraint"] == "nova"
    s3.head_bucket(Bucket="one")
    s3.put_object(Bucket="one", Key="k", Body=b"x")
    assert code(s3.delete_bucket, Bucket="one") == "BucketNotEmpty"
    s3.delete_object(Bucket="one", Key="k")
    s3.delete_bucket(Bucket="one")
    assert code(s3.head_bucket, Bucket="one") == "404"
    assert code(s3.list_objects_v2, Bucket="one") == "NoSuchBucket"


def test_a_project_has_a_limit_of_buckets(
    store: Store, s3: Any, options: Callable[..., None]
) -> None:
    options("quota", buckets=2)
    s3.create_bucket(Bucket="second")
    assert code(s3.create_bucket, Bucket="third") == "TooManyBuckets"
    assert code(s3.create_bucket, Bucket="box") == "BucketAlreadyOwnedByYou"
    store.client(store.eve).create_bucket(Bucket="third")
    s3.delete_bucket(Bucket="second")
    s3.create_bucket(Bucket="fourth")


def test_a_name_is_one_projects_bucket_and_closed_to_others(store: Store, s3: Any) -> None:
    eve = store.client(store.eve)
    put(s3, "secret")
    assert code(s3.create_bucket, Bucket="box") == "BucketAlreadyOwnedByYou"
    assert code(eve.create_bucket, Bucket="box") == "BucketAlreadyExists"
    assert code(s3.create_bucket, Bucket="Box_1") == "InvalidBucketName"
    assert code(eve.get_object, Bucket="box", Key="secret") == "AccessDenied"
    assert code(eve.get_object, Bucket="box", Key="nothing") == "AccessDenied"
    assert code(eve.list_objects_v2, Bucket="box") == "AccessDenied"
    assert code(eve.put_object, Bucket="box", Key="mine", Body=b"x") == "AccessDenied"
    assert code(eve.delete_object, Bucket="box", Key="secret") == "AccessDenied"
    assert code(eve.delete_bucket, Bucket="box") == "AccessDenied"
    assert eve.list_buckets()["Buckets"] == []


def test_an_object_comes_back_as_it_went_in(s3: Any) -> None:
    body = bytes(range(256)) * 10_000
    key = "a dir/ünïcode+ &<key>\u20ac"
    answer = s3.put_object(
        Bucket="box",
        Key=key,
        Body=body,
        ContentType="text/x-odd",
        CacheControl="max-age=5",
        Metadata={"colour": "green"},
    )
    assert answer["ETag"] == f'"{hashlib.md5(body).hexdigest()}"'
    assert answer["ChecksumCRC32"]
    got = s3.get_object(Bucket="box", Key=key)
    assert got["Body"].read() == body
    assert (got["ContentType"], got["CacheControl"]) == ("text/x-odd", "max-age=5")
    assert got["Metadata"] == {"colour": "green"}
    head = s3.head_object(Bucket="box", Key=key)
    assert (head["ContentLength"], head["ETag"]) == (len(body), answer["ETag"])
    assert [one["Key"] for one in s3.list_objects_v2(Bucket="box")["Contents"]] == [key]


def test_an_empty_content_type_counts_as_none(s3: Any) -> None:
    s3.put_object(Bucket="box", Key="plain", ContentType="")
    assert s3.get_object(Bucket="box", Key="plain")["ContentType"] == "binary/octet-stream"


def test_an_empty_object_is_one(s3: Any) -> None:
    s3.put_object(Bucket="box", Key="dir/", Body=b"")
    got = s3.get_object(Bucket="box", Key="dir/")
    assert (got["Body"].read(), got["ContentLength"]) == (b"", 0)


def test_overwriting_and_deleting_leave_no_file(store: Store, s3: Any) -> None:
    for body in (b"one", b"two", b"three"):
        s3.put_object(Bucket="box", Key="k", Body=body)
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"three"
    InProcessCloud.wait(lambda: store.settled(1))
    s3.delete_object(Bucket="box", Key="k")
    s3.delete_object(Bucket="box", Key="k")
    assert code(s3.get_object, Bucket="box", Key="k") == "NoSuchKey"
    assert code(s3.head_object, Bucket="box", Key="k") == "404"
    InProcessCloud.wait(lambda: store.settled(0))


def test_ranges(s3: Any) -> None:
    s3.put_object(Bucket="box", Key="k", Body=b"0123456789")

    def part(range: str) -> bytes:
        got = s3.get_object(Bucket="box", Key="k", Range=range)
        assert got["ResponseMetadata"]["HTTPStatusCode"] == 206
        return bytes(got["Body"].read())

    assert [part("bytes=2-4"), part("bytes=7-"), part("bytes=-2")] == [b"234", b"789", b"89"]
    assert [part("bytes=0-"), part("bytes=-10")] == [b"0123456789"] * 2
    assert code(s3.get_object, Bucket="box", Key="k", Range="bytes=10-") == "InvalidRange"


def test_a_range_outside_says_how_long_the_object_is(store: Store, s3: Any) -> None:
    s3.put_object(Bucket="box", Key="k", Body=b"0123456789", ACL="public-read")
    answer = store.send("GET", "/box/k", {"Range": "bytes=10-"})
    assert (answer.status, answer.headers["Content-Range"]) == (416, "bytes */10")
    assert b"<ActualObjectSize>10</ActualObjectSize>" in answer.body


def test_a_range_is_of_the_object_it_was_asked_for(store: Store, s3: Any) -> None:
    etag = s3.put_object(Bucket="box", Key="k", Body=b"0123456789", ACL="public-read")["ETag"]
    at = store.send("HEAD", "/box/k").headers["Last-Modified"]

    def got(since: str) -> tuple[int, bytes]:
        answer = store.send("GET", "/box/k", {"Range": "bytes=2-4", "If-Range": since})
        return answer.status, answer.body

    assert [got(etag), got(at)] == [(206, b"234")] * 2
    other = "Sat, 01 Jan 2011 00:00:00 GMT"
    assert [got('"other"'), got(other), got(f"W/{etag}"), got("?")] == [(200, b"0123456789")] * 4


def test_conditions(s3: Any) -> None:
    etag = s3.put_object(Bucket="box", Key="k", Body=b"x")["ETag"]
    s3.get_object(Bucket="box", Key="k", IfMatch=etag)
    assert code(s3.get_object, Bucket="box", Key="k", IfMatch='"other"') == "PreconditionFailed"
    assert code(s3.get_object, Bucket="box", Key="k", IfNoneMatch=etag) == "304"
    later = s3.head_object(Bucket="box", Key="k")["LastModified"]
    assert code(s3.head_object, Bucket="box", Key="k", IfModifiedSince=later) == "304"
    s3.get_object(Bucket="box", Key="k", IfUnmodifiedSince=later)
    put_ = {"Bucket": "box", "Key": "k", "Body": b"y"}
    assert code(s3.put_object, IfNoneMatch="*", **put_) == "PreconditionFailed"
    assert code(s3.put_object, IfMatch='"other"', **put_) == "PreconditionFailed"
    s3.put_object(IfMatch=etag, **put_)
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"y"


def test_what_another_has_overwritten_is_not_deleted(store: Store, s3: Any) -> None:
    put(s3, "k", "other")
    right, where = s3.head_object(Bucket="box", Key="k")["ETag"], {"Bucket": "box", "Key": "k"}
    assert code(s3.delete_object, **where, IfMatch='"wrong"') == "PreconditionFailed"
    asked = {"Objects": [{"Key": "k", "ETag": '"wrong"'}, {"Key": "other"}]}
    answer = s3.delete_objects(Bucket="box", Delete=asked)
    assert [one["Key"] for one in answer["Deleted"]] == ["other"]
    assert [(one["Key"], one["Code"]) for one in answer["Errors"]] == [("k", "PreconditionFailed")]
    assert s3.get_object(**where)["Body"].read() == b"k"
    s3.delete_object(**where, IfMatch=right)
    s3.delete_object(**where, IfMatch=right)
    assert code(s3.head_object, **where) == "404"


def test_a_copy_minds_what_is_there(s3: Any) -> None:
    put(s3, "k", "other")
    copy = {"Bucket": "box", "Key": "k", "CopySource": {"Bucket": "box", "Key": "other"}}
    assert code(s3.copy_object, **copy, IfNoneMatch="*") == "PreconditionFailed"
    assert code(s3.copy_object, **copy, IfMatch='"wrong"') == "PreconditionFailed"
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"k"
    s3.copy_object(**{**copy, "Key": "new"}, IfNoneMatch="*")
    s3.copy_object(**copy, IfMatch=s3.head_object(Bucket="box", Key="k")["ETag"])
    assert s3.get_object(Bucket="box", Key="k")["Body"].read() == b"other"


def test_another_version_than_the_only_one_is_not_implemented(store: Store, s3: Any) -> None:
    put(s3, "k")
    where = {"Bucket": "box", "Key": "k"}
    for call in (s3.get_object, s3.delete_object, s3.get_object_acl):
        assert code(call, **where, VersionId="other") == "NotImplemented"
    assert code(s3.head_object, **where, VersionId="other") == "501"
    for more in ({"VersionId": "other"}, {"Size": 1}):
        asked = {"Objects": [{"Key": "k", **more}]}
        assert code(s3.delete_objects, Bucket="box", Delete=asked) == "NotImplemented"
    assert s3.get_object(**where, VersionId="null")["Body"].read() == b"k"


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_each_checksum_is_checked_and_remembered(s3: Any, algorithm: str) -> None:
    name = f"Checksum{algorithm}"
    body = b"some bytes" * 1001
    if algorithm in ("CRC32", "SHA1", "SHA256"):
        answer = s3.put_object(Bucket="box", Key="k", Body=body, ChecksumAlgorithm=algorithm)
        given = answer[name]
    else:  # botocore computes these with another library; the wrong answer tells ours
        from minicloud.objectstore import checksums

        sums = checksums.Sums([algorithm.lower()])
        sums.update(body)
        given = sums.values()[f"x-amz-checksum-{algorithm.lower()}"]
        s3.put_object(Bucket="box", Key="k", Body=body, **{name: given})
    head = s3.head_object(Bucket="box", Key="k", ChecksumMode="ENABLED")
    assert head[name] == given
    wrong = {"Bucket": "box", "Key": "k", "Body": body + b"!", name: given}
    assert code(s3.put_object, **wrong) == "BadDigest"
    assert s3.get_object(Bucket="box", Key="k")["ContentLength"] == len(body)


def test_a_wrong_md5_is_refused_and_leaves_nothing(store: Store, s3: Any) -> None:
    wrong = "1B2M2Y8AsgTpgAmY7PhCfg=="
    answer = code(s3.put_object, Bucket="box", Key="k", Body=b"x", ContentMD5=wrong)
    assert answer == "BadDigest"
    assert code(s3.put_object, Bucket="box", Key="k", Body=b"x", ContentMD5="x") == "InvalidDigest"
    assert code(s3.get_object, Bucket="box", Key="k") == "NoSuchKey"
    InProcessCloud.wait(lambda: store.settled(0))


def test_listing_pages_with_prefix_and_delimiter(s3: Any) -> None:
    put(s3, "a/1", "a/2", "a/b/3", "b", "c/1", "c/2", "d")
    whole = s3.list_objects_v2(Bucket="box")
    assert (whole["KeyCount"], whole["IsTruncated"]) == (7, False)
    top = s3.list_objects_v2(Bucket="box", Delimiter="/")
    assert [one["Key"] for one in top["Contents"]] == ["b", "d"]
    assert [one["Prefix"] for one in top["CommonPrefixes"]] == ["a/", "c/"]
    inner = s3.list_objects_v2(Bucket="box", Delimiter="/", Prefix="a/")
    assert [one["Key"] for one in inner["Contents"]] == ["a/1", "a/2"]
    assert [one["Prefix"] for one in inner["CommonPrefixes"]] == ["a/b/"]
    after = s3.list_objects_v2(Bucket="box", StartAfter="b")
    assert [one["Key"] for one in after["Contents"]] == ["c/1", "c/2", "d"]


@pytest.mark.parametrize("operation", ["list_objects", "list_objects_v2"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_pages_of_any_size_hold_everything_once(s3: Any, operation: str, size: int) -> None:
    put(s3, "a/1", "a/2", "a/b/3", "b", "c/1", "c/2", "d", "e f+g")
    found: list[str] = []
    prefixes: list[str] = []
    for page in s3.get_paginator(operation).paginate(
        Bucket="box", Delimiter="/", PaginationConfig={"PageSize": size}
    ):
        found += [one["Key"] for one in page.get("Contents", [])]
        prefixes += [one["Prefix"] for one in page.get("CommonPrefixes", [])]
    assert (found, prefixes) == (["b", "d", "e f+g"], ["a/", "c/"])


def test_a_listing_is_encoded_as_a_whole(store: Store, s3: Any) -> None:
    put(s3, "a\x01b")
    s3.put_bucket_acl(Bucket="box", ACL="public-read")
    asked = "list-type=2&encoding-type=url&delimiter=%01&start-after=%01"
    body = store.send("GET", f"/box?{asked}").body
    assert b"<Delimiter>%01</Delimiter>" in body
    assert b"<StartAfter>%01</StartAfter>" in body
    assert b"<Prefix>a%01</Prefix>" in body


def test_many_are_deleted_at_once(s3: Any) -> None:
    put(s3, "a", "b", "c&d")
    asked = {"Objects": [{"Key": "a"}, {"Key": "c&d"}, {"Key": "never"}]}
    gone = s3.delete_objects(Bucket="box", Delete=asked)["Deleted"]
    assert [one["Key"] for one in gone] == ["a", "c&d", "never"]
    assert [one["Key"] for one in s3.list_objects_v2(Bucket="box")["Contents"]] == ["b"]


def test_copies(store: Store, s3: Any) -> None:
    s3.put_object(Bucket="box", Key="a b", Body=b"bytes", Metadata={"x": "1"})
    s3.copy_object(Bucket="box", Key="copy", CopySource={"Bucket": "box", "Key": "a b"})
    got = s3.get_object(Bucket="box", Key="copy")
    assert (got["Body"].read(), got["Metadata"]) == (b"bytes", {"x": "1"})
    s3.copy_object(
        Bucket="box",
        Key="copy",
        CopySource={"Bucket": "box", "Key": "copy"},
        MetadataDirective="REPLACE",
        Metadata={"y": "2"},
    )
    assert s3.head_object(Bucket="box", Key="copy")["Metadata"] == {"y": "2"}
    source = {"Bucket": "box", "Key": "copy"}
    assert code(s3.copy_object, Bucket="box", Key="copy", CopySource=source) == "InvalidRequest"
    eve = store.client(store.eve)
    eve.create_bucket(Bucket="hers")
    assert code(eve.copy_object, Bucket="hers", Key="k", CopySource=source) == "AccessDenied"


def test_bytes_that_the_disk_lost_are_not_the_clients_fault(store: Store, s3: Any) -> None:
    put(s3, "k")
    [file] = store.files.iterdir()
    file.write_bytes(b"")
    copy = {"Bucket": "box", "Key": "copy", "CopySource": {"Bucket": "box", "Key": "k"}}
    assert code(s3.copy_object, **copy) == "ServiceUnavailable"


def test_public_objects_are_read_by_everybody(store: Store, s3: Any) -> None:
    s3.put_object(Bucket="box", Key="open", Body=b"hello", ACL="public-read")
    s3.put_object(Bucket="box", Key="closed", Body=b"hello")
    assert store.send("GET", "/box/open").body == b"hello"
    assert store.send("GET", "/box/closed").status == 403
    assert store.send("GET", "/box").status == 403
    s3.put_object_acl(Bucket="box", Key="open", ACL="private")
    assert store.send("GET", "/box/open").status == 403
    s3.put_bucket_acl(Bucket="box", ACL="public-read")
    assert store.send("GET", "/box").status == 200
    grants = s3.get_bucket_acl(Bucket="box")["Grants"]
    assert [one["Permission"] for one in grants] == ["FULL_CONTROL", "READ"]
    assert store.send("PUT", "/box/mine", body=b"x").status == 403
    assert code(s3.put_object_acl, Bucket="box", Key="open", ACL="public-read-write") == (
        "NotImplemented"
    )


@pytest.mark.parametrize("version", ["s3v4", "s3"])
def test_presigned_urls(store: Store, s3: Any, version: str) -> None:
    s3 = store.client(signature_version=version)
    up = s3.generate_presigned_url("put_object", {"Bucket": "box", "Key": "a b"})
    path = up.removeprefix(store.url)
    assert store.send("PUT", path, body=b"by a browser").status == 200
    down = s3.generate_presigned_url("get_object", {"Bucket": "box", "Key": "a b"})
    path = down.removeprefix(store.url)
    assert store.send("GET", path).body == b"by a browser"
    other = path.replace("a%20b", "other")
    assert store.send("GET", other).status == 403


@pytest.mark.parametrize(
    "header", [{"x-amz-copy-source": "/box/secret"}, {"X-Amz-Acl": "public-read"}]
)
def test_a_presigned_url_is_good_for_what_was_signed_alone(
    store: Store, s3: Any, header: dict[str, str]
) -> None:
    put(s3, "secret")
    up = s3.generate_presigned_url("put_object", {"Bucket": "box", "Key": "k"})
    answer = store.send("PUT", up.removeprefix(store.url), header)
    assert (answer.status, b"not signed" in answer.body) == (403, True)
    assert code(s3.head_object, Bucket="box", Key="k") == "404"
    open_ = {"Bucket": "box", "Key": "k", "ACL": "public-read"}
    up = s3.generate_presigned_url("put_object", open_)
    headers = {"x-amz-acl": "public-read", "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
    assert store.send("PUT", up.removeprefix(store.url), headers, b"x").status == 200


def test_a_sub_resource_is_never_added_to_what_version_2_signed(store: Store, s3: Any) -> None:
    put(s3, "k")
    old = store.client(signature_version="s3")
    path = old.generate_presigned_url("get_object", {"Bucket": "box", "Key": "k"})
    path = path.removeprefix(store.url)
    for more in ("acl", "%61cl", "ac%6C=", "%75ploadId=x"):
        answer = store.send("GET", f"{path}&{more}")
        assert (answer.status, b"SignatureDoesNotMatch" in answer.body) == (403, True), more


def test_a_path_is_acted_on_as_it_was_signed(store: Store, s3: Any) -> None:
    put(s3, "k")
    for path in ("/box/k#signed", "http://other/box/k", "box/k"):
        answer = store.send("GET", path)
        assert (answer.status, b"InvalidRequest" in answer.body) == (400, True), path


def test_version_2_signs_everything_a_client_does(store: Store, s3: Any) -> None:
    old = store.client(signature_version="s3")
    old.put_object(Bucket="box", Key="k ü", Body=b"x" * 1000, Metadata={"a": "b"})
    assert old.get_object(Bucket="box", Key="k ü")["Body"].read() == b"x" * 1000
    assert old.list_objects_v2(Bucket="box")["KeyCount"] == 1
    assert old.get_bucket_acl(Bucket="box")["Grants"]
    old.delete_objects(Bucket="box", Delete={"Objects": [{"Key": "k ü"}]})


def test_the_project_may_be_named_with_the_key(store: Store, s3: Any) -> None:
    for version in ("s3v4", "s3"):
        keys = store.bob.access_key + ":bobs"
        named = store.client(
            type(store.bob)(**{**vars(store.bob), "access_key": keys}), signature_version=version
        )
        assert named.list_buckets()["Buckets"]


def test_wrong_keys_are_refused_by_name(store: Store) -> None:
    values = vars(store.bob)
    wrong = store.client(type(store.bob)(**{**values, "secret": "other"}))
    assert code(wrong.list_buckets) == "SignatureDoesNotMatch"
    unknown = store.client(type(store.bob)(**{**values, "access_key": "nobody"}))
    assert code(unknown.list_buckets) == "InvalidAccessKeyId"
    assert code(wrong.list_buckets) == "SignatureDoesNotMatch"


def test_a_bucket_may_be_in_the_hosts_name(store: Store, s3: Any) -> None:
    s3.put_object(Bucket="box", Key="dir/open", Body=b"hello", ACL="public-read")
    host = {"Host": f"box.s3.localhost:{store.port}"}
    assert store.send("GET", "/dir/open", host).body == b"hello"
    key = "v1/images/00000000-0000-4000-8000-000000000000"
    s3.put_object(Bucket="box", Key=key, Body=b"no image", ACL="public-read")
    assert store.send("GET", f"/{key}", host).body == b"no image"
    assert store.send("GET", f"/{key}").status == 403


def test_what_is_not_built_says_so(store: Store, s3: Any) -> None:
    put(s3, "k")
    assert code(s3.get_bucket_policy, Bucket="box") == "NoSuchBucketPolicy"
    assert code(s3.get_bucket_cors, Bucket="box") == "NoSuchCORSConfiguration"
    assert "Status" not in s3.get_bucket_versioning(Bucket="box")
    versioning = {"Status": "Enabled"}
    assert (
        code(s3.put_bucket_versioning, Bucket="box", VersioningConfiguration=versioning)
        == "NotImplemented"
    )
    where = {"Bucket": "box", "Key": "k"}
    assert code(s3.delete_object_annotation, **where, AnnotationName="a") == "NotImplemented"
    assert s3.get_object_tagging(**where)["TagSet"] == []
    answer = store.send("BREW", "/box/k")
    assert answer.status == 405
    assert b"<RequestId>req-" in answer.body


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/box?delete"),
        ("POST", "/box/k?uploadId=x"),
        ("PUT", "/box?acl"),
        ("PUT", "/box/k?acl"),
        ("PUT", "/new"),
    ],
)
def test_nothing_is_read_of_a_strangers_document(
    store: Store, s3: Any, method: str, path: str
) -> None:
    assert store.before_the_body(method, path) == 403


def test_hostile_documents_are_refused(store: Store, s3: Any) -> None:
    bomb = b'<!DOCTYPE a [<!ENTITY b "c">]><Delete><Object><Key>&b;</Key></Object></Delete>'
    for body in (bomb, b"<Delete>", b"<Other/>", b"<Delete>" * 50, b"\xff\xfe<", b""):
        answer = store.signed("POST", "/box?delete=", body)
        assert (answer.status, b"MalformedXML" in answer.body) == (400, True), body


def test_a_project_with_a_bucket_is_not_deleted(store: Store, s3: Any) -> None:
    with pytest.raises(errors.InUse, match="box"):
        projects.delete(context.admin(), "bobs")
    s3.delete_bucket(Bucket="box")
    projects.delete(context.admin(), "bobs")


def test_a_page_and_a_request_have_so_many_keys(store: Store, s3: Any) -> None:
    assert s3.list_objects_v2(Bucket="box", MaxKeys=5000)["MaxKeys"] == operations.KEYS
    keys = [{"Key": str(number)} for number in range(operations.KEYS + 1)]
    assert code(s3.delete_objects, Bucket="box", Delete={"Objects": keys}) == "MalformedXML"
    assert "Errors" not in s3.delete_objects(Bucket="box", Delete={"Objects": keys[:-1]})
