"""Secrets at rest: EC2 secret keys are stored encrypted, because signatures need them in clear.

The key is `[DEFAULT] secret_key`.  It may be several, comma between: the first encrypts, all
decrypt, so that a key can be replaced without a moment in which something cannot be read.
"""

from __future__ import annotations

import functools

from cryptography import fernet

from minicloud import config, errors


def encrypt(secret: str) -> str:
    """`secret`, readable only with the cloud's key; Unavailable when none is configured."""
    return _fernet(keys()).encrypt(secret.encode()).decode("ascii")


def decrypt(stored: str) -> str:
    """What `encrypt` was given; Unavailable when the key is missing or another one."""
    try:
        return _fernet(keys()).decrypt(stored.encode()).decode()
    except fernet.InvalidToken as error:
        raise errors.Unavailable(
            reason="[DEFAULT] secret_key is not the key this cloud's secrets were stored with"
        ) from error


def keys() -> tuple[str, ...]:
    """The first encrypts, all decrypt; Unavailable when none is configured."""
    found = tuple(key.strip() for key in str(config.CONF.secret_key).split(",") if key.strip())
    if not found:
        raise errors.Unavailable(reason="[DEFAULT] secret_key is not set")
    return found


@functools.lru_cache(maxsize=8)
def _fernet(keys: tuple[str, ...]) -> fernet.MultiFernet:
    try:
        return fernet.MultiFernet([fernet.Fernet(key) for key in keys])
    except ValueError as error:
        raise errors.Unavailable(
            reason="[DEFAULT] secret_key is not a Fernet key: 32 bytes in URL-safe base64"
        ) from error
