"""Another project's things, asked for by every operation of S3.

The operations come from the product's own table: a new one needs a row in `ways` (or these tests
name it).

One thing differs by design: **names of buckets are one namespace of all projects.**  Who makes a
bucket must be told that its name is taken, so that a bucket is there is no secret, and S3 answers
AccessDenied where it is another's and NoSuchBucket where there is none (S3 API reference, "Error
responses").  What is in such a bucket is a secret: keys, uploads, parts, their ids and ETags are
answered the same whether they are there or not, but in a bucket that its owner lets everybody
list.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore import auth, awsrequest, credentials

from minicloud import checkpoint, context
from minicloud.cloud import projects, users
from minicloud.objectstore import operations
from tests import tenancy
from tests.functional.s3.conftest import Answer, Store
from tests.tenancy import instead

Operation = tuple[str, str, str]  # method, level, sub-resource


@dataclasses.dataclass(frozen=True)
class Things:
    """What a project has in S3; no word is part of another."""

    bucket: str
    key: str
    upload: str  # of the key `upload_key`
    upload_key: str
    etag: str  # of its one part
    empty: str  # another bucket


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request; `own` is the status when all in it is the asker's own, None for any success."""

    path: str
    body: bytes = b""
    own: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def ways(its: Things) -> dict[Operation, list[Ask]]:
    """Operation → requests that say all its ways to name a thing."""
    bucket, key = f"/{its.bucket}", f"/{its.bucket}/{its.key}"
    upload = f"/{its.bucket}/{its.upload_key}?uploadId={its.upload}"
    source = {"x-amz-copy-source": f"{its.bucket}/{its.key}"}
    delete = f"<Delete><Object><Key>{its.key}</Key></Object></Delete>".encode()
    conditions = {"If-Match": '"x"'}
    complete = (
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber>"
        f"<ETag>{its.etag}</ETag></Part></CompleteMultipartUpload>"
    ).encode()
    public = {"x-amz-acl": "public-read"}
    found: dict[Operation, list[Ask]] = {
        ("GET", "service", ""): [Ask("/")],
        ("PUT", "bucket", ""): [Ask(bucket, own=409)],
        ("HEAD", "bucket", ""): [Ask(bucket)],
        ("DELETE", "bucket", ""): [Ask(f"/{its.empty}")],
        ("GET", "bucket", ""): [Ask(bucket), Ask(f"{bucket}?list-type=2&prefix={its.key}")],
        ("GET", "bucket", "uploads"): [
            Ask(f"{bucket}?uploads&prefix={its.upload_key}"),
            Ask(f"{bucket}?uploads&key-marker=a&upload-id-marker={its.upload}"),
        ],
        ("PUT", "bucket", "acl"): [Ask(f"{bucket}?acl", headers=public)],
        ("POST", "bucket", "delete"): [Ask(f"{bucket}?delete", delete)],
        ("GET", "object", ""): [
            Ask(key),
            Ask(key, headers={"Range": "bytes=0-1"}),
            Ask(key, headers=conditions, own=412),
            Ask(f"{key}?versionId=null"),
            Ask(f"{key}?versionId={its.upload}", own=501),
        ],
        ("HEAD", "object", ""): [Ask(key), Ask(key, headers=conditions, own=412)],
        ("PUT", "object", ""): [
            Ask(key, b"new"),
            Ask(key, b"new", own=412, headers={"If-None-Match": "*"}),
            Ask(f"/{its.bucket}/copy", headers=source),
            Ask(
                f"/{its.bucket}/copy",
                headers={**source, "x-amz-copy-source-if-match": '"x"'},
                own=412,
            ),
        ],
        ("DELETE", "object", ""): [Ask(key, headers=conditions, own=412), Ask(key)],
        ("GET", "object", "acl"): [Ask(f"{key}?acl")],
        ("PUT", "object", "acl"): [Ask(f"{key}?acl", headers=public)],
        ("GET", "object", "tagging"): [Ask(f"{key}?tagging")],
        ("POST", "object", "uploads"): [Ask(f"{key}?uploads")],
        ("GET", "object", "uploadId"): [Ask(upload)],
        ("PUT", "object", "uploadId"): [
            Ask(f"{upload}&partNumber=2", b"part"),
            Ask(f"{upload}&partNumber=3", headers=source),
        ],
        ("POST", "object", "uploadId"): [Ask(upload, complete)],
        ("DELETE", "object", "uploadId"): [Ask(upload)],
    }
    for name in ("location", "versioning", "requestPayment", "acl"):
        found["GET", "bucket", name] = [Ask(f"{bucket}?{name}")]
    for name in operations.NEVER_SET:
        found["GET", "bucket", name] = [Ask(f"{bucket}?{name}", own=404)]
    return found


