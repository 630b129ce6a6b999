"""The best host for each of many instances, without asking every host again for every one."""

from __future__ import annotations

import collections
import heapq
from collections.abc import Sequence

from minicloud.db import models
from minicloud.scheduler import filters, weights
from minicloud.scheduler.filters import Room

Kind = tuple[object, ...]


class Candidates:
    """The compute hosts, and for each kind of instance those that may take one, the best first.

    Filters and weights are asked of every host once for a kind, and again of a host that got an
    instance: what they say depends on nothing else.
    """

    def __init__(self, rooms: Sequence[Room]) -> None:
        self.rooms = rooms
        self._place = {room.host.host: number for number, room in enumerate(rooms)}
        self._booked = collections.Counter[int]()  # place → how often a host was booked on
        self._like: dict[Kind, models.Instance] = {}
        # (-weight, place, how often it was booked on then): one is of no use when that has changed
        self._best: dict[Kind, list[tuple[float, int, int]]] = {}
        self._refused: dict[Kind, tuple[str, bool]] = {}

    def best(self, instance: models.Instance) -> Room | None:
        """The host with the highest weight of those that may take it; of equal ones the first."""
        heap = self._heap(instance)
        while heap:
            _, place, booked = heap[0]
            if booked == self._booked[place]:
                return self.rooms[place]
            heapq.heappop(heap)
        return None

    def book(self, room: Room, instance: models.Instance) -> None:
        """The host has the instance."""
        room.book(instance)
        place = self._place[room.host.host]
        self._booked[place] += 1
        for kind, heap in self._best.items():
            self._offer(heap, place, self._like[kind])

    def refusals(self, instance: models.Instance) -> tuple[str, bool]:
        """Why no host takes it, in words, and whether none ever could; asked when all is booked
        that fits."""
        kind = _kind(instance)
        if kind not in self._refused:
            self._refused[kind] = self._ask_all(instance)
        return self._refused[kind]

    def _ask_all(self, instance: models.Instance) -> tuple[str, bool]:
        told = [(room.host.host, filters.refusal(room, instance)) for room in self.rooms]
        why = "; ".join(f"{host}: {no[0]}: {no[1]}" for host, no in sorted(told) if no)
        hopeless = bool(self.rooms) and all(
            filters.never(room, instance) is not None for room in self.rooms
        )
        return why, hopeless

    def _heap(self, instance: models.Instance) -> list[tuple[float, int, int]]:
        kind = _kind(instance)
        if kind not in self._best:
            self._like[kind] = instance
            heap: list[tuple[float, int, int]] = []
            self._best[kind] = heap
            for place in range(len(self.rooms)):
                self._offer(heap, place, instance)
        return self._best[kind]

    def _offer(
        self, heap: list[tuple[float, int, int]], place: int, instance: models.Instance
    ) -> None:
        room = self.rooms[place]
        if filters.refusal(room, instance) is None:
            weight = weights.weigh(room, instance)
            heapq.heappush(heap, (-weight, place, self._booked[place]))


def _kind(instance: models.Instance) -> Kind:
    return tuple(getattr(instance, column) for column in filters.LOOKED_AT)
