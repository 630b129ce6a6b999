"""Identities: one uuid per thing, shown by each API in its own form.

A uuid here begins with `ec2` and is random after that, so that a domain's and its firmware's uuid
can be the instance's and cloud-init knows EC2 (cloud-init, `identify_aws`).  OpenStack shows the
uuid; EC2 shows the 17 digits after `ec2`, which are its first 20: a lookup is an index range.
"""

from __future__ import annotations

import re
import secrets

from minicloud import errors

SHOWN = 17  # digits of an EC2 resource id since 2016 ("longer IDs")


def new() -> str:
    digits = "ec2" + secrets.token_hex(15)[:29]
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def ec2(prefix: str, id: str) -> str:
    """`i-0123456789abcdef0` for the uuid `ec20123-4567-…`."""
    return f"{prefix}-{id.replace('-', '')[3 : 3 + SHOWN]}"


def is_uuid(text: str) -> bool:
    """Whether `text` is an id as `new` makes them."""
    return re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text) is not None


def iqn(tag: str, export_id: str) -> str:
    """The iSCSI name (RFC 3720, 3.2.6.3.1) under which a volume is exported for an attachment."""
    return f"iqn.2010-10.org.minicloud:{tag}-{export_id}"


def uuid_range(
    prefix: str, shown: str, malformed: type[errors.MalformedId] = errors.MalformedId
) -> tuple[str, str]:
    """The uuids `low <= id < high` that `shown` (17 digits, or the first 8) may stand for."""
    match = re.fullmatch(rf"{prefix}-([0-9a-f]{{{SHOWN}}}|[0-9a-f]{{8}})", shown)
    if match is None:
        raise malformed(id=shown[:80], expected=f"{prefix}-…")
    digits = "ec2" + match[1]
    parts = (digits[:8], digits[8:12], digits[12:16], digits[16:20])
    low = "-".join(part for part in parts if part)
    return low, low + "g"  # "g" is above every hexadecimal digit and above "-"
