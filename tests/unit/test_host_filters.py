"""Which hosts may take an instance."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from minicloud.db import models
from minicloud.scheduler import filters


def room(*, alive: bool = True, disabled: bool = False) -> filters.Room:
    host = models.Host(host="h1", disabled=disabled, vcpus=1, memory_mib=64, disk_gib=1)
    return filters.Room(host, alive, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("where", "refused"),
    [(room(alive=False), "alive"), (room(disabled=True), "enabled"), (room(), "memory")],
)
def test_what_is_dead_or_disabled_gets_no_guest_whatever_filters_are_chosen(
    options: Callable[..., None], where: filters.Room, refused: str
) -> None:
    options("scheduler", filters=["memory"])
    found = filters.refusal(where, models.Instance(vcpus=1, memory_mib=96, disk_gib=0))
    assert found is not None
    assert found[0] == refused
