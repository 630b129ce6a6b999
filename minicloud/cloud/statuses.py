"""How OpenStack calls the states of an instance: four words that follow from (state, rest).

Source: OpenStack compute API guide, "Server concepts" (status, vm_state, task_state) and Nova's
power states.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from minicloud import states
from minicloud.db import models

# working state → task_state, where Nova's word is another; a settled state has none
TASKS: Mapping[str, str] = {
    "building": "spawning",
    "starting": "powering-on",
    "stopping": "powering-off",
    "rebooting": "rebooting_hard",
    "terminating": "deleting",
}
# where the instance last truly was → vm_state
VM_STATES: Mapping[str | None, str] = {"running": "active", "stopped": "stopped"}
STATUSES: Mapping[str, str] = {
    "active": "ACTIVE",
    "stopped": "SHUTOFF",
    "building": "BUILD",
    "error": "ERROR",
    "deleted": "DELETED",
}
REBOOTING = "HARD_REBOOT"
REBUILD, REBUILDING = "REBUILD", "rebuilding"  # status and task_state
NO_STATE, RUNNING, SHUTDOWN = 0, 1, 4
POWER: Mapping[str | None, int] = {"running": RUNNING, "stopped": SHUTDOWN}


def task_state(state: str, rest: str | None) -> str | None:
    return REBUILDING if _rebuilt(state, rest) else _task(state)


def _task(state: str) -> str | None:
    return TASKS.get(state, state) if state in states.INSTANCE.work else None


def _rebuilt(state: str, rest: str | None) -> bool:
    """It was somewhere before: its host is gone, and it is made anew on another."""
    return state in ("scheduling", "building") and rest is not None


def vm_state(state: str, rest: str | None) -> str:
    if state == "error":
        return "error"
    if state == "terminated":
        return "deleted"
    return VM_STATES.get(rest, "building")


def power_state(state: str, rest: str | None) -> int:
    gone = state == "terminated" or _rebuilt(state, rest)
    return NO_STATE if gone else POWER.get(rest, NO_STATE)


def status(state: str, rest: str | None) -> str:
    if _rebuilt(state, rest):
        return REBUILD
    return REBOOTING if state == "rebooting" else STATUSES[vm_state(state, rest)]


def condition(wanted: Sequence[str]) -> Any:
    """The condition on `Instance` under which `status` says one of these words."""
    state, rest = models.Instance.state, models.Instance.rest
    every = sorted(states.INSTANCE.states)
    pairs = [
        sa.and_(
            state == one if one in every else state.not_in(every),
            rest.is_(None) if was is None else rest == was,
        )
        # "": one of a newer release
        for one, was in itertools.product([*every, ""], (None, "running", "stopped", "error"))
        if status(one, was) in wanted
    ]
    return sa.or_(sa.literal(1) == sa.literal(0), *pairs)