NOTHING = Things(*[field.name for field in dataclasses.fields(Things)])


def test_every_operation_has_a_row_here() -> None:
    assert sorted(ways(NOTHING)) == operations.names()


# --- what there is, and asking ----------------------------------------------------------------


def furnished(store: Store, who: projects.Credentials) -> Things:
    """The project has one of everything."""
    s3, mark = store.client(who), who.project_id[-8:]
    for name in ("box", "void"):
        s3.create_bucket(Bucket=f"{name}-{mark}")
    box = {"Bucket": f"box-{mark}"}
    s3.put_object(**box, Key=f"key-{mark}", Body=b"secret")
    upload = {**box, "Key": f"large-{mark}"}
    id = s3.create_multipart_upload(**upload)["UploadId"]
    part = s3.upload_part(**upload, UploadId=id, PartNumber=1, Body=f"part {mark}".encode())
    return Things(
        bucket=f"box-{mark}",
        key=f"key-{mark}",
        upload=id,
        upload_key=f"large-{mark}",
        etag=part["ETag"].strip('"'),
        empty=f"void-{mark}",
    )


@pytest.fixture
def bobs(store: Store) -> Things:
    return furnished(store, store.bob)


@pytest.fixture
def eves(store: Store) -> Things:
    return furnished(store, store.eve)


Asker = Callable[[Store, str, Ask], Answer]


def _keys(who: projects.Credentials, project: str = "") -> credentials.Credentials:
    name = f"{who.access_key}:{project}" if project else who.access_key
    return credentials.Credentials(name, who.secret)


def signed(store: Store, method: str, ask: Ask, keys: credentials.Credentials) -> Answer:
    request = awsrequest.AWSRequest(method, store.url + ask.path, data=ask.body)
    for name, value in ask.headers.items():
        request.headers[name] = value
    auth.S3SigV4Auth(keys, "s3", "nova").add_auth(request)
    return store.send(method, ask.path, dict(request.headers.items()), ask.body)


def as_eve(store: Store, method: str, ask: Ask) -> Answer:
    return signed(store, method, ask, _keys(store.eve))


def by_a_link_of_eves(store: Store, method: str, ask: Ask) -> Answer:
    """Presigned."""
    request = awsrequest.AWSRequest(method, store.url + ask.path, headers=ask.headers)
    auth.S3SigV4QueryAuth(_keys(store.eve), "s3", "nova", 300).add_auth(request)
    return store.send(method, request.url.removeprefix(store.url), ask.headers, ask.body)


def as_nobody(store: Store, method: str, ask: Ask) -> Answer:
    return store.send(method, ask.path, ask.headers, ask.body)


ASKERS: tuple[Asker, ...] = (as_eve, by_a_link_of_eves, as_nobody)


def fresh(ask: Ask, thing: str, other: str) -> Ask:
    """The same, asked of the other thing."""
    return Ask(**instead(dataclasses.asdict(ask), thing, other))


def nobodys(thing: str) -> str:
    """What never was, and looks like it."""
    head, _, digits = thing.rpartition("-")
    return f"{head}-{uuid.UUID(int=0).hex[: len(digits)]}" if head else "0" * len(thing)


def asks(its: Things) -> Iterator[tuple[Operation, Ask]]:
    for operation, some in ways(its).items():
        for ask in some:
            yield operation, ask


@dataclasses.dataclass
class Watch:
    """Nothing is changed by what is asked, in the database or on the disk."""

    store: Store

    def __post_init__(self) -> None:
        self.before = self._all()

    def _all(self) -> tuple[Any, set[str]]:
        rows = {name: rows for name, rows in tenancy.whole().items() if name != "hosts"}
        return rows, {path.name for path in self.store.files.iterdir()}

    def check(self) -> None:
        assert self._all() == self.before

    def answers(
        self, asker: Asker, method: str, ask: Ask, theirs: str, instead_of_it: str
    ) -> list[tuple[tenancy.Seen, list[str]]]:
        """What a client sees of this question, and of the one about something that is not there,
        and what the database was asked for them."""
        found = []
        for thing in (theirs, instead_of_it):
            asked = fresh(ask, theirs, thing)
            with tenancy.statements() as statements:
                told = asker(self.store, method, asked)
            seen = tenancy.seen(told.status, told.headers, told.body)
            found.append((instead(seen, thing, instead_of_it), statements))
        return found


def code(seen: tenancy.Seen) -> tuple[int, str]:
    """Status and S3's code, "" for an answer without a body."""
    return seen[0], seen[2].partition("<Code>")[2].partition("</Code>")[0]


