"""How EC2 calls what the rows say: ids and states.  Pure functions and the tables behind them.

The words follow from (state, rest) alone (DESIGN section 11); a state this release does not know
shows as its `rest`.  `instance_in` is the same table as an SQL condition, for filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from minicloud import ids
from minicloud.db import models

# EC2 API reference, InstanceState
INSTANCE_CODES: Mapping[str, int] = {
    "pending": 0,
    "running": 16,
    "shutting-down": 32,
    "terminated": 48,
    "stopping": 64,
    "stopped": 80,
}
INSTANCE_BY_STATE: Mapping[str, str] = {
    "scheduling": "pending",
    "building": "pending",
    "starting": "pending",
    "stopping": "stopping",
    "terminating": "shutting-down",
    "terminated": "terminated",
}
INSTANCE_BY_REST: Mapping[str, str] = {"running": "running", "stopped": "stopped"}
NEVER_WAS = {"error": "terminated"}  # state → word while there is no `rest`; others: pending

IMAGE_STATES: Mapping[str, str] = {
    "uploading": "pending",
    "registering": "pending",
    "active": "available",
    "error": "failed",
    "deleting": "deregistered",
    "deleted": "deregistered",
}
VOLUME_STATES: Mapping[str, str] = {  # the others: in-use or available
    "placing": "creating",
    "creating": "creating",
    "deleting": "deleting",
    "deleted": "deleted",
    "error": "error",
}
IMAGE_PREFIXES: Mapping[str, str] = {"machine": "ami", "kernel": "aki", "ramdisk": "ari"}


def instance_state(state: str, rest: str | None) -> str:
    """EC2's word for an instance."""
    if state in INSTANCE_BY_STATE:
        return INSTANCE_BY_STATE[state]
    if rest in INSTANCE_BY_REST:
        return INSTANCE_BY_REST[str(rest)]
    return NEVER_WAS.get(state, "pending")


def instance_in(word: str) -> Any:
    """The condition on `Instance` under which `instance_state` says `word`."""
    state, rest = models.Instance.state, models.Instance.rest
    by_state = [key for key, shown in INSTANCE_BY_STATE.items() if shown == word]
    by_rest = [key for key, shown in INSTANCE_BY_REST.items() if shown == word]
    never = [key for key, shown in NEVER_WAS.items() if shown == word]
    restless = sa.or_(rest.is_(None), rest.not_in(list(INSTANCE_BY_REST)))
    if word == "pending":
        without_rest = sa.and_(restless, state.not_in(list(NEVER_WAS)))
    else:
        without_rest = sa.and_(restless, state.in_(never))
    return sa.or_(
        state.in_(by_state),
        sa.and_(
            state.not_in(list(INSTANCE_BY_STATE)),
            sa.or_(rest.in_(by_rest), without_rest),
        ),
    )


def volume_state(state: str, attached: bool) -> str:
    """EC2's word for a volume; it is "in-use" while anything of an attachment is left."""
    if state in VOLUME_STATES:
        return VOLUME_STATES[state]
    return "in-use" if attached else "available"


def volume_id(row: models.Volume) -> str:
    return ids.ec2("vol", row.id)


def image_state(state: str) -> str:
    """EC2's word for an image."""
    return IMAGE_STATES.get(state, "pending")


def instance_id(row: models.Instance) -> str:
    return ids.ec2("i", row.id)


def reservation_id(row: models.Instance) -> str:
    return ids.ec2("r", row.reservation_id)


def image_id(row: models.Image) -> str:
    """`ami-tty` for an image with a word, else `ami-` and 17 digits; `aki`, `ari` by kind."""
    prefix = IMAGE_PREFIXES[row.kind]
    return f"{prefix}-{row.word}" if row.word else ids.ec2(prefix, row.id)
