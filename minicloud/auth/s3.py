"""Who signed an S3 request: what S3 does otherwise than `auth.signature`.

Version 4: the path is signed as sent, the body's digest is what `x-amz-content-sha256` says, and
chunks of a streamed body carry signatures of their own, each over the one before.  Version 2:
`AWS KEY:SIGNATURE`, in the header or the query.  Sources: S3 API reference, "Authenticating
Requests (AWS Signature Version 4)", "Signature calculations: chunked upload"; S3 developer guide,
"Signing and authenticating REST requests".
"""

from __future__ import annotations

import base64
import dataclasses
import email.utils
import hashlib
import hmac
import re
import time
import urllib.parse
from collections.abc import Sequence
from typing import Any

from botocore import auth, credentials

from minicloud import context, errors
from minicloud.auth import signature
from minicloud.auth.database import Identity
from minicloud.auth.signature import LookUp, Received

SKEW_S = 900  # S3's own: 15 minutes
UNSIGNED = "UNSIGNED-PAYLOAD"
STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
TRAILER = "-TRAILER"
STREAMS = (STREAMING, STREAMING + TRAILER, "STREAMING-UNSIGNED-PAYLOAD" + TRAILER)
EMPTY = hashlib.sha256(b"").hexdigest()
MISMATCH = (
    "The request signature we calculated does not match the signature you provided."
    " Check your key and signing method"
)
_SHA256 = re.compile("[0-9a-f]{64}")