# --- what holds -------------------------------------------------------------------------------


def _ends(operation: Operation) -> int:
    """What makes things go comes last."""
    method, _, sub = operation
    return 2 if sub == "delete" else 1 if method == "DELETE" else 0


def test_ones_own_things_are_there(store: Store, bobs: Things, subtests: Any) -> None:
    """So the requests below are refused for whose the things are, and for nothing else."""
    upload = {"Bucket": bobs.bucket, "Key": bobs.upload_key}
    for (method, level, sub), ask in sorted(asks(bobs), key=lambda one: _ends(one[0])):
        with subtests.test(f"{method} {level} {sub}"):
            if (method, sub) == ("DELETE", "uploadId"):  # the other one is an object by now
                id = store.client().create_multipart_upload(**upload)["UploadId"]
                told = signed(store, method, fresh(ask, bobs.upload, id), _keys(store.bob))
            else:
                told = signed(store, method, ask, _keys(store.bob))
            assert told.status in ({ask.own} if ask.own else {200, 204, 206}), told.body


def test_what_is_in_anothers_bucket_is_answered_like_what_is_not(
    store: Store, bobs: Things, eves: Things, subtests: Any
) -> None:
    """Keys, uploads and ETags there."""
    tried, watch = 0, Watch(store)
    for (method, level, sub), ask in asks(bobs):
        for field in ("key", "upload", "upload_key", "etag"):
            thing = getattr(bobs, field)
            if fresh(ask, thing, "") == ask:
                continue
            for asker in ASKERS:
                tried += 1
                with subtests.test(f"{method} {level} {sub}, {field}, {asker.__name__}"):
                    one, other = watch.answers(asker, method, ask, thing, nobodys(thing))
                    assert one == other
                    assert code(one[0])[0] in (403, 501)
        watch.check()
    assert tried > 90


def test_anothers_in_ones_own_bucket_is_answered_like_what_is_not_there(
    store: Store, bobs: Things, eves: Things, subtests: Any
) -> None:
    """An upload by its id, an ETag of its part, an object as the source of a copy."""
    tried, watch = 0, Watch(store)
    for (method, level, sub), ask in asks(eves):
        for field in ("upload", "etag"):
            own, thing = getattr(eves, field), getattr(bobs, field)
            asked = fresh(ask, own, thing)
            if field == "upload":  # with its key, too: the bucket alone is another
                asked = fresh(asked, eves.upload_key, bobs.upload_key)
            if thing not in asked.path + asked.body.decode() or (method, level) == (
                "GET",
                "bucket",
            ):
                continue
            for asker in (as_eve, by_a_link_of_eves):
                tried += 1
                with subtests.test(f"{method} {level} {sub}, {field}, {asker.__name__}"):
                    one, other = watch.answers(asker, method, asked, thing, nobodys(thing))
                    assert one == other
                    assert one[0][0] >= 400
        source = ask.headers.get("x-amz-copy-source")
        if source is not None:
            theirs = {**ask.headers, "x-amz-copy-source": f"{bobs.bucket}/{bobs.key}"}
            asked = dataclasses.replace(ask, headers=theirs)
            with subtests.test(f"{method} {level} {sub}, copied"):
                one, other = watch.answers(as_eve, method, asked, bobs.key, nobodys(bobs.key))
                assert one == other
                assert code(one[0]) == (403, "AccessDenied")
        watch.check()
    assert tried > 10


def test_a_bucket_of_anothers_is_denied_and_one_that_is_not_there_is_not_found(
    store: Store, bobs: Things, eves: Things, subtests: Any
) -> None:
    """The one difference by design: see the first lines of this file."""
    watch = Watch(store)
    for (method, level, sub), ask in asks(bobs):
        if level == "service" or (method, level, sub) == ("PUT", "bucket", ""):
            continue
        bucket = bobs.empty if bobs.empty in ask.path else bobs.bucket
        for asker in ASKERS:
            with subtests.test(f"{method} {level} {sub}, {asker.__name__}"):
                (denied, _), (missing, _) = watch.answers(
                    asker, method, ask, bucket, nobodys(bucket)
                )
                if "versionId=" in ask.path and "null" not in ask.path:
                    assert denied == missing
                elif method == "HEAD":
                    assert (code(denied), code(missing)) == ((403, ""), (404, ""))
                else:
                    assert code(denied) == (403, "AccessDenied")
                    assert "<Message>Access Denied</Message>" in denied[2]
                    assert code(missing) == (404, "NoSuchBucket")
        watch.check()


