"""Tokens of the OpenStack APIs: encrypted facts, so that nothing is stored for one that is good.

A token holds who, in which project, until when, its own id and the user's token epoch, encrypted
with a key made from `secret_key` (Fernet).  It ends with its time, with the user's next password
(the epoch), or when it is given back (a row in `revoked_tokens`).
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import hashlib
import hmac
import json
import secrets
import time

from cryptography import fernet
from oslo_config import cfg

from minicloud import config, errors
from minicloud.auth.secrets import keys

CONF = config.declare(
    "auth",
    [
        cfg.IntOpt(
            "token_s",
            default=86400,
            min=60,
            help="Seconds for which a token of the OpenStack APIs is good; one that was given out"
            " keeps the time it got.",
        ),
    ],
)

LABEL = b"minicloud identity token 1"  # another use of secret_key has another label
LONGEST = 2000  # characters of a token somebody brings
REMEMBERED = 1024  # tokens whose decryption need not be done again


@dataclasses.dataclass(frozen=True)
class Token:
    """`project_id` is "" for one that is good in no project; times are seconds since 1970."""

    id: str
    user_id: str
    project_id: str
    epoch: int
    issued_at: float
    expires_at: float
    methods: tuple[str, ...]


def fresh(
    user_id: str, project_id: str, epoch: int, methods: tuple[str, ...], until: float | None = None
) -> Token:
    """A token from now on, `until` at most."""
    now = time.time()
    end = now + float(CONF.token_s)
    return Token(
        id=secrets.token_urlsafe(16),
        user_id=user_id,
        project_id=project_id,
        epoch=epoch,
        issued_at=now,
        expires_at=end if until is None else min(end, until),
        methods=methods,
    )


def sealed(token: Token) -> str:
    """What the client gets; Unavailable without `secret_key`."""
    facts = json.dumps(dataclasses.astuple(token), separators=(",", ":"))
    return _fernet(keys()).encrypt(facts.encode()).decode("ascii").rstrip("=")


def opened(text: str) -> Token:
    """The token a client brought; InvalidToken when it is not ours or its time is over.

    Whether it was revoked, and whether the user is still there, the database knows.
    """
    token = _opened(text, keys())
    if token.expires_at <= time.time():
        raise errors.InvalidToken
    return token


@functools.lru_cache(maxsize=REMEMBERED)
def _opened(text: str, keys: tuple[str, ...]) -> Token:
    if not text.isascii() or len(text) > LONGEST:
        raise errors.InvalidToken
    try:
        raw = _fernet(keys).decrypt(text + "=" * (-len(text) % 4))
    except fernet.InvalidToken:
        raise errors.InvalidToken from None
    facts = json.loads(raw)
    return dataclasses.replace(Token(*facts), methods=tuple(facts[-1]))


@functools.lru_cache(maxsize=8)
def _fernet(keys: tuple[str, ...]) -> fernet.MultiFernet:
    derived = [hmac.digest(key.encode(), LABEL, hashlib.sha256) for key in keys]
    return fernet.MultiFernet([fernet.Fernet(base64.urlsafe_b64encode(one)) for one in derived])
