"""How daemons and `minicloud-manage` sign what they ask of the object store's internal paths.

One header, good for five minutes either way: HMAC-SHA256 over method, path and time with a key
derived from `secret_key`, which is the same on every host and never sent.  Bodies are not covered:
an image's own SHA-256 is in its row, and whoever fetches it compares.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Mapping

from oslo_config import cfg

from minicloud import config, errors

CONF = config.declare(
    "objectstore",
    [
        cfg.PortOpt("port", default=3333, help="TCP port of the object store and its S3 API."),
        cfg.StrOpt(
            "url",
            default="http://$my_ip:$port",
            help="Where daemons and minicloud-manage reach the object store that holds the"
            " images' bytes.",
        ),
        cfg.StrOpt(
            "s3_url",
            default="$url",
            help="URL of the S3 API as clients reach it; novarc tells it.",
        ),
    ],
)

WINDOW_S = 300  # how far two hosts' clocks may be apart, and how long a signature can be replayed
SCHEME = "MINICLOUD-HMAC-SHA256"
LABEL = b"minicloud internal request 1"  # another use of secret_key has another label
_PATTERN = re.compile(rf"{SCHEME} ([0-9]{{1,12}}):([0-9a-f]{{64}})")


def image_path(id: str) -> str:
    """Where the object store keeps the bytes of an image."""
    return f"/v1/images/{id}"


def image_url(id: str) -> str:
    """The whole URL of an image's bytes; ask with `headers(method, image_path(id))`."""
    return str(CONF.url).rstrip("/") + image_path(id)


def headers(method: str, path: str) -> dict[str, str]:
    """The header that proves the request comes from this cloud; Unauthorized without a key."""
    now = str(int(time.time()))
    return {"Authorization": f"{SCHEME} {now}:{_signature(_keys()[0], method, path, now)}"}


def signs(given: Mapping[str, str]) -> bool:
    """Whether a request with these headers says that it comes from this cloud."""
    return given.get("authorization", "").startswith(SCHEME)


def check(method: str, path: str, given: Mapping[str, str]) -> None:
    """Return when a young signature for this method and path is among the headers `given`.

    Their names are in lower case.  Unauthorized otherwise, in constant time.
    """
    match = _PATTERN.fullmatch(given.get("authorization") or "")
    if match is None:
        raise errors.Unauthorized(reason="The request carries no internal signature")
    at, signature = match.groups()
    expected = [_signature(key, method, path, at) for key in _keys()]
    if not any(hmac.compare_digest(signature, one) for one in expected):
        raise errors.Unauthorized(reason="The internal signature is wrong")
    if abs(time.time() - int(at)) > WINDOW_S:
        raise errors.Unauthorized(
            reason=f"The internal signature is more than {WINDOW_S} s away from this host's clock"
        )


def _keys() -> list[str]:
    """The first signs, all are good: see `auth.secrets`."""
    keys = [key.strip() for key in str(config.CONF.secret_key).split(",") if key.strip()]
    if not keys:
        raise errors.Unauthorized(reason="secret_key is not set in the configuration")
    return keys


def _signature(secret: str, method: str, path: str, at: str) -> str:
    key = hmac.digest(secret.encode(), LABEL, hashlib.sha256)
    message = f"{method.upper()}\n{path}\n{at}".encode()
    return hmac.new(key, message, hashlib.sha256).hexdigest()
