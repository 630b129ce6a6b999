"""The scheduler's choice among many hosts is the one it would make by asking each every time."""

from __future__ import annotations

import random
import types
from collections.abc import Callable
from typing import Any

import pytest

from minicloud.scheduler import filters, weights
from minicloud.scheduler.candidates import Candidates
from minicloud.scheduler.filters import Room

SIZES = ((1, 96, 0), (1, 512, 1), (2, 2048, 20), (4, 4096, 40))


def rooms(chance: random.Random, count: int) -> list[Room]:
    return [
        Room(
            types.SimpleNamespace(
                host=f"h{number}",
                zone=chance.choice(["a", "b"]),
                disabled=chance.random() < 0.1,
                vcpus=chance.choice([1, 2, 4]),
                memory_mib=chance.choice([1024, 4096, 8192]),
                disk_gib=chance.choice([20, 100]),
            ),
            chance.random() < 0.9,
            *(0, 0, 0, 0),
        )
        for number in range(count)
    ]


def wish(chance: random.Random) -> Any:
    """An instance of which a filter may see what LOOKED_AT says, and nothing else."""
    vcpus, memory_mib, disk_gib = chance.choice(SIZES)
    sizes = {"vcpus": vcpus, "memory_mib": memory_mib, "disk_gib": disk_gib}
    zone = chance.choice([None, "a", "b"])
    seen = types.SimpleNamespace(project_id="p", wanted_zone=zone, **sizes)
    assert set(vars(seen)) == set(filters.LOOKED_AT)
    return seen


def asked_each_time(places: list[Room], instance: Any) -> Room | None:
    fitting = [room for room in places if filters.refusal(room, instance) is None]
    return max(fitting, key=lambda room: weights.weigh(room, instance)) if fitting else None


def fullest(room: Room, instance: Any) -> float:
    return float(room.memory_mib_used)


@pytest.mark.parametrize("weight", [weights.free_memory, fullest])
@pytest.mark.parametrize("seed", range(5))
def test_it_chooses_what_asking_every_host_each_time_would_choose(
    monkeypatch: pytest.MonkeyPatch, seed: int, weight: Callable[..., float]
) -> None:
    monkeypatch.setattr(weights, "WEIGHTS", [weight])
    chance = random.Random(seed)
    places = rooms(chance, 12)
    candidates = Candidates(places)
    placed = 0
    for _ in range(200):
        instance = wish(chance)
        best = asked_each_time(places, instance)
        assert candidates.best(instance) is best
        if best is not None:
            candidates.book(best, instance)
            placed += 1
    assert 0 < placed < 200  # it was played until nothing fitted


def test_refusals_are_those_of_now() -> None:
    chance = random.Random(1)
    [place] = places = rooms(chance, 1)
    place.alive, place.host.disabled, place.host.memory_mib, place.host.vcpus = True, False, 96, 1
    sizes = {"vcpus": 1, "memory_mib": 96, "disk_gib": 0}
    instance: Any = types.SimpleNamespace(project_id="p", wanted_zone=None, **sizes)
    larger: Any = types.SimpleNamespace(**vars(instance) | {"memory_mib": 97})
    candidates = Candidates(places)
    assert candidates.best(larger) is None
    candidates.book(place, instance)
    assert candidates.best(instance) is None
    assert candidates.refusals(larger) == ("h0: memory: 97 MiB wanted, 0 of 96 free", True)
    assert candidates.refusals(instance)[1] is False
