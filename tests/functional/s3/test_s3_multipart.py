"""Multipart uploads, as boto3's transfer manager makes them and by hand."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import boto3.s3.transfer
import pytest

from minicloud import checkpoint, errors, objectstore
from minicloud.cloud import buckets
from minicloud.objectstore import incoming
from tests.conftest import InProcessCloud
from tests.functional.s3.conftest import Store
from tests.functional.s3.test_s3_objects import code

MIB = 1 << 20
WHERE = {"Bucket": "box", "Key": "big"}


def begin(s3: Any, **more: Any) -> dict[str, Any]:
    return {**WHERE, "UploadId": s3.create_multipart_upload(**WHERE, **more)["UploadId"]}


def part(s3: Any, upload: dict[str, Any], number: int, body: bytes) -> dict[str, Any]:
    answer = s3.upload_part(**upload, PartNumber=number, Body=body)
    return {"PartNumber": number, "ETag": answer["ETag"]}


def complete(s3: Any, upload: dict[str, Any], *parts: dict[str, Any]) -> Any:
    return s3.complete_multipart_upload(**upload, MultipartUpload={"Parts": list(parts)})


def test_the_transfer_manager_sends_and_fetches_a_file(
    store: Store, s3: Any, tmp_path: pathlib.Path
) -> None:
    body = os.urandom(13 * MIB + 5)
    (tmp_path / "up").write_bytes(body)
    transfer = boto3.s3.transfer.TransferConfig(
        multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB, max_concurrency=2
    )
    s3.upload_file(str(tmp_path / "up"), "box", "big", Config=transfer)
    s3.download_file("box", "big", str(tmp_path / "down"), Config=transfer)
    assert (tmp_path / "down").read_bytes() == body
    head = s3.head_object(**WHERE)
    digests = [
        hashlib.md5(body[at : at + 5 * MIB]).digest() for at in range(0, len(body), 5 * MIB)
    ]
    assert head["ETag"] == f'"{hashlib.md5(b"".join(digests)).hexdigest()}-3"'
    assert s3.list_multipart_uploads(Bucket="box").get("Uploads", []) == []
    InProcessCloud.wait(lambda: store.settled(1))


def test_parts_come_in_any_order_and_may_be_sent_again(store: Store, s3: Any) -> None:
    upload = begin(s3, Metadata={"a": "b"})
    second = part(s3, upload, 2, b"end")
    part(s3, upload, 1, b"x" * (5 * MIB))
    first = part(s3, upload, 1, b"y" * (5 * MIB))
    listed = s3.list_parts(**upload)["Parts"]
    assert [(one["PartNumber"], one["Size"]) for one in listed] == [(1, 5 * MIB), (2, 3)]
    assert [one["Key"] for one in s3.list_multipart_uploads(Bucket="box")["Uploads"]] == ["big"]
    assert code(s3.get_object, **WHERE) == "NoSuchKey"
    answer = complete(s3, upload, first, second)
    assert complete(s3, upload, first, second)["ETag"] == answer["ETag"]  # its answer was lost
    got = s3.get_object(**WHERE)
    assert got["Body"].read() == b"y" * (5 * MIB) + b"end"
    assert got["Metadata"] == {"a": "b"}
    InProcessCloud.wait(lambda: store.settled(1))


def test_a_completion_that_is_sent_again_waits_for_the_first(
    store: Store, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(s3)
    first = part(s3, upload, 1, b"bytes")
    joined: list[str] = []
    second = threading.Event()

    def hook(name: str) -> None:
        if name == "complete_upload.written":
            joined.append(name)
            second.set() if joined[1:] else second.wait(1)

    monkeypatch.setattr(checkpoint, "hook", hook)
    with futures.ThreadPoolExecutor() as pool:
        both = [pool.submit(complete, store.client(), upload, first) for _ in range(2)]
        etags = [one.result()["ETag"] for one in both]
    assert etags[0] == etags[1]
    assert len(joined) == 1


def test_a_part_stays_whose_answer_alone_was_lost(
    store: Store, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, finish = begin(s3), buckets.finish_part

    def lost(*given: Any) -> None:
        finish(*given)
        raise errors.Unavailable(reason="the answer was lost")

    monkeypatch.setattr(buckets, "finish_part", lost)
    assert code(s3.upload_part, **upload, PartNumber=1, Body=b"one") == "ServiceUnavailable"
    monkeypatch.setattr(buckets, "finish_part", finish)
    etag = hashlib.md5(b"one").hexdigest()
    complete(s3, upload, {"PartNumber": 1, "ETag": etag})
    assert s3.get_object(**WHERE)["Body"].read() == b"one"


def test_a_part_stays_though_the_one_before_cannot_be_removed(
    store: Store, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(s3)
    part(s3, upload, 1, b"one")
    remove = objectstore.store.remove

    def fails(name: str) -> None:
        monkeypatch.setattr(objectstore.store, "remove", remove)
        raise OSError("the disk is away")

    monkeypatch.setattr(objectstore.store, "remove", fails)
    complete(s3, upload, part(s3, upload, 1, b"two"))
    assert s3.get_object(**WHERE)["Body"].read() == b"two"


def test_what_is_wrong_with_a_completion_is_said(store: Store, s3: Any) -> None:
    upload = begin(s3)
    first, second = part(s3, upload, 1, b"small"), part(s3, upload, 2, b"end")
    document = s3.complete_multipart_upload

    def wrong(*parts: dict[str, Any]) -> str:
        return code(document, **upload, MultipartUpload={"Parts": list(parts)})

    assert wrong(second, first) == "InvalidPartOrder"
    assert wrong(first, {**second, "ETag": '"0"'}) == "InvalidPart"
    assert wrong(first, {**second, "PartNumber": 3}) == "InvalidPart"
    assert wrong(first, second) == "EntityTooSmall"
    other = {**upload, "UploadId": "none"}
    assert code(document, **other, MultipartUpload={"Parts": [first]}) == "NoSuchUpload"
    complete(s3, upload, first)
    assert s3.get_object(**WHERE)["Body"].read() == b"small"


def test_an_aborted_upload_leaves_nothing(store: Store, s3: Any) -> None:
    upload = begin(s3)
    first = part(s3, upload, 1, b"bytes")
    s3.abort_multipart_upload(**upload)
    assert code(s3.list_parts, **upload) == "NoSuchUpload"
    parts = {"Parts": [first]}
    assert code(s3.complete_multipart_upload, **upload, MultipartUpload=parts) == "NoSuchUpload"
    assert code(s3.upload_part, **upload, PartNumber=1, Body=b"x") == "NoSuchUpload"
    InProcessCloud.wait(lambda: store.settled(0))


def test_a_part_may_be_a_range_of_an_object(s3: Any) -> None:
    s3.put_object(Bucket="box", Key="source", Body=b"0123456789")
    upload = begin(s3)
    answer = s3.upload_part_copy(
        **upload,
        PartNumber=1,
        CopySource={"Bucket": "box", "Key": "source"},
        CopySourceRange="bytes=2-5",
    )
    complete(s3, upload, {"PartNumber": 1, "ETag": answer["CopyPartResult"]["ETag"]})
    assert s3.get_object(**WHERE)["Body"].read() == b"2345"


@pytest.mark.parametrize(
    ("range", "error"),
    [
        ("bytes=2-", "InvalidArgument"),
        ("bytes=-2", "InvalidArgument"),
        ("bytes=5-2", "InvalidArgument"),
        ("junk", "InvalidArgument"),
        ("bytes=2-10", "InvalidRange"),
        ("bytes=10-11", "InvalidRange"),
    ],
)
def test_a_part_is_never_another_range_than_asked_for(s3: Any, range: str, error: str) -> None:
    s3.put_object(Bucket="box", Key="source", Body=b"0123456789")
    asked = {**begin(s3), "CopySource": {"Bucket": "box", "Key": "source"}, "PartNumber": 1}
    assert code(s3.upload_part_copy, **asked, CopySourceRange=range) == error


@pytest.mark.parametrize("type", ["COMPOSITE", "FULL_OBJECT"])
def test_the_checksum_of_the_whole(s3: Any, type: str) -> None:
    upload = begin(s3, ChecksumAlgorithm="CRC32", ChecksumType=type)
    answer = s3.upload_part(**upload, PartNumber=1, Body=b"bytes", ChecksumAlgorithm="CRC32")
    made = {"PartNumber": 1, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]}
    wrong = {**made, "ChecksumCRC32": "AAAAAA=="}
    parts = {"Parts": [wrong]}
    assert code(s3.complete_multipart_upload, **upload, MultipartUpload=parts) == "InvalidPart"
    done = complete(s3, upload, made)
    head = s3.head_object(**WHERE, ChecksumMode="ENABLED")
    assert head["ChecksumCRC32"] == done["ChecksumCRC32"]
    assert head["ChecksumType"] == type
    assert s3.get_object(**WHERE)["Body"].read() == b"bytes"


def test_an_object_has_so_many_parts_and_bytes(
    store: Store, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = begin(s3)
    many = [{"PartNumber": number, "ETag": "x"} for number in range(1, buckets.PARTS + 2)]
    parts = {"Parts": many}
    assert code(s3.complete_multipart_upload, **upload, MultipartUpload=parts) == "MalformedXML"
    number = {"PartNumber": buckets.PARTS + 1}
    assert code(s3.upload_part, **upload, **number, Body=b"x") == "InvalidArgument"
    last = part(s3, upload, buckets.PARTS, b"bytes")
    monkeypatch.setattr(incoming, "LARGEST_OBJECT", 4)
    parts = {"Parts": [last]}
    assert code(s3.complete_multipart_upload, **upload, MultipartUpload=parts) == "EntityTooLarge"


def test_a_bucket_takes_its_uploads_along(store: Store, s3: Any) -> None:
    part(s3, begin(s3), 1, b"bytes")
    s3.delete_bucket(Bucket="box")
    InProcessCloud.wait(lambda: store.settled(0))


def test_a_stream_of_unknown_length_goes_up(s3: Any) -> None:
    s3.upload_fileobj(io.BytesIO(b"z" * (9 * MIB)), "box", "big")
    assert s3.head_object(**WHERE)["ContentLength"] == 9 * MIB


def test_a_bucket_has_a_limit_of_uploads_that_nobody_ends(
    s3: Any, options: Callable[..., None]
) -> None:
    options("quota", uploads=2)
    first = begin(s3)
    begin(s3)
    assert code(s3.create_multipart_upload, **WHERE) == "QuotaExceeded"
    s3.abort_multipart_upload(**first)
    begin(s3)
