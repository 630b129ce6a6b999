"""Which of the hosts that may take an instance is best: the highest sum of weights.

To add one, write a function under `@host_weight`.
"""

from __future__ import annotations

from collections.abc import Callable

from minicloud.db import models
from minicloud.scheduler.filters import Room

Weight = Callable[[Room, models.Instance], float]
WEIGHTS: list[Weight] = []


def host_weight(function: Weight) -> Weight:
    WEIGHTS.append(function)
    return function


@host_weight
def free_memory(room: Room, instance: models.Instance) -> float:
    """The share of the host's memory that is free: spreads guests over hosts."""
    total = room.host.memory_mib or 1
    return (total - room.memory_mib_used) / total


def weigh(room: Room, instance: models.Instance) -> float:
    return sum(weight(room, instance) for weight in WEIGHTS)
