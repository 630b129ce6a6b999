"""The schedule of a storm: the same for the same seed, and all that it breaks it mends."""

from __future__ import annotations

import itertools

import pytest

from launcher import storm, tenants

HOSTS = ["h1", "h2", "h3"]
SECONDS = 600.0


def test_the_same_seed_plays_the_same() -> None:
    assert storm.plan(7, HOSTS, SECONDS) == storm.plan(7, HOSTS, SECONDS)
    assert storm.plan(7, HOSTS, SECONDS) != storm.plan(8, HOSTS, SECONDS)
    assert tenants.plan(7, "one", SECONDS) == tenants.plan(7, "one", SECONDS)
    assert tenants.plan(7, "one", SECONDS) != tenants.plan(7, "two", SECONDS)


@pytest.mark.parametrize("seed", range(5))
def test_what_fails_comes_back_before_it_fails_again(seed: int) -> None:
    undoing = {verb: undo for verb, (undo, _) in storm.HOST.items() if undo}
    down: dict[tuple[str, ...], str] = {}
    for blow in storm.plan(seed, HOSTS, SECONDS):
        assert 0 <= blow.at_s <= SECONDS
        if blow.verb in undoing:
            whole = [words for words in down if words[0] == blow.words[0] != "head"]
            assert not whole
            assert blow.words not in down
            down[blow.words] = blow.verb
        elif blow.verb != "restart":
            assert undoing[down.pop(blow.words)] == blow.verb
    assert down == {}


def test_everything_is_asked_and_everything_fails_sooner_or_later() -> None:
    asked = {verb for _, verb, _ in tenants.plan(1, "one", SECONDS)}
    assert asked == set(tenants.VERBS)
    blows = storm.plan(1, HOSTS, 10 * SECONDS)
    assert {blow.verb for blow in blows} >= set(storm.HOST)
    struck = set(itertools.chain.from_iterable(blow.words for blow in blows))
    assert struck >= {*HOSTS, *storm.HEAD, "compute", "network", "volume"}
