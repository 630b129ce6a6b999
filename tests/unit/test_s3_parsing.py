"""What comes in at the S3 port: aws-chunked bodies, signatures, checksums, conditions, keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import time
from collections.abc import Callable
from typing import Any

import pytest

from minicloud import context, errors, wsgi
from minicloud.auth import s3
from minicloud.auth.database import Identity
from minicloud.auth.signature import Received
from minicloud.db import objects
from minicloud.objectstore import bodies, checksums, conditions, requests, xml

CTX = context.Context("req-1")
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
BOB = Identity("u", "bob", "p", "bobs", False, SECRET)
CRC32 = base64.b64encode((0xCBF43926).to_bytes(4, "big")).decode()  # of 123456789


def request(body: bytes, path: str = "/box/k", **headers: str) -> wsgi.Request:
    given = {"content-length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    environ = {"REQUEST_METHOD": "PUT", "RAW_PATH_INFO": path, "headers_raw": given.items()}
    return wsgi.Request(environ | {"wsgi.input": io.BytesIO(body)}, 1 << 20)


def take(body: bodies.Body, size: int = 3) -> bytes:
    """All of it, in small bites, checked."""
    whole = b""
    while chunk := body.read(size):
        whole += chunk
        body.sums.update(chunk)
    body.verify()
    return whole


# --- bodies ---------------------------------------------------------------------------------

UNSIGNED = s3.Signed(CTX, "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
TRAILER = {"x_amz_trailer": "x-amz-checksum-crc32", "x_amz_decoded_content_length": "9"}


def trailing(body: bytes) -> bodies.Body:
    return bodies.Body(request(body, **TRAILER), UNSIGNED)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_an_unsigned_stream_with_a_trailing_checksum(size: int) -> None:
    body = f"9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:{CRC32}\r\n\r\n".encode()
    assert take(trailing(body), size) == b"123456789"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (f"9\r\n123456780\r\n0\r\nx-amz-checksum-crc32:{CRC32}\r\n\r\n", errors.BadDigest),
        ("9\r\n123456789\r\n0\r\n\r\n", errors.BadDigest),
        ("9\r\n123456789\r\n0\r\nx-amz-checksum-crc32:?\r\n\r\n", errors.InvalidDigest),
        ("9\r\n123456789", errors.IncompleteBody),
        ("9\r\n1234567890\r\n0\r\n\r\n", errors.IncompleteBody),
        ("x\r\n123456789\r\n0\r\n\r\n", errors.IncompleteBody),
        ("4\r\n1234\r\n5\r\n56789\r\n0\r\n\r\n", errors.InvalidChunkSize),
        ("9" * 5000, errors.IncompleteBody),
        ("", errors.IncompleteBody),
    ],
)
def test_a_stream_that_is_not_whole_or_not_right_is_refused(
    body: str, error: type[errors.Error]
) -> None:
    with pytest.raises(error):
        take(trailing(body.encode()))


def test_a_stream_must_say_how_long_it_is() -> None:
    with pytest.raises(errors.MissingContentLength):
        bodies.Body(request(b"0\r\n\r\n"), UNSIGNED)


def test_a_plain_body_is_what_was_signed() -> None:
    signed = s3.Signed(CTX, hashlib.sha256(b"body").hexdigest())
    assert take(bodies.Body(request(b"body"), signed)) == b"body"
    with pytest.raises(errors.ContentSHA256Mismatch):
        take(bodies.Body(request(b"bodi"), signed))


# the worked example of S3's documents ("Signature Calculations for the Authorization Header:
# Transferring Payload in Multiple Chunks"): 65 KiB of "a"
SEED = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
SIGNATURES = (
    "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648",
    "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497",
    "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9",
)


def chain() -> s3.Chain:
    scope = "20130524/us-east-1/s3/aws4_request"
    return s3.Chain(s3._key(SECRET, scope), "20130524T000000Z", scope, SEED)


def stream(*chunks: bytes) -> bytes:
    return b"".join(
        f"{len(chunk):x};chunk-signature={signature}\r\n".encode() + chunk + b"\r\n"
        for chunk, signature in zip(chunks, SIGNATURES, strict=True)
    )


@pytest.mark.parametrize("changed", [False, True])
def test_a_signed_stream_is_the_one_of_the_documents(changed: bool) -> None:
    first = b"a" * 65535 + (b"b" if changed else b"a")
    signed = s3.Signed(CTX, s3.STREAMING, chain())
    given = request(stream(first, b"a" * 1024, b""), x_amz_decoded_content_length="66560")
    body = bodies.Body(given, signed)
    if not changed:
        assert take(body, 4096) == b"a" * 66560
        return
    with pytest.raises(errors.SignatureWrong):
        take(body, 4096)


def test_a_signed_trailer_is_checked() -> None:
    for right in (True, False):
        one = chain()
        text = f"x-amz-checksum-crc32:{CRC32}\n".encode()
        digest = hashlib.sha256(text).hexdigest()
        lines = ["AWS4-HMAC-SHA256-TRAILER", one._timestamp, one._scope, SEED, digest]
        given = hmac.new(one._key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
        if right:
            one.check_trailer(text, given)
        else:
            with pytest.raises(errors.SignatureWrong):
                one.check_trailer(text + b"x", given)


# --- signatures -----------------------------------------------------------------------------


def look_up(key: str, project: str | None) -> Identity | None:
    return BOB if key == "bob" and project in (None, "bobs") else None


def test_nobody_is_who_signs_nothing() -> None:
    signed = s3.verify(Received("GET", "/box/k", "", {"host": "h"}, b""), CTX, look_up)
    assert (signed.ctx.project_id, signed.payload) == ("", s3.UNSIGNED)


def version_2(**headers: str) -> Received:
    made = {"date": context_date(), **headers}
    text = f"GET\n\n\n{made['date']}\n/box/k?acl"
    digest = hmac.digest(SECRET.encode(), text.encode(), "sha1")
    made.setdefault("authorization", f"AWS bob:{base64.b64encode(digest).decode()}")
    return Received("GET", "/box/k", "acl&other=1", made, b"")


def context_date(offset_s: float = 0) -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + offset_s))


def test_version_2_in_the_header() -> None:
    assert s3.verify(version_2(), CTX, look_up).ctx.user == "bob"
    named = version_2()
    named.headers["authorization"] = named.headers["authorization"].replace("bob:", "bob:bobs:")
    assert s3.verify(named, CTX, look_up).ctx.project == "bobs"


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        ({"date": context_date(-3600)}, errors.RequestTimeTooSkewed),
        ({"date": "yesterday"}, errors.AccessDenied),
        ({"authorization": "AWS eve:AAAA"}, errors.InvalidAccessKeyId),
        ({"authorization": "AWS bob:AAAA"}, errors.SignatureWrong),
        ({"authorization": "AWS"}, errors.AuthorizationHeaderMalformed),
        ({"authorization": "Basic x"}, errors.AuthorizationHeaderMalformed),
        ({"x-amz-acl": "public-read"}, errors.SignatureWrong),
    ],
)
def test_version_2_refuses(headers: dict[str, str], error: type[errors.Error]) -> None:
    with pytest.raises(error):
        s3.verify(version_2(**headers), CTX, look_up)


# --- the rest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("crc32c", "e3069283"), ("crc64nvme", "ae8b14860a799888"), ("crc32", "cbf43926")],
)
@pytest.mark.parametrize("step", [1, 2, 3, 9])
def test_checksums_have_their_check_value(name: str, value: str, step: int) -> None:
    digest = checksums.ALGORITHMS[name]()
    for at in range(0, 9, step):
        digest.update(b"123456789"[at : at + step])
    assert digest.digest().hex() == value


@pytest.mark.parametrize(
    ("host", "path", "found"),
    [
        ("h:1", "/", ("", b"", "/")),
        ("h:1", "/box", ("box", b"", "/box")),
        ("h:1", "/box/", ("box", b"", "/box/")),
        ("h:1", "/box/a/b%20c", ("box", b"a/b c", "/box/a/b%20c")),
        ("box.s3.localhost:1", "/a", ("box", b"a", "/box/a")),
        ("my.box.localhost", "/", ("my.box", b"", "/my.box/")),
        ("localhost", "/box/a", ("box", b"a", "/box/a")),
        ("s3.localhost", "/box/a", ("box", b"a", "/box/a")),
    ],
)
def test_where_a_bucket_may_be(
    options: Callable[..., None], host: str, path: str, found: tuple[Any, ...]
) -> None:
    given = request(b"", path, host=host)
    assert requests.place(given) == found


@pytest.mark.parametrize("key", ["%ff", "a%c3"])
def test_a_key_is_utf_8(key: str) -> None:
    with pytest.raises(errors.InvalidArgument):
        requests.decoded(key)
    with pytest.raises(errors.KeyTooLong):
        requests.decoded("x" * 1025)


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=5-", (5, 5)),
        ("bytes=-3", (7, 3)),
        ("bytes=-30", (0, 10)),
        ("bytes=0-9", (0, 10)),
        ("bytes=5-2", None),
        ("bytes=0-1,3-4", None),
        ("lines=1-2", None),
        ("", None),
    ],
)
def test_ranges(header: str, found: tuple[int, int] | None) -> None:
    assert conditions.wanted(header, 10) == found


@pytest.mark.parametrize(
    ("prefix", "after"), [(b"a", b"b"), (b"a\xff", b"b"), (b"\xff", None), (b"", None)]
)
def test_what_comes_after_a_prefix(prefix: bytes, after: bytes | None) -> None:
    assert objects.after_all(prefix) == after


def test_xml_goes_out_escaped() -> None:
    made = xml.render("A", [("B", "<&\x00"), ("C", None), ("D", True), ("E", [("F", 1)])])
    assert made.endswith(b"<B>&lt;&amp;?</B><D>true</D><E><F>1</F></E></A>")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<A",
        b"<B/>",
        b"<!DOCTYPE A><A/>",
        b"\xff\xfe<\x00A\x00/\x00>\x00",
        b"<A>" * 20,
        b"<A>" + b"<b/>" * 100_000 + b"</A>",
    ],
)
def test_xml_that_is_not_right_is_refused(body: bytes) -> None:
    with pytest.raises(errors.MalformedXML):
        xml.parse(body, "A")
