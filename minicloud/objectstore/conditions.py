"""Conditions and ranges of S3 requests (RFC 9110, 13 and 14.2)."""

from __future__ import annotations

import datetime as dt
import email.utils
import re
from collections.abc import Mapping

from minicloud import errors
from minicloud.db import models

RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
COPY = "x-amz-copy-source-"


def ranged(headers: Mapping[str, str], row: models.Object) -> str:
    """The header Range; "" when it is only asked for of what the object is not any more
    (RFC 9110, 13.1.5)."""
    given = headers.get("if-range", "").strip()
    if given and given != f'"{row.etag}"' and _date(given) != _modified(row):
        return ""
    return headers.get("range", "")


def wanted(header: str, size: int) -> tuple[int, int] | None:
    """Start and length of what is asked for (RFC 9110, 14.2); a header we do not know counts as
    none.  InvalidRange when nothing of it is there."""
    match = RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        start = size - length
    else:
        start = int(match[1])
        end = min(int(match[2]), size - 1) if match[2] else size - 1
        if match[2] and int(match[2]) < start:
            return None
        length = end - start + 1
    if length <= 0:
        raise errors.InvalidRange(size=size)
    return start, length


def unchanged(headers: Mapping[str, str], row: models.Object, prefix: str = "") -> bool:
    """True when a GET answers 304; PreconditionFailed.  `prefix` is COPY for a copy's source."""
    match, none = headers.get(f"{prefix}if-match"), headers.get(f"{prefix}if-none-match")
    since = _date(headers.get(f"{prefix}if-unmodified-since"))
    modified = _date(headers.get(f"{prefix}if-modified-since"))
    at = _modified(row)
    if match is not None and not _names(match, row):
        raise errors.PreconditionFailed(name="If-Match")
    if match is None and since is not None and at > since:
        raise errors.PreconditionFailed(name="If-Unmodified-Since")
    if none is not None:
        return _names(none, row)
    return modified is not None and at <= modified


def put(headers: Mapping[str, str], row: models.Object | None) -> None:
    """PreconditionFailed unless a PUT may take the place of `row`; NoSuchKey."""
    match, none = headers.get("if-match"), headers.get("if-none-match")
    if none is not None and row is not None and _names(none, row):
        raise errors.PreconditionFailed(name="If-None-Match")
    if match is not None and row is None:
        raise errors.NoSuchKey
    if match is not None and row is not None and not _names(match, row):
        raise errors.PreconditionFailed(name="If-Match")


def delete(etag: str | None, row: models.Object | None) -> None:
    """PreconditionFailed for an object with another ETag; one that is not there may go."""
    if etag is not None and row is not None and not _names(etag, row):
        raise errors.PreconditionFailed(name="If-Match")


def _modified(row: models.Object) -> dt.datetime:
    """As the header Last-Modified says it."""
    return row.updated_at.replace(microsecond=0, tzinfo=dt.UTC)


def _names(header: str, row: models.Object) -> bool:
    tags = [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]
    return "*" in tags or row.etag in tags


def _date(header: str | None) -> dt.datetime | None:
    try:
        at = email.utils.parsedate_to_datetime(header or "")
    except (ValueError, OverflowError):
        return None
    return at if at.tzinfo else at.replace(tzinfo=dt.UTC)
