"""S3's operations, one function each under `@operation`: method, level and sub-resource.

An operation gets a `Call` and returns the answer; it decides by `cloud.buckets`, the bytes go by
`incoming` and `store`.  What S3 has and this cloud has not is answered NotImplemented.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import functools
import json
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from minicloud import config, errors, wsgi
from minicloud.cloud import buckets
from minicloud.db import models
from minicloud.objectstore import bodies, checksums, conditions, incoming, requests, store, xml
from minicloud.objectstore.requests import Call

XML = "application/xml"
KEYS = 1000  # of a page, and of one DeleteObjects
UNBUILT_CONDITIONS = ("x-amz-if-match-last-modified-time", "x-amz-if-match-size")
EVERYBODY = "http://acs.amazonaws.com/groups/global/AllUsers"

Operation = Callable[[Call], wsgi.Response]
Send = Callable[[int, int], Iterable[bytes]]  # start, length → bytes
_operations: dict[tuple[str, str, str], Operation] = {}

# sub-resources of S3: they ask for something else than their bucket or object; an operation adds
# its own, and the others are not built
SUB_RESOURCES = {
    "abac",
    "accelerate",
    "analytics",
    "annotation",
    "attributes",
    "intelligent-tiering",
    "inventory",
    "legal-hold",
    "logging",
    "metadataAnnotationTable",
    "metadataConfiguration",
    "metadataInventoryTable",
    "metadataJournalTable",
    "metadataTable",
    "metrics",
    "notification",
    "object-lock",
    "ownershipControls",
    "policyStatus",
    "renameObject",
    "replication",
    "restore",
    "retention",
    "select",
    "session",
    "torrent",
    "versions",
}
# what a bucket has never been given: GET → S3's code for that
NEVER_SET = {
    "cors": "NoSuchCORSConfiguration",
    "encryption": "ServerSideEncryptionConfigurationNotFoundError",
    "lifecycle": "NoSuchLifecycleConfiguration",
    "policy": "NoSuchBucketPolicy",
    "publicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
    "tagging": "NoSuchTagSet",
    "website": "NoSuchWebsiteConfiguration",
}


def operation(method: str, level: str, sub_resource: str = "") -> Callable[[Operation], Operation]:
    """Register what answers `method` at the "service", a "bucket" or an "object"."""

    def register(function: Operation) -> Operation:
        _operations[method, level, sub_resource] = function
        if sub_resource:
            SUB_RESOURCES.add(sub_resource)
        return function

    return register


def answer(call: Call) -> wsgi.Response:
    """Do what the request asks; S3NotBuilt, MethodNotAllowed for what nobody does."""
    if call.query.get("versionId") not in (None, "null"):
        raise errors.S3NotBuilt(what="A version of an object")
    level = "object" if call.key else "bucket" if call.bucket else "service"
    asked = sorted(SUB_RESOURCES & set(call.query))
    sub_resource = asked[0] if asked else ""
    method = call.request.method
    found = _operations.get((method, level, sub_resource))
    if found is None and method == "HEAD":
        found = _operations.get(("GET", level, sub_resource))
    if found is not None:
        return found(call)
    if sub_resource:
        raise errors.S3NotBuilt(what=f"{method[:10]} ?{sub_resource} of the {level}")
    raise errors.MethodNotAllowed(method=method[:20], path=call.request.path[:200])


def names() -> list[tuple[str, str, str]]:
    """Method, level and sub-resource of what is built."""
    return sorted(_operations)


def _xml(name: str, content: xml.Content, status: int = 200) -> wsgi.Response:
    return wsgi.Response(xml.render(name, content), status, content_type=XML)


def _nothing(status: int = 204, headers: Mapping[str, str] | None = None) -> wsgi.Response:
    answered = wsgi.Response(status=status, content_type=XML)
    answered.headers.extend(headers)
    return answered


def _time(at: dt.datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03d}Z"


def _owner(project_id: str) -> xml.Content:
    return [("ID", project_id), ("DisplayName", project_id)]


# --- buckets --------------------------------------------------------------------------------


@operation("GET", "service")
def list_buckets(call: Call) -> wsgi.Response:
    ctx = call.signed.ctx
    found = [
        ("Bucket", [("Name", row.name), ("CreationDate", _time(row.created_at))])
        for row in buckets.own(ctx)
    ]
    content = [("Owner", _owner(ctx.project_id)), ("Buckets", found)]
    return _xml("ListAllMyBucketsResult", content)


@operation("PUT", "bucket")
def create_bucket(call: Call) -> wsgi.Response:
    buckets.check_member(call.signed.ctx)
    public = requests.public(call.headers)
    body = bodies.small(call.request, call.signed)
    if body:
        wanted = xml.parse(body, "CreateBucketConfiguration").text("LocationConstraint")
        if wanted not in (None, "", config.CONF.region):
            raise errors.InvalidArgument(reason=f"This cloud's region is {config.CONF.region}")
    buckets.create(call.signed.ctx, call.bucket, public)
    return _nothing(200, {"Location": f"/{call.bucket}"})


@operation("HEAD", "bucket")
def head_bucket(call: Call) -> wsgi.Response:
    buckets.readable(call.signed.ctx, call.bucket)
    return _nothing(200, {"x-amz-bucket-region": str(config.CONF.region)})


@operation("DELETE", "bucket")
def delete_bucket(call: Call) -> wsgi.Response:
    incoming.discard(buckets.remove(call.signed.ctx, call.bucket))
    return _nothing()


@operation("GET", "bucket", "location")
def get_bucket_location(call: Call) -> wsgi.Response:
    buckets.owned(call.signed.ctx, call.bucket)
    return _xml("LocationConstraint", str(config.CONF.region))


@operation("GET", "bucket", "versioning")
def get_bucket_versioning(call: Call) -> wsgi.Response:
    buckets.owned(call.signed.ctx, call.bucket)
    return _xml("VersioningConfiguration", None)


@operation("GET", "bucket", "requestPayment")
def get_bucket_request_payment(call: Call) -> wsgi.Response:
    buckets.owned(call.signed.ctx, call.bucket)
    return _xml("RequestPaymentConfiguration", [("Payer", "BucketOwner")])


def _never_set(call: Call) -> wsgi.Response:
    buckets.owned(call.signed.ctx, call.bucket)
    what = next(name for name in sorted(call.query) if name in NEVER_SET)
    raise errors.NotConfigured(what=what, code=NEVER_SET[what])


for _name in NEVER_SET:
    operation("GET", "bucket", _name)(_never_set)


@operation("GET", "object", "tagging")
def get_object_tagging(call: Call) -> wsgi.Response:
    buckets.get(call.signed.ctx, call.bucket, call.key)
    return _xml("Tagging", [("TagSet", [])])


# --- ACLs -----------------------------------------------------------------------------------


@operation("GET", "bucket", "acl")
def get_bucket_acl(call: Call) -> wsgi.Response:
    row = buckets.owned(call.signed.ctx, call.bucket)
    return _acl(row.project_id, row.is_public)


@operation("PUT", "bucket", "acl")
def put_bucket_acl(call: Call) -> wsgi.Response:
    buckets.publish(call.signed.ctx, call.bucket, _acl_asked(call))
    return _nothing(200)


@operation("GET", "object", "acl")
def get_object_acl(call: Call) -> wsgi.Response:
    buckets.owned(call.signed.ctx, call.bucket)
    row = buckets.get(call.signed.ctx, call.bucket, call.key)
    return _acl(row.project_id, row.is_public)


@operation("PUT", "object", "acl")
def put_object_acl(call: Call) -> wsgi.Response:
    buckets.publish_object(call.signed.ctx, call.bucket, call.key, _acl_asked(call))
    return _nothing(200)


def _acl(project_id: str, public: bool) -> wsgi.Response:
    xsi = ' xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type='
    grants: list[xml.Item] = [
        _grant(f'Grantee{xsi}"CanonicalUser"', _owner(project_id), "FULL_CONTROL")
    ]
    if public:
        grants.append(_grant(f'Grantee{xsi}"Group"', [("URI", EVERYBODY)], "READ"))
    content = [("Owner", _owner(project_id)), ("AccessControlList", grants)]
    return _xml("AccessControlPolicy", content)


def _grant(name: str, grantee: xml.Content, permission: str) -> xml.Item:
    return ("Grant", [(name, grantee), ("Permission", permission)])


def _acl_asked(call: Call) -> bool:
    """Public or not, from the header or the document, which only the owner may have read."""
    buckets.owned(call.signed.ctx, call.bucket)
    body = bodies.small(call.request, call.signed)
    if "x-amz-acl" in call.headers or not body:
        return requests.public(call.headers)
    public = False
    for grants in xml.parse(body, "AccessControlPolicy").children("AccessControlList"):
        for grant in grants.children("Grant"):
            uri = next((one.text("URI") for one in grant.children("Grantee")), None)
            permission = grant.text("Permission")
            if (uri, permission) == (EVERYBODY, "READ"):
                public = True
            elif uri is not None or permission != "FULL_CONTROL":
                raise errors.S3NotBuilt(what="A grant other than READ to everybody")
    return public


# --- listing --------------------------------------------------------------------------------


@operation("GET", "bucket")
def list_objects(call: Call) -> wsgi.Response:
    if call.query.get("list-type") == "2":
        return _list_v2(call)
    after = call.query.get("marker", "")
    page, limit = _page(call, after.encode())
    show = _shown(call)
    last = show(page.last) if page.truncated else None
    content: list[xml.Item] = [
        ("Name", call.bucket),
        ("Prefix", show(call.query.get("prefix", "").encode())),
        ("Marker", show(after.encode())),
        ("MaxKeys", limit),
        ("Delimiter", _echoed(call, "delimiter", show)),
        ("IsTruncated", page.truncated),
        ("NextMarker", last),
        ("EncodingType", call.query.get("encoding-type")),
        *[("Contents", _entry(row, show, True)) for row in page.objects],
        *[("CommonPrefixes", [("Prefix", show(one))]) for one in page.prefixes],
    ]
    return _xml("ListBucketResult", content)


def _list_v2(call: Call) -> wsgi.Response:
    token = call.query.get("continuation-token")
    after = call.query.get("start-after", "").encode() if token is None else _token(token)
    page, limit = _page(call, after)
    show = _shown(call)
    owner = call.query.get("fetch-owner") == "true"
    following = base64.urlsafe_b64encode(page.last).decode() if page.truncated else None
    content: list[xml.Item] = [
        ("Name", call.bucket),
        ("Prefix", show(call.query.get("prefix", "").encode())),
        ("MaxKeys", limit),
        ("Delimiter", _echoed(call, "delimiter", show)),
        ("KeyCount", len(page.objects) + len(page.prefixes)),
        ("IsTruncated", page.truncated),
        ("ContinuationToken", token),
        ("NextContinuationToken", following),
        ("StartAfter", _echoed(call, "start-after", show)),
        ("EncodingType", call.query.get("encoding-type")),
        *[("Contents", _entry(row, show, owner)) for row in page.objects],
        *[("CommonPrefixes", [("Prefix", show(one))]) for one in page.prefixes],
    ]
    return _xml("ListBucketResult", content)


def _echoed(call: Call, name: str, show: Callable[[bytes], str]) -> str | None:
    """What the query said, written as keys are; None when it said nothing."""
    given = call.query.get(name)
    return show(given.encode()) if given else None


def _token(token: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(token.encode("ascii"))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise errors.InvalidArgument(
            reason="The continuation token is not one this cloud gave out"
        ) from error


def _page(call: Call, after: bytes) -> tuple[Any, int]:
    limit = call.number("max-keys", KEYS, 0, KEYS)
    page = buckets.listing(
        call.signed.ctx,
        call.bucket,
        prefix=call.query.get("prefix", "").encode(),
        delimiter=call.query.get("delimiter", "").encode(),
        after=after,
        limit=limit,
    )
    return page, limit


def _shown(call: Call) -> Callable[[bytes], str]:
    """How keys are written: percent-encoded when asked, for keys that XML cannot hold."""
    encoding = call.query.get("encoding-type")
    if encoding not in (None, "url"):
        raise errors.InvalidArgument(reason="encoding-type must be url")
    return urllib.parse.quote if encoding else lambda key: key.decode()


def _entry(row: models.Object, show: Callable[[bytes], str], owner: bool) -> list[xml.Item]:
    found: list[xml.Item] = [
        ("Key", show(bytes(row.key))),
        ("LastModified", _time(row.updated_at)),
        ("ETag", f'"{row.etag}"'),
        ("Size", row.size or 0),
        ("StorageClass", "STANDARD"),
    ]
    if owner:
        found.append(("Owner", _owner(row.project_id)))
    return found


# --- objects --------------------------------------------------------------------------------


@operation("GET", "object")
def get_object(call: Call) -> wsgi.Response:
    row, file = incoming.opened(call)
    answered = None
    try:
        answered = _get(call, row, functools.partial(store.stream, file))
    finally:
        if answered is None or answered.status_code == 304:  # nobody reads it
            file.close()
    return answered


@operation("HEAD", "object")
def head_object(call: Call) -> wsgi.Response:
    row = buckets.get(call.signed.ctx, call.bucket, call.key)
    return _get(call, row, lambda start, length: ())


def _get(call: Call, row: models.Object, send: Send) -> wsgi.Response:
    """What a GET answers, with the bytes that `send` makes."""
    type, kept = _kept(call, row)
    if conditions.unchanged(call.headers, row):
        answered = wsgi.Response(status=304)
    else:
        size = row.size or 0
        part = conditions.wanted(conditions.ranged(call.headers, row), size)
        start, length = part or (0, size)
        answered = wsgi.Response(
            app_iter=send(start, length), content_type=type, content_length=length
        )
        if part:
            answered.status_code = 206
            answered.content_range = (start, start + length, size)
        if length == size and call.headers.get("x-amz-checksum-mode", "").upper() == "ENABLED":
            answered.headers.extend(json.loads(row.checksums))
    answered.accept_ranges = "bytes"
    answered.etag = row.etag
    answered.last_modified = row.updated_at
    answered.headers.extend(kept)
    return answered


def _kept(call: Call, row: models.Object) -> tuple[str, dict[str, str]]:
    """Content type and headers that an object was given, or that a signed request asks for."""
    kept = json.loads(row.headers)
    if call.signed.ctx.project_id:
        for name in requests.KEPT:
            value = call.query.get(f"response-{name}", "")
            if value and value.isascii() and value.isprintable():
                kept[name] = value
    return kept.pop("content-type", "") or "binary/octet-stream", kept


@operation("PUT", "object")
def put_object(call: Call) -> wsgi.Response:
    if "x-amz-copy-source" in call.headers:
        return _copy_object(call)
    row = incoming.put(call)
    return _nothing(200, {"ETag": f'"{row.etag}"', **json.loads(row.checksums)})


def _copy_object(call: Call) -> wsgi.Response:
    row = incoming.copy(call)
    content = [("LastModified", _time(row.updated_at)), ("ETag", f'"{row.etag}"')]
    return _xml("CopyObjectResult", content)


@operation("DELETE", "object")
def delete_object(call: Call) -> wsgi.Response:
    for name in UNBUILT_CONDITIONS:
        if name in call.headers:
            raise errors.S3NotBuilt(what=f"The header {name}")
    condition = functools.partial(conditions.delete, call.headers.get("if-match"))
    [refused] = buckets.delete(call.signed.ctx, call.bucket, [(call.key, condition)])
    if refused is not None:
        raise refused
    return _nothing()


@operation("POST", "bucket", "delete")
def delete_objects(call: Call) -> wsgi.Response:
    buckets.owned(call.signed.ctx, call.bucket)  # before anything of the body is read
    asked = xml.parse(bodies.small(call.request, call.signed), "Delete")
    found: list[tuple[bytes, buckets.Condition]] = []
    for one in asked.children("Object"):
        key = one.text("Key")
        if not key or len(found) == KEYS:
            raise errors.MalformedXML
        _refuse_unbuilt(one)
        found.append((key.encode(), functools.partial(conditions.delete, one.text("ETag"))))
    if not found:
        raise errors.MalformedXML
    refused = buckets.delete(call.signed.ctx, call.bucket, found)
    quiet = asked.text("Quiet") == "true"
    answers = [
        _deleted(key.decode(), error)
        for (key, _), error in zip(found, refused, strict=True)
        if error is not None or not quiet
    ]
    return _xml("DeleteResult", answers)


def _refuse_unbuilt(one: xml.Element) -> None:
    """S3NotBuilt for what of an object to delete would be lost without a word."""
    if one.text("VersionId") not in (None, "null"):
        raise errors.S3NotBuilt(what="A version of an object")
    for name in ("LastModifiedTime", "Size"):
        if one.text(name) is not None:
            raise errors.S3NotBuilt(what=f"{name} of an object to delete")


def _deleted(key: str, error: errors.Error | None) -> xml.Item:
    if error is None:
        return ("Deleted", [("Key", key)])
    return ("Error", [("Key", key), ("Code", error.s3), ("Message", str(error))])


# --- multipart uploads ----------------------------------------------------------------------


@operation("POST", "object", "uploads")
def create_multipart_upload(call: Call) -> wsgi.Response:
    requests.refuse_unbuilt(call.headers)
    algorithm = call.headers.get("x-amz-checksum-algorithm", "").lower() or None
    if algorithm is not None and algorithm not in checksums.ALGORITHMS:
        raise errors.InvalidArgument(reason="The checksum algorithm is not one this cloud knows")
    type = call.headers.get("x-amz-checksum-type", "").upper() or None
    if type not in (None, "COMPOSITE", "FULL_OBJECT"):
        raise errors.InvalidArgument(reason="x-amz-checksum-type is COMPOSITE or FULL_OBJECT")
    if algorithm is not None and type is None:
        type = "FULL_OBJECT" if algorithm == "crc64nvme" else "COMPOSITE"
    id = buckets.begin_upload(
        call.signed.ctx,
        call.bucket,
        call.key,
        public=requests.public(call.headers),
        headers=requests.kept(call.headers),
        checksum=algorithm,
        checksum_type=type,
    )
    content: list[xml.Item] = [
        ("Bucket", call.bucket),
        ("Key", call.key.decode()),
        ("UploadId", id),
    ]
    answered = _xml("InitiateMultipartUploadResult", content)
    if algorithm:
        answered.headers["x-amz-checksum-algorithm"] = algorithm.upper()
    if type:
        answered.headers["x-amz-checksum-type"] = type
    return answered


@operation("PUT", "object", "uploadId")
def upload_part(call: Call) -> wsgi.Response:
    number = call.number("partNumber", 0, 1, buckets.PARTS + 1)
    if not 1 <= number <= buckets.PARTS:
        raise errors.InvalidArgument(reason=f"partNumber is from 1 to {buckets.PARTS}")
    if "x-amz-copy-source" in call.headers:
        facts = incoming.copy_part(call, number)
        content = [("LastModified", _time(dt.datetime.now(dt.UTC))), ("ETag", f'"{facts.etag}"')]
        return _xml("CopyPartResult", content)
    facts = incoming.part(call, number)
    return _nothing(200, {"ETag": f'"{facts.etag}"', **facts.checksums})


@operation("GET", "object", "uploadId")
def list_parts(call: Call) -> wsgi.Response:
    upload, rows = buckets.parts(call.signed.ctx, call.bucket, call.key, call.query["uploadId"])
    after = call.number("part-number-marker", 0, 0, buckets.PARTS)
    limit = call.number("max-parts", KEYS, 1, KEYS)
    left = [row for row in rows if (row.number or 0) > after]
    page = left[:limit]
    content: list[xml.Item] = [
        ("Bucket", call.bucket),
        ("Key", call.key.decode()),
        ("UploadId", upload.id),
        ("StorageClass", "STANDARD"),
        ("PartNumberMarker", after),
        ("NextPartNumberMarker", (page[-1].number or 0) if page else 0),
        ("MaxParts", limit),
        ("IsTruncated", len(left) > limit),
        *[("Part", _part(row)) for row in page],
    ]
    return _xml("ListPartsResult", content)


def _part(row: models.Part) -> list[xml.Item]:
    return [
        ("PartNumber", row.number),
        ("LastModified", _time(row.created_at)),
        ("ETag", f'"{row.etag}"'),
        ("Size", row.size),
        *_checksum_items(json.loads(row.checksums)),
    ]


def _checksum_items(values: dict[str, str]) -> list[xml.Item]:
    return [
        (f"Checksum{name.removeprefix(checksums.PREFIX).upper()}", value)
        for name, value in values.items()
        if not name.endswith("-type")
    ]


@operation("GET", "bucket", "uploads")
def list_multipart_uploads(call: Call) -> wsgi.Response:
    show = _shown(call)
    prefix = call.query.get("prefix", "")
    after = (call.query.get("key-marker", "").encode(), call.query.get("upload-id-marker", "~"))
    limit = call.number("max-uploads", KEYS, 1, KEYS)
    rows = buckets.uploads(call.signed.ctx, call.bucket, prefix.encode())
    left = [row for row in rows if (bytes(row.key), row.id) > after]
    page = left[:limit]
    more = len(left) > limit
    content: list[xml.Item] = [
        ("Bucket", call.bucket),
        ("KeyMarker", show(after[0])),
        ("NextKeyMarker", show(bytes(page[-1].key)) if more else None),
        ("NextUploadIdMarker", page[-1].id if more else None),
        ("Prefix", show(prefix.encode())),
        ("EncodingType", call.query.get("encoding-type")),
        ("MaxUploads", limit),
        ("IsTruncated", more),
        *[("Upload", _upload(row, show)) for row in page],
    ]
    return _xml("ListMultipartUploadsResult", content)


def _upload(row: models.Upload, show: Callable[[bytes], str]) -> list[xml.Item]:
    return [
        ("Key", show(bytes(row.key))),
        ("UploadId", row.id),
        ("StorageClass", "STANDARD"),
        ("Initiated", _time(row.created_at)),
    ]


@operation("POST", "object", "uploadId")
def complete_multipart_upload(call: Call) -> wsgi.Response:
    buckets.owned(call.signed.ctx, call.bucket)  # before anything of the body is read
    body = bodies.small(call.request, call.signed, checked=False)
    row = incoming.complete(call, _pieces(xml.parse(body, "CompleteMultipartUpload")))
    content: list[xml.Item] = [
        ("Location", f"/{call.bucket}/{urllib.parse.quote(call.key)}"),
        ("Bucket", call.bucket),
        ("Key", call.key.decode()),
        ("ETag", f'"{row.etag}"'),
        *_checksum_items(json.loads(row.checksums)),
    ]
    return _xml("CompleteMultipartUploadResult", content)


def _pieces(document: xml.Element) -> Sequence[buckets.Piece]:
    found = []
    for part in document.children("Part"):
        number, etag = part.text("PartNumber") or "", part.text("ETag")
        if not (number.isascii() and number.isdigit() and len(number) < 6) or not etag:
            raise errors.MalformedXML
        sums = {
            checksums.PREFIX + name: value
            for name in checksums.ALGORITHMS
            if (value := part.text(f"Checksum{name.upper()}")) is not None
        }
        found.append(buckets.Piece(int(number), etag.strip().strip('"'), sums))
    if not 0 < len(found) <= buckets.PARTS:
        raise errors.MalformedXML
    return found


@operation("DELETE", "object", "uploadId")
def abort_multipart_upload(call: Call) -> wsgi.Response:
    upload_id = call.query["uploadId"]
    incoming.discard(buckets.abort(call.signed.ctx, call.bucket, call.key, upload_id))
    return _nothing()
