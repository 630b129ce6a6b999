"""AWS Signature Version 2 of the Query APIs, as boto 2, euca2ools and libcloud still sign.

All is in the parameters, of the query or of the form: who, how, until when, the signature.  What
is signed is the method, the host in lower case, the path and every other parameter, so nothing a
request asks is outside of its signature.  Source: AWS General Reference, "Signature Version 2".
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import hmac
import re
import time
import urllib.parse
from collections.abc import Sequence

from minicloud import errors

SERVICES = ("ec2",)  # S3 has a Version 2 of its own
ACCESS_KEY = "AWSAccessKeyId"
METHODS = {"HmacSHA256": hashlib.sha256, "HmacSHA1": hashlib.sha1}
SKEW_S = 300  # as for Version 4
LONGEST_S = 7 * 86400  # how far away `Expires` may be
SAFE = "-_.~"  # RFC 3986, section 2.3: what is not percent-encoded besides letters and digits

_KEY = re.compile("[!-~]{1,200}")
# 2011-10-03T15:19:30, with or without a fraction and the Z; always UTC
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(\.[0-9]{1,9})?Z?")

Pairs = Sequence[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Claim:
    """What the parameters say; `signed` are those the signature is over."""

    access_key: str
    method: str
    signature: str
    signed: Pairs

    def fits(self, secret: str, method: str, host: str, path: str) -> bool:
        """The owner of `secret` signed this request; takes the same time for every answer."""
        query = "&".join(
            f"{urllib.parse.quote(name, safe=SAFE)}={urllib.parse.quote(value, safe=SAFE)}"
            for name, value in sorted(self.signed)
        )
        text = f"{method}\n{host.lower()}\n{path}\n{query}"
        digest = hmac.digest(secret.encode(), text.encode(), METHODS[self.method])
        return hmac.compare_digest(
            base64.b64encode(digest), self.signature.encode(errors="replace")
        )


def claim(parameters: Pairs) -> Claim:
    """What a request with an ACCESS_KEY among its parameters claims, its time checked.

    IncompleteSignature when a part is missing, doubled or not of its form; RequestExpired.
    """
    given = _each_once(parameters)
    if given.get("SignatureVersion") != "2":
        raise errors.IncompleteSignature(reason="SignatureVersion must be 2, or sign with 4")
    if given.get("SignatureMethod") not in METHODS:
        raise errors.IncompleteSignature(reason=f"SignatureMethod must be {' or '.join(METHODS)}")
    if not given.get("Signature"):
        raise errors.IncompleteSignature(reason="The request has no parameter Signature")
    if not _KEY.fullmatch(given[ACCESS_KEY]):
        raise errors.IncompleteSignature(reason=f"{ACCESS_KEY} is not an access key")
    _check_time(given.get("Timestamp"), given.get("Expires"))
    return Claim(
        access_key=given[ACCESS_KEY],
        method=given["SignatureMethod"],
        signature=given["Signature"],
        signed=[(name, value) for name, value in parameters if name != "Signature"],
    )


_PARTS = (ACCESS_KEY, "SignatureVersion", "SignatureMethod", "Signature", "Timestamp", "Expires")


def _each_once(parameters: Pairs) -> dict[str, str]:
    given: dict[str, str] = {}
    for name, value in parameters:
        if name in _PARTS and name in given:
            raise errors.IncompleteSignature(reason=f"{name} is given more than once")
        given[name] = value
    return given


def _check_time(timestamp: str | None, expires: str | None) -> None:
    """Good for five minutes around `Timestamp`, or until `Expires`; there must be one of them."""
    if (timestamp is None) == (expires is None):
        raise errors.IncompleteSignature(
            reason="The request must contain either Timestamp or Expires, and not both"
        )
    if expires is not None:
        left_s = _seconds("Expires", expires) - time.time()
        if not 0 <= left_s <= LONGEST_S:
            limit_s = LONGEST_S if left_s > 0 else 0
            raise errors.RequestExpired(skew_s=round(abs(left_s)), limit_s=limit_s)
        return
    age_s = abs(time.time() - _seconds("Timestamp", timestamp or ""))
    if age_s > SKEW_S:
        raise errors.RequestExpired(skew_s=round(age_s), limit_s=SKEW_S)


def _seconds(name: str, text: str) -> float:
    found = _TIME.fullmatch(text)
    try:
        if found:
            return datetime.datetime.fromisoformat(found[1] + "+00:00").timestamp()
    except ValueError:
        pass
    raise errors.IncompleteSignature(reason=f"{name} must have the form 2011-01-01T23:59:59Z")
