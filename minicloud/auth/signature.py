"""Who signed a request: AWS Signature Version 4, in the header or in the query (presigned), or
Version 2, which is in `signature_v2`.

The received request is signed again by `botocore.auth` with the user's secret and both signatures
are compared in constant time.  What that does not do is done here: how old the request may be,
which region and service it was meant for, that the body is the one that was signed.
Source: AWS IAM user guide, "Create a signed AWS API request".
"""

from __future__ import annotations

import dataclasses
import datetime
import email.utils
import hashlib
import hmac
import re
import time
import urllib.parse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from botocore import auth, credentials
from botocore.compat import HTTPHeaders

from minicloud import config, context, errors
from minicloud.auth import signature_v2

if TYPE_CHECKING:
    from minicloud.auth.database import Identity

# access key, name of a project or None for the user's own → who that is, if anybody
LookUp = Callable[[str, "str | None"], "Identity | None"]

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_S = 300  # AWS's own: "within five minutes"
LONGEST_S = 7 * 86400  # a presigned request may be valid for so long
FIELDS = 10_000  # of a query string

_KEY = re.compile("[!-~]{1,200}")


@dataclasses.dataclass(frozen=True)
class Received:
    """A request as it came in: `path` and `query` as sent, names of `headers` in lower case."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes

    def parameters(self) -> list[tuple[str, str]]:
        """Names and values of the query."""
        return decode(self.query)


@dataclasses.dataclass(frozen=True)
class _Claim:
    """What the signature says of itself.  `signed_at` is in seconds since 1970."""

    access_key: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    timestamp: str
    signed_at: float
    valid_s: int | None  # presigned only
    parameters: tuple[tuple[str, str], ...]


def decode(form: str) -> list[tuple[str, str]]:
    """Names and values of a query string or form body; BadRequest when it is not UTF-8."""
    try:
        return urllib.parse.parse_qsl(
            form, keep_blank_values=True, errors="strict", max_num_fields=FIELDS
        )
    except UnicodeDecodeError as error:
        raise errors.BadRequest(reason="The request's parameters are not UTF-8") from error
    except ValueError as error:
        raise errors.BadRequest(
            reason=f"A request may hold {FIELDS} parameters, this one has more"
        ) from error


def verify(
    received: Received, service: str, ctx: context.Context, look_up: LookUp
) -> context.Context:
    """`ctx` with the user and project whose secret signed the request.

    MissingAuthentication when nothing is signed, IncompleteSignature when the signature is not
    whole, RequestExpired outside its time, SignatureWrong for another region, service, body or
    secret, Unauthorized for an unknown access key or a project the user is not in.
    """
    identity = _signer_v2(received, service, look_up) or _signer_v4(received, service, look_up)
    return identity.acting(ctx)


def _signer_v4(received: Received, service: str, look_up: LookUp) -> Identity:
    claim = _claim(received)
    _check_time(claim)
    _check_scope(claim, service)
    _check_body(received)
    return _identity(claim.access_key, lambda secret: _fits(received, claim, secret), look_up)


def _signer_v2(received: Received, service: str, look_up: LookUp) -> Identity | None:
    """Who signed with Version 2; None when the request has nothing of it."""
    if service not in signature_v2.SERVICES or "authorization" in received.headers:
        return None
    key = signature_v2.ACCESS_KEY
    if f"{key}=" not in received.query and f"{key}=".encode() not in received.body:
        return None
    # whatever the method: what an action reads must be what was signed
    parameters = [*received.parameters(), *decode(received.body.decode(errors="replace"))]
    if key not in dict(parameters):
        return None
    claim = signature_v2.claim(parameters)
    host = received.headers.get("host", "")
    return _identity(
        claim.access_key,
        lambda secret: claim.fits(secret, received.method, host, received.path),
        look_up,
    )


def _identity(shown: str, fits: Callable[[str], bool], look_up: LookUp) -> Identity:
    """Who owns the access key, and the secret that `fits` the signature."""
    access_key, _, project = shown.partition(":")
    found = look_up(access_key, project or None)
    owner = found or (look_up(access_key, None) if project else None)
    if owner is None:
        raise errors.Unauthorized(
            reason=f"The access key '{access_key[:80]}' is unknown, or its user is in no project"
        )
    if not fits(owner.secret):
        raise errors.SignatureWrong(
            reason="The request signature we calculated does not match the signature you provided."
            " Check your secret key and signing method"
        )
    if found is None:  # only the owner of the secret learns who is in a project
        raise errors.Unauthorized(
            reason=f"The user {owner.user} is not in a project '{project[:80]}'"
        )
    return found


def _claim(received: Received) -> _Claim:
    header = received.headers.get("authorization")
    parameters = received.parameters()
    if header is not None:
        return _from_header(received, header, parameters)
    names = {name for name, _ in parameters}
    if "X-Amz-Signature" in names or "X-Amz-Credential" in names:
        return _from_query(parameters)
    raise errors.MissingAuthentication


def _from_header(received: Received, header: str, parameters: list[tuple[str, str]]) -> _Claim:
    algorithm, _, rest = header.partition(" ")
    if algorithm != ALGORITHM:
        raise errors.IncompleteSignature(
            reason=f"The header Authorization must begin with {ALGORITHM}"
        )
    parts = {}
    for part in rest.split(","):
        name, _, value = part.strip().partition("=")
        parts[name] = value
    for name in ("Credential", "SignedHeaders", "Signature"):
        if not parts.get(name):
            raise errors.IncompleteSignature(reason=f"The header Authorization has no {name}")
    date = received.headers.get("x-amz-date") or _from_http_date(received.headers.get("date"))
    return _whole(
        parts["Credential"],
        parts["SignedHeaders"],
        parts["Signature"],
        date,
        valid_s=None,
        parameters=parameters,
    )


def _from_http_date(date: str | None) -> str:
    """The header Date, which some clients send instead of X-Amz-Date, in the latter's form."""
    if date is None:
        raise errors.IncompleteSignature(reason="The request has no header X-Amz-Date")
    try:
        at = email.utils.parsedate_to_datetime(date)
        return at.astimezone(datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    except (ValueError, OverflowError) as error:
        raise errors.IncompleteSignature(reason="The header Date is not a date") from error


def _from_query(parameters: list[tuple[str, str]]) -> _Claim:
    given = dict(parameters)
    for name in ("Algorithm", "Credential", "Date", "Expires", "SignedHeaders", "Signature"):
        if not given.get(f"X-Amz-{name}"):
            raise errors.IncompleteSignature(reason=f"The request has no parameter X-Amz-{name}")
    if given["X-Amz-Algorithm"] != ALGORITHM:
        raise errors.IncompleteSignature(reason=f"X-Amz-Algorithm must be {ALGORITHM}")
    expires = given["X-Amz-Expires"]
    if not re.fullmatch("[0-9]{1,6}", expires) or not 0 < int(expires) <= LONGEST_S:
        raise errors.IncompleteSignature(
            reason=f"X-Amz-Expires must be a number of seconds from 1 to {LONGEST_S}"
        )
    return _whole(
        given["X-Amz-Credential"],
        given["X-Amz-SignedHeaders"],
        given["X-Amz-Signature"],
        given["X-Amz-Date"],
        valid_s=int(expires),
        parameters=[(name, value) for name, value in parameters if name != "X-Amz-Signature"],
    )


def _whole(
    credential: str,
    signed_headers: str,
    signature: str,
    timestamp: str,
    *,
    valid_s: int | None,
    parameters: list[tuple[str, str]],
) -> _Claim:
    parts = credential.rsplit("/", 4)  # a project's name may hold a slash
    if len(parts) != 5 or not _KEY.fullmatch(parts[0]) or parts[4] != "aws4_request":
        raise errors.IncompleteSignature(
            reason="Credential must be ACCESS_KEY/YYYYMMDD/REGION/SERVICE/aws4_request"
        )
    names = tuple(signed_headers.lower().split(";"))
    if "host" not in names:
        raise errors.IncompleteSignature(reason="The header Host must be signed")
    return _Claim(
        access_key=parts[0],
        date=parts[1],
        region=parts[2],
        service=parts[3],
        signed_headers=names,
        signature=signature,
        timestamp=timestamp,
        signed_at=_seconds(timestamp),
        valid_s=valid_s,
        parameters=tuple(parameters),
    )


def _seconds(timestamp: str) -> float:
    if re.fullmatch("[0-9]{8}T[0-9]{6}Z", timestamp):
        try:
            return datetime.datetime.fromisoformat(timestamp).timestamp()
        except ValueError:
            pass
    raise errors.IncompleteSignature(reason="The date must have the form 20110101T235959Z")


def _check_time(claim: _Claim) -> None:
    """A request is good for five minutes on both sides, a presigned one for as long as it says."""
    age_s = time.time() - claim.signed_at
    limit_s = claim.valid_s if claim.valid_s is not None and age_s > 0 else SKEW_S
    if abs(age_s) > limit_s:
        raise errors.RequestExpired(skew_s=round(abs(age_s)), limit_s=limit_s)


def _check_scope(claim: _Claim, service: str) -> None:
    for what, given, right in (
        ("date", claim.date, claim.timestamp[:8]),
        ("region", claim.region, config.CONF.region),
        ("service", claim.service, service),
    ):
        if given != right:
            raise errors.SignatureWrong(
                reason=f"Credential should be scoped to the {what} '{right}', not '{given[:80]}'"
            )


def _check_body(received: Received) -> None:
    """A digest sent beside the body must be the body's, or another body could take its place."""
    digest = received.headers.get("x-amz-content-sha256")
    if digest is not None and digest != hashlib.sha256(received.body).hexdigest():
        raise errors.SignatureWrong(reason="The body is not the one that was signed")


def _fits(received: Received, claim: _Claim, secret: str) -> bool:
    """The owner of `secret` signed this request; takes the same time for every answer."""
    expected = _sign(received, claim, secret)
    return hmac.compare_digest(expected.encode(), claim.signature.encode())


def _sign(received: Received, claim: _Claim, secret: str) -> str:
    """The signature that the owner of `secret` would have put under this request."""
    signer: Any = auth.SigV4Auth(
        credentials.Credentials(claim.access_key, secret), claim.service, claim.region
    )
    # the client decides what it signs; botocore would leave out some, like User-Agent
    signer.headers_to_sign = lambda request: request.headers
    request = _Signed(received, claim)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    return str(signer.signature(text, request))


class _Signed:
    """The part of a request that was signed, as `botocore.auth` reads it (its AWSRequest)."""

    def __init__(self, received: Received, claim: _Claim) -> None:
        self.method = received.method
        self.url = f"http://host{received.path}"  # https would leave the body out
        self.params = list(claim.parameters)
        self.body = received.body
        self.context = {"timestamp": claim.timestamp}
        self.headers = HTTPHeaders()
        for name in claim.signed_headers:
            self.headers[name] = received.headers.get(name, "")
