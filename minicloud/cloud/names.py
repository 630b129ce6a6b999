"""What a thing may be called: the bounds of every text a tenant gives."""

from __future__ import annotations

import re

from minicloud import errors

LONGEST = 255  # characters; AWS's own limit for names and descriptions

# AWS EC2 API reference, CreateSecurityGroup: a-z, A-Z, 0-9, spaces, and ._-:/()#,@[]+=&;{}!$*
GROUP = re.compile(r"[A-Za-z0-9 ._\-:/()#,@\[\]+=&;{}!$*]+")
ASCII = re.compile(r"[ -~]+")
ACCOUNT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")  # user, project, network


def check(value: str, parameter: str, pattern: re.Pattern[str] = ASCII) -> str:
    """`value`, when it fits the pattern and is neither empty, too long nor blank at an end.

    InvalidValue otherwise.  (Databases disagree on whether a blank at the end counts.)
    """
    if len(value) > LONGEST:
        raise errors.InvalidValue(
            value=value[:40] + "…", name=parameter, reason=f"At most {LONGEST} characters."
        )
    if value != value.strip() or not pattern.fullmatch(value):
        raise errors.InvalidValue(
            value=ascii(value)[1:-1],
            name=parameter,
            reason="It is empty, begins or ends with a blank, or has characters not allowed.",
        )
    return value


def check_token(token: str) -> None:
    """InvalidValue unless it can be one (AWS EC2 user guide, "Ensuring idempotency")."""
    if not 1 <= len(token) <= 64 or not token.isascii() or not token.isprintable():
        raise errors.InvalidValue(
            value=ascii(token[:64])[1:-1],
            name="ClientToken",
            reason="It has up to 64 ASCII characters.",
        )