def test_a_name_that_is_taken_is_all_one_learns_of_a_bucket(
    store: Store, bobs: Things, eves: Things
) -> None:
    watch = Watch(store)
    told = as_eve(store, "PUT", Ask(f"/{bobs.bucket}"))
    assert code(tenancy.seen(told.status, told.headers, told.body)) == (409, "BucketAlreadyExists")
    assert store.bob.project_id.encode() not in told.body
    nobody = as_nobody(store, "PUT", Ask(f"/{bobs.bucket}"))
    other = as_nobody(store, "PUT", Ask(f"/{nobodys(bobs.bucket)}"))
    assert nobody.status == other.status == 403
    watch.check()


def test_what_is_not_built_is_said_before_a_bucket_is_looked_at(
    store: Store, bobs: Things, subtests: Any
) -> None:
    built = {sub for _, _, sub in operations.names()}
    for sub in sorted(operations.SUB_RESOURCES - built):
        for path in (f"/{bobs.bucket}?{sub}", f"/{bobs.bucket}/{bobs.key}?{sub}"):
            with subtests.test(path):
                one, other = Watch(store).answers(
                    as_eve, "GET", Ask(path), bobs.bucket, nobodys(bobs.bucket)
                )
                assert one == other
                assert code(one[0]) == (501, "NotImplemented")


def test_a_list_shows_no_project_anothers_buckets(
    store: Store, bobs: Things, eves: Things
) -> None:
    told = as_eve(store, "GET", Ask("/")).body.decode()
    assert eves.bucket in told
    assert bobs.bucket not in told
    assert as_nobody(store, "GET", Ask("/")).status == 403


def test_in_a_bucket_that_everybody_may_list_keys_are_no_secret_and_bytes_are(
    store: Store, bobs: Things, eves: Things
) -> None:
    """By design, as in S3: who may list a bucket is told whether a key is there."""
    store.client().put_bucket_acl(Bucket=bobs.bucket, ACL="public-read")
    for asker in ASKERS:
        there = asker(store, "GET", Ask(f"/{bobs.bucket}/{bobs.key}"))
        missing = asker(store, "GET", Ask(f"/{bobs.bucket}/{nobodys(bobs.key)}"))
        assert (there.status, missing.status) == (403, 404)
        assert b"secret" not in there.body
        for what in (f"?uploadId={bobs.upload}", "?acl"):
            denied = asker(store, "GET", Ask(f"/{bobs.bucket}/{bobs.upload_key}{what}"))
            assert denied.status == 403


def test_keys_of_one_who_may_act_no_more_are_answered_like_keys_that_never_were(
    store: Store, bobs: Things, subtests: Any
) -> None:
    """In the novarc's form, KEY:PROJECT: a member no more, a project and a user that are gone."""
    operator = context.admin
    projects.add(operator(), "bobs", "eve")
    assert signed(store, "GET", Ask(f"/{bobs.bucket}"), _keys(store.eve, "bobs")).status == 200
    projects.remove(operator(), "bobs", "eve")
    users.create(operator(), "gone")
    projects.create(operator(), "empty", "gone")
    gone = projects.credentials(operator(), "empty", "gone")
    projects.delete(operator(), "empty")
    users.delete(operator(), "gone")
    dead = {"left": _keys(store.eve, "bobs"), "no project": _keys(store.eve, "empty")}
    dead["no user"] = _keys(gone, "empty")
    watch = Watch(store)
    for (method, level, sub), ask in asks(bobs):
        never = signed(store, method, ask, _keys(store.eve, "none"))
        for what, keys in dead.items():
            with subtests.test(f"{method} {level} {sub}, {what}"):
                told = signed(store, method, ask, keys)
                assert tenancy.seen(told.status, told.headers, told.body) == tenancy.seen(
                    never.status, never.headers, never.body
                )
                assert told.status == 403
    watch.check()


def test_nobody_waits_for_anothers_upload_to_be_complete(
    store: Store, bobs: Things, eves: Things, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one upload, who completes it a second time waits: not who only knows its id."""
    told = []

    def hook(name: str) -> None:
        if name == "complete_upload.written":
            path = f"/{eves.bucket}/{eves.upload_key}?uploadId={bobs.upload}"
            body = ways(eves)["POST", "object", "uploadId"][0].body
            told.append(as_eve(store, "POST", Ask(path, body)).status)

    monkeypatch.setattr(checkpoint, "hook", hook)
    store.client().complete_multipart_upload(
        Bucket=bobs.bucket,
        Key=bobs.upload_key,
        UploadId=bobs.upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": bobs.etag}]},
    )
    assert told == [404]
