"""Passwords: what is stored of them tells nobody what they are (RFC 7914, scrypt).

Making and checking one takes about 50 ms and 16 MiB; it runs in a native thread, so that others go
on meanwhile.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import string

from minicloud import concurrency, errors

N, R, P = 1 << 14, 8, 1
SALT_BYTES, HASH_BYTES = 16, 32
MEMORY = 64 << 20  # bytes OpenSSL may use: 128 * N * R and some more
GENERATED = 32  # letters and digits
SHORTEST, LONGEST = 8, 1024  # characters

# what no password gives: checking it takes as long as checking a real one
NOBODYS = f"scrypt${N}${R}${P}${'A' * 24}${'A' * 43}="


def generate() -> str:
    """A password that nobody guesses."""
    alphabet = string.ascii_letters + string.digits
    return "".join(secrets.choice(alphabet) for _ in range(GENERATED))


def check_new(password: str) -> None:
    """Return when it may become somebody's password; BadRequest."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise errors.BadRequest(reason=f"A password has from {SHORTEST} to {LONGEST} characters")


def stored(password: str) -> str:
    """What the database keeps of it: the function, its parameters, salt and hash."""
    salt = secrets.token_bytes(SALT_BYTES)
    digest = concurrency.blocking("auth", _scrypt, password, salt, N, R, P)
    return f"scrypt${N}${R}${P}${_text(salt)}${_text(digest)}"


def fits(password: str, kept: str | None) -> bool:
    """Whether `kept` was made of this password; takes as long when there is none."""
    if len(password) > LONGEST:
        return False
    _, n, r, p, salt, digest = (kept or NOBODYS).split("$")
    found = concurrency.blocking(
        "auth", _scrypt, password, base64.b64decode(salt), int(n), int(r), int(p)
    )
    same = hmac.compare_digest(found, base64.b64decode(digest))
    return same and kept is not None


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    raw = password.encode(errors="surrogatepass")  # JSON may hold halves of a pair
    return hashlib.scrypt(raw, salt=salt, n=n, r=r, p=p, maxmem=MEMORY, dklen=HASH_BYTES)


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
