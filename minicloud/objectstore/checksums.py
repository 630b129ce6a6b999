"""Checksums of a body as it passes: MD5 for the ETag, and what the client said it has.

CRC-32C (RFC 3720, appendix B.4) and CRC-64/NVME (NVM command set specification, 5.2.1.3.4) are
not in the standard library; Amazon's has them (docs/decisions/018).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from awscrt import checksums as crt

from minicloud import errors

PREFIX = "x-amz-checksum-"


class Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    """A CRC as hashlib's digests are; `function` takes bytes and the CRC of those before."""

    def __init__(self, function: Callable[[bytes, int], int], bits: int) -> None:
        self._function, self._bytes = function, bits // 8
        self._value = 0

    def update(self, data: bytes) -> None:
        self._value = self._function(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._bytes, "big")


ALGORITHMS: Mapping[str, Callable[[], Any]] = {
    "crc32": lambda: _Crc(zlib.crc32, 32),
    "crc32c": lambda: _Crc(crt.crc32c, 32),
    "crc64nvme": lambda: _Crc(crt.crc64nvme, 64),
    "sha1": hashlib.sha1,
    "sha256": hashlib.sha256,
}


class Sums:
    """All that is computed of one body; `update` gets its bytes in order."""

    def __init__(self, names: Iterable[str], sha256: bool = False) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._named = {name: ALGORITHMS[name]() for name in names}
        self._sha256 = hashlib.sha256() if sha256 else None
        self._all: list[Digest] = [self._md5, *self._named.values()]
        if self._sha256 is not None:
            self._all.append(self._sha256)

    def update(self, data: bytes) -> None:
        for digest in self._all:
            digest.update(data)

    @property
    def md5(self) -> bytes:
        return self._md5.digest()

    @property
    def sha256(self) -> str:
        return "" if self._sha256 is None else self._sha256.hexdigest()

    def values(self) -> dict[str, str]:
        """The named ones: `x-amz-checksum-crc32` → base64."""
        return {
            PREFIX + name: base64.b64encode(digest.digest()).decode()
            for name, digest in self._named.items()
        }


def named(headers: Mapping[str, str]) -> dict[str, str]:
    """The checksums that headers hold, by algorithm; InvalidDigest when one is none."""
    found = {}
    for name, value in headers.items():
        algorithm = name.removeprefix(PREFIX)
        if not name.startswith(PREFIX) or algorithm not in ALGORITHMS:
            continue
        if len(decoded(name, value)) != len(ALGORITHMS[algorithm]().digest()):
            raise errors.InvalidDigest(name=name)
        found[algorithm] = value.strip()
    return found


def decoded(name: str, value: str) -> bytes:
    """The bytes of a digest in base64; InvalidDigest."""
    try:
        return base64.b64decode(value.strip(), validate=True)
    except (binascii.Error, ValueError) as error:
        raise errors.InvalidDigest(name=name) from error


def composite(algorithm: str, parts: Iterable[str]) -> str:
    """S3's checksum of a multipart object: that of its parts' checksums, and how many they are."""
    values = [base64.b64decode(part) for part in parts]
    digest = ALGORITHMS[algorithm]()
    digest.update(b"".join(values))
    return f"{base64.b64encode(digest.digest()).decode()}-{len(values)}"
