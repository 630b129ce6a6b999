"""At every place of every verb: killed, stopped and woken after all the others have gone on, or
nudged twice while inside; the promise holds all the same.

With SQLite a process that is stopped inside a transaction has the one write lock, and nothing in
the world can take it away: until it wakes, every other writer is told 503, as docs/promises.md
says.  So stops inside a transaction are played on the servers, which end a transaction that is
idle for too long.
"""

from __future__ import annotations

import pytest

from tests.promises import places
from tests.promises.stories import STORIES
from tests.promises.theatre import Case, Theatre

# a place that nobody comes by, and why
NEVER = {
    "db.health._written.commit": "what doctor writes is always taken back",
    "db.health._written.committed": "the same",
}
# verbs that are played with the engines of larger clouds as well
ON_A_SERVER = (
    *("run", "terminate_with_a_volume", "attach_volume", "detach_volume", "delete_volume"),
    *("reboot", "register_image", "delete_object"),
)
KILLED_ON_A_SERVER = ("run", "detach_volume")


LATER = pytest.mark.exhaustive
WAYS = ("kill", pytest.param("stop", marks=LATER), pytest.param("double", marks=LATER))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("story", STORIES)
def test_nothing_is_stuck_lost_or_leaked_whatever_happens_at_a_place(
    theatre: Theatre, story: str, way: str
) -> None:
    """Killed at every place of every story; stopped and doubled at every place in the story that
    is most about it."""
    cases = theatre.cases(story, way)
    if way != "kill":
        cases = [case for case in cases if theatre.is_most_about(case)]
    assert theatre.play(cases) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("way", ["stop", "double"])
@pytest.mark.parametrize("story", STORIES)
def test_nor_in_any_other_story_that_comes_by(theatre: Theatre, story: str, way: str) -> None:
    cases = [case for case in theatre.cases(story, way) if not theatre.is_most_about(case)]
    assert theatre.play(cases) == []


@LATER
@pytest.mark.parametrize("story", ON_A_SERVER)
def test_a_process_that_stops_within_a_transaction_loses_it(
    theatre_on_a_server: Theatre, story: str
) -> None:
    places = [place for place in theatre_on_a_server.places(story) if place.booked]
    assert theatre_on_a_server.play([Case(story, place, "stop") for place in places]) == []


@pytest.mark.parametrize("story", KILLED_ON_A_SERVER)
def test_deaths_do_no_more_harm_with_a_database_server(
    theatre_on_a_server: Theatre, story: str
) -> None:
    assert theatre_on_a_server.play(theatre_on_a_server.cases(story, "kill")) == []


@LATER
def test_every_place_of_the_product_is_come_by(theatre: Theatre) -> None:
    """A verb that is added to states.py, a step, a transaction, a nudge: each needs a story."""
    passed = {place.name for found in theatre.passed(list(STORIES)).values() for place in found}
    assert places.simulated() - passed == set(NEVER)


def test_every_place_that_is_come_by_is_read_from_the_source(theatre: Theatre) -> None:
    passed = {place.name for found in theatre.passed(list(STORIES)).values() for place in found}
    assert passed <= places.simulated()
