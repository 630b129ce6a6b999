"""What an S3 request is about: bucket and key, out of the path or the header Host.

Sources: S3 user guide, "Virtual hosting of buckets"; S3 API reference, "Common request headers".
"""

from __future__ import annotations

import dataclasses
import functools
import re
import urllib.parse
from collections.abc import Mapping

from oslo_config import cfg

from minicloud import config, errors, wsgi
from minicloud.auth import s3, signature
from minicloud.objectstore.manager import Manager

CONF = config.declare(
    "objectstore",
    [
        cfg.ListOpt(
            "domains",
            default=["s3.localhost", "localhost"],
            help="Domains below which the first part of a request's host name is a bucket"
            " (virtual-host style): BUCKET.s3.localhost.",
        ),
    ],
)

KEY_BYTES = 1024
META_BYTES = 8192
META = "x-amz-meta-"
KEPT = (
    "content-type",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "expires",
)


@dataclasses.dataclass(frozen=True)
class Call:
    """An S3 request: who asks what of which bucket and key ("" and b"": none)."""

    manager: Manager
    request: wsgi.Request
    signed: s3.Signed
    bucket: str
    key: bytes

    @property
    def headers(self) -> dict[str, str]:
        return self.request.headers

    @functools.cached_property
    def query(self) -> Mapping[str, str]:
        return dict(signature.decode(self.request.query_string))

    def number(self, name: str, default: int, low: int, high: int) -> int:
        """A number of the query, at most `high`; InvalidArgument."""
        given = self.query.get(name)
        if given is None or given == "":
            return default
        if not re.fullmatch("[0-9]{1,9}", given) or int(given) < low:
            raise errors.InvalidArgument(reason=f"{name} is not a number from {low} to {high}")
        return min(int(given), high)


def place(request: wsgi.Request) -> tuple[str, bytes, str]:
    """Bucket, key, and the path as it would be in path style, still encoded."""
    name = in_host(request)
    path = f"/{name}{request.path}" if name else request.path
    bucket, _, key = path[1:].partition("/")
    return urllib.parse.unquote(bucket), decoded(key), path


def in_host(request: wsgi.Request) -> str:
    """The bucket that the header Host names, or ""."""
    host = request.headers.get("host", "").partition(":")[0].lower()
    if host in CONF.domains:
        return ""
    for domain in CONF.domains:
        name = host.removesuffix(f".{domain}")
        if name != host:
            return name
    return ""


def decoded(key: str) -> bytes:
    """The bytes of a percent-encoded key; KeyTooLong, InvalidArgument."""
    found = urllib.parse.unquote_to_bytes(key)
    if len(found) > KEY_BYTES:
        raise errors.KeyTooLong
    try:
        found.decode()
    except UnicodeDecodeError as error:
        raise errors.InvalidArgument(reason="A key is UTF-8") from error
    return found


def source(headers: Mapping[str, str]) -> tuple[str, bytes]:
    """Bucket and key of x-amz-copy-source."""
    path, _, version = headers["x-amz-copy-source"].partition("?versionId=")
    if version not in ("", "null"):
        raise errors.S3NotBuilt(what="A version of an object")
    bucket, _, key = path.lstrip("/").partition("/")
    if not bucket or not key:
        raise errors.InvalidArgument(reason="x-amz-copy-source must be /BUCKET/KEY")
    return urllib.parse.unquote(bucket), decoded(key)


def kept(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that a GET of the object will answer with; MetadataTooLarge."""
    found = {
        name: value
        for name, value in headers.items()
        if name in KEPT or name.startswith(META) or name == "x-amz-storage-class"
    }
    encoding = [
        word
        for word in found.pop("content-encoding", "").split(",")
        if word.strip() and word.strip() != "aws-chunked"
    ]
    if encoding:
        found["content-encoding"] = ",".join(encoding).strip()
    if sum(len(name) + len(value) for name, value in found.items()) > META_BYTES:
        raise errors.MetadataTooLarge(limit=META_BYTES)
    return found


def public(headers: Mapping[str, str]) -> bool:
    """Whether the canned ACL lets everybody read; S3NotBuilt for others than the two."""
    for name in headers:
        if name.startswith("x-amz-grant-"):
            raise errors.S3NotBuilt(what=f"The header {name}")
    given = headers.get("x-amz-acl", "private")
    if given not in ("private", "public-read", "bucket-owner-full-control"):
        raise errors.S3NotBuilt(what=f"The canned ACL {given[:40]}")
    return given == "public-read"


def refuse_unbuilt(headers: Mapping[str, str]) -> None:
    """S3NotBuilt for what would be lost without a word."""
    for name in headers:
        if name.startswith(
            ("x-amz-server-side-encryption", "x-amz-object-lock", "x-amz-copy-source-server-side")
        ):
            raise errors.S3NotBuilt(what=f"The header {name}")
    if headers.get("x-amz-tagging"):
        raise errors.S3NotBuilt(what="Tagging")
