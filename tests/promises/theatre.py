"""Plays many cases at once, each on a cloud of its own for as long as it lasts."""

from __future__ import annotations

import collections
import dataclasses
import queue
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import TypeVar

from tests.integration.running import PORTS, free_offset
from tests.promises import play
from tests.promises.bed import SECOND, Cloud
from tests.promises.daemons import Nursery
from tests.promises.play import Place
from tests.promises.stories import STORIES, Story

T = TypeVar("T")

TRIES = 3  # of a case whose story does not always come by the place
# what every daemon does by itself, all the time
ALONE = ("daemon._beat.", "network.manager._adopt.")


@dataclasses.dataclass(frozen=True, order=True)
class Case:
    story: str
    place: Place
    way: str

    def __str__(self) -> str:
        return f"{self.story}: {self.way} {self.place}"


class Theatre:
    """`size` clouds on one broker; `databases` makes the URL of a database for each, or ""."""

    def __init__(
        self, nursery: Nursery, url: str, size: int, databases: Callable[[], str] = lambda: ""
    ) -> None:
        self.nursery = nursery
        self.url = url
        self.databases = databases
        self.size = size
        self.free: queue.LifoQueue[Cloud] = queue.LifoQueue()
        self.ports: set[int] = set()  # given out
        self.lock = threading.Lock()
        self.profiles: dict[str, set[Place]] = {}
        self.owners: dict[str, dict[Place, str]] = {}  # way → place → story
        self.played: collections.Counter[str] = collections.Counter()
        self.missed: set[Case] = set()
        self.slowest: tuple[float, str] = (0.0, "")

    def close(self) -> None:
        while not self.free.empty():
            self.free.get().close()

    # --- places ----------------------------------------

    def passed(self, names: Sequence[str]) -> dict[str, set[Place]]:
        """All that these stories come by, undisturbed; that they do is a test of its own."""
        wanted = [name for name in names if name not in self.profiles]

        def look(name: str) -> set[Place]:
            return self._on_a_cloud(
                STORIES[name], lambda cloud: play.profile(cloud, STORIES[name].tell)
            )

        with futures.ThreadPoolExecutor(self.size) as pool:
            self.profiles |= dict(zip(wanted, pool.map(look, wanted), strict=True))
        return {name: self.profiles[name] for name in names}

    def places(self, name: str) -> list[Place]:
        """What a story comes by of its own, not what daemons do by themselves meanwhile."""
        found = self.passed([name, "nothing"])
        if name == "nothing":
            return sorted(found[name])
        synced = {
            place.daemon
            for place in found[name]
            if place.name.startswith("apply_") and place.name.endswith(".nudged")
        }
        idle = {place for place in found["nothing"] if place.daemon not in synced}
        return sorted(
            place
            for place in found[name] - idle
            if not place.name.startswith(ALONE) or name == "restart"
        )

    def cases(self, name: str, way: str) -> list[Case]:
        """What can be played of a story on SQLite: there a process that stops within a transaction
        stops the cloud; and where nobody is nudged or listens, nothing is doubled."""
        found = self.places(name)
        if way == "stop":
            found = [place for place in found if not place.booked]
        if way == "double" and (name == "restart" or not self.nudged(name)):
            found = []
        return [Case(name, place, way) for place in found]

    def is_most_about(self, case: Case) -> bool:
        """Of the stories that come by the place, this one comes by the fewest others."""
        if case.way not in self.owners:
            self.passed(list(STORIES))
            every = {name: self.cases(name, case.way) for name in STORIES}
            shortest_last = sorted(every, key=lambda name: (-len(every[name]), name))
            self.owners[case.way] = {
                one.place: name for name in shortest_last for one in every[name]
            }
        return self.owners[case.way][case.place] == case.story

    def nudged(self, name: str) -> bool:
        """Whether a daemon is nudged for the story, so that a nudge can be doubled."""
        return any(place.name.endswith(".nudged") for place in self.places(name))

    def summary(self) -> str:
        """What was played so far, in words."""
        ways = ", ".join(f"{number} by {way}" for way, number in sorted(self.played.items()))
        took, case = self.slowest
        return (
            f"{sum(self.played.values())} cases ({ways}); {len(self.missed)} places were not come"
            f" by again; the slowest was settled after {took:.1f} s ({case})"
        )

    # --- cases ----------------------------------------

    def play(self, cases: Sequence[Case]) -> list[str]:
        """What went wrong, case by case."""
        with futures.ThreadPoolExecutor(self.size) as pool:
            return [said for said in pool.map(self._tell, cases) if said]

    def _tell(self, case: Case) -> str:
        story = STORIES[case.story]
        for _ in range(TRIES):
            try:
                took = self._on_a_cloud(
                    story, lambda cloud: play.case(cloud, story.tell, case.place, case.way)
                )
            except play.Missed:
                continue
            except Exception as error:
                return f"{case}: {type(error).__name__}: {error}{_where(error)}"
            self.played[case.way] += 1
            self.slowest = max(self.slowest, (took, str(case)))
            return ""
        self.missed.add(case)
        return ""

    def _on_a_cloud(self, story: Story, work: Callable[[Cloud], T]) -> T:
        cloud = self._take()
        try:
            result = work(cloud)
        except BaseException:
            cloud.close()  # nobody knows what is left in it
            raise
        if story.spoils:
            cloud.close()
        else:
            self.free.put(cloud)
        return result

    def _take(self) -> Cloud:
        try:
            return self.free.get_nowait()
        except queue.Empty:
            with self.lock:
                offset = free_offset(self.ports)
                doors = (offset, offset + SECOND)
                self.ports |= {port + door for port in PORTS for door in doors}
            return Cloud(self.nursery, self.url, offset, self.databases())


def _where(error: Exception) -> str:
    """The line of the story or of the play where it went wrong."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f" ({last.filename.rpartition('/')[2]}:{last.lineno})"