class Chain:
    """The signatures of a streamed body: each is over its bytes and the signature before."""

    def __init__(self, key: bytes, timestamp: str, scope: str, seed: str) -> None:
        self._key, self._timestamp, self._scope, self._last = key, timestamp, scope, seed

    def check_chunk(self, sha256: str, given: str) -> None:
        """`given` signs a chunk with this digest; SignatureWrong."""
        self._check("AWS4-HMAC-SHA256-PAYLOAD", [EMPTY, sha256], given)

    def check_trailer(self, text: bytes, given: str) -> None:
        """`given` signs the trailing headers, one `name:value` a line; SignatureWrong."""
        self._check("AWS4-HMAC-SHA256-TRAILER", [hashlib.sha256(text).hexdigest()], given)

    def _check(self, kind: str, digests: list[str], given: str) -> None:
        lines = [kind, self._timestamp, self._scope, self._last, *digests]
        expected = hmac.new(self._key, "\n".join(lines).encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise errors.SignatureWrong(reason=MISMATCH)
        self._last = expected


@dataclasses.dataclass(frozen=True)
class Signed:
    """Who asks, and what was signed of the body: `payload` is a SHA-256 in hex, UNSIGNED or one
    of STREAMS; `chain` checks the chunks of a signed stream."""

    ctx: context.Context
    payload: str
    chain: Chain | None = None


def verify(
    received: Received, ctx: context.Context, look_up: LookUp, resource: str | None = None
) -> Signed:
    """Who signed the request; nobody's context when it carries no signature.

    `received.body` is not looked at; `resource` is the path with the bucket when the client named
    it in the header Host.  AccessDenied, SignatureWrong, RequestTimeTooSkewed,
    InvalidAccessKeyId, AuthorizationHeaderMalformed.
    """
    parameters = received.parameters()
    names = {name for name, _ in parameters}
    header = received.headers.get("authorization")
    if header is None and not names & {"X-Amz-Signature", "X-Amz-Credential", "Signature"}:
        return Signed(ctx, _payload(received))
    if (header or "").startswith("AWS ") or (header is None and "Signature" in names):
        return _version_2(received, ctx, look_up, header, dict(parameters), resource)
    return _version_4(received, ctx, look_up, header, parameters)


def _payload(received: Received) -> str:
    """What the client says of its body's digest; InvalidDigest for what we cannot check."""
    given = received.headers.get("x-amz-content-sha256")
    if given is None or given == UNSIGNED:
        return UNSIGNED
    if given not in STREAMS and not _SHA256.fullmatch(given):
        raise errors.InvalidArgument(reason="x-amz-content-sha256 is not one this cloud knows")
    return given


def _identity(ctx: context.Context, access_key: str, look_up: LookUp) -> Identity:
    name, _, project = access_key.partition(":")
    found = look_up(name, project or None)
    if found is None:
        raise errors.InvalidAccessKeyId
    return found


def _skewed(age_s: float) -> None:
    if abs(age_s) > SKEW_S:
        raise errors.RequestTimeTooSkewed(skew_s=round(abs(age_s)), limit_s=SKEW_S)


# --- version 4 --------------------------------------------------------------------------------


def _version_4(
    received: Received,
    ctx: context.Context,
    look_up: LookUp,
    header: str | None,
    parameters: list[tuple[str, str]],
) -> Signed:
    claim = _claim(received, header, parameters)
    _check_all_signed(received, claim)
    age_s = time.time() - claim.signed_at
    if claim.valid_s is None or age_s < 0:
        _skewed(age_s)
    elif age_s > claim.valid_s:
        raise errors.AccessDenied(reason="Request has expired")
    try:
        signature._check_scope(claim, "s3")
    except errors.SignatureWrong as error:
        raise errors.AuthorizationHeaderMalformed(reason=str(error)) from error
    identity = _identity(ctx, claim.access_key, look_up)
    signer: Any = auth.S3SigV4Auth(
        credentials.Credentials(claim.access_key, identity.secret), claim.service, claim.region
    )
    signer.headers_to_sign = lambda request: request.headers
    payload = _payload(received)
    signer.payload = lambda request: payload if claim.valid_s is None else UNSIGNED
    request = signature._Signed(received, claim)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    expected = str(signer.signature(text, request))
    if not hmac.compare_digest(expected.encode(), claim.signature.encode()):
        raise errors.SignatureWrong(reason=MISMATCH)
    scope = f"{claim.date}/{claim.region}/s3/aws4_request"
    chain = None
    if payload.startswith(STREAMING):
        chain = Chain(_key(identity.secret, scope), claim.timestamp, scope, expected)
    if claim.valid_s is not None and "x-amz-content-sha256" not in claim.signed_headers:
        payload = UNSIGNED if payload not in STREAMS else payload
    return Signed(identity.acting(ctx), payload, chain)


def _claim(received: Received, header: str | None, parameters: list[tuple[str, str]]) -> Any:
    try:
        if header is None:
            return signature._from_query(parameters)
        return signature._from_header(received, header, parameters)
    except errors.IncompleteSignature as error:
        raise errors.AuthorizationHeaderMalformed(reason=str(error)) from error


def _check_all_signed(received: Received, claim: Any) -> None:
    """No header that S3 acts on was added behind the signature; AccessDenied.

    That of the body's digest is a line of the signed text by itself.
    """
    signed = {"x-amz-content-sha256", *claim.signed_headers}
    if any(name.startswith("x-amz-") and name not in signed for name in received.headers):
        raise errors.AccessDenied(
            reason="There were headers present in the request which were not signed"
        )


def _key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    return key


# --- version 2 --------------------------------------------------------------------------------


def _version_2(
    received: Received,
    ctx: context.Context,
    look_up: LookUp,
    header: str | None,
    parameters: dict[str, str],
    resource: str | None,
) -> Signed:
    if header is not None:
        access_key, _, given = header.removeprefix("AWS ").strip().rpartition(":")
        _skewed(time.time() - _date(received.headers))
        date = "" if "x-amz-date" in received.headers else received.headers["date"]
    else:
        access_key, given = parameters.get("AWSAccessKeyId", ""), parameters["Signature"]
        date = parameters.get("Expires", "")
        if not re.fullmatch("[0-9]{1,12}", date):
            raise errors.AccessDenied(reason="Expires must be in seconds since 1970")
        if time.time() > int(date):
            raise errors.AccessDenied(reason="Request has expired")
    identity = _identity(ctx, access_key, look_up)
    path = resource or received.path
    # botocore signs a bucket as `/bucket/` even where it asks for `/bucket`
    paths = (path, f"{path}/") if path.count("/") == 1 else (path,)
    expected = [_sign_2(identity.secret, _text(received, date, one)) for one in paths]
    if not any(hmac.compare_digest(one, given.encode()) for one in expected):
        raise errors.SignatureWrong(reason=MISMATCH)
    return Signed(identity.acting(ctx), _payload(received))


def _sign_2(secret: str, text: str) -> bytes:
    return base64.b64encode(hmac.digest(secret.encode(), text.encode(), hashlib.sha1))


def _date(headers: dict[str, str]) -> float:
    given = headers.get("x-amz-date") or headers.get("date")
    if given is None:
        raise errors.AccessDenied(reason="The request has neither the header Date nor x-amz-date")
    try:
        return email.utils.parsedate_to_datetime(given).timestamp()
    except (ValueError, OverflowError) as error:
        raise errors.AccessDenied(reason="The header Date is not a date") from error


def _text(received: Received, date: str, resource: str) -> str:
    """The string to sign."""
    headers = received.headers
    amz = sorted(
        (name, value.strip()) for name, value in headers.items() if name.startswith("x-amz-")
    )
    lines = [
        received.method,
        headers.get("content-md5", ""),
        headers.get("content-type", ""),
        date,
        *[f"{name}:{value}" for name, value in amz],
        resource + _sub_resources(received.query),
    ]
    return "\n".join(lines)


def _sub_resources(query: str) -> str:
    known: Sequence[str] = auth.HmacV1Auth.QSAOfInterest
    pairs = []
    for field in query.split("&"):
        name, equals, value = field.partition("=")
        name = urllib.parse.unquote_plus(name)  # as it is acted on
        if name in known:
            value = urllib.parse.unquote(value) if equals else ""
            pairs.append((name, f"{name}={value}" if equals else name))
    return "?" + "&".join(text for _, text in sorted(pairs)) if pairs else ""
