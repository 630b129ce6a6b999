"""What daemons of the release before say and understand is said and understood by these."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest

from minicloud import context, rpc
from tests.upgrade import before, keep


def changes(kept: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What of an older release's messages is not as it was."""
    for topic, protocol in kept["topics"].items():
        if topic not in now["topics"]:
            yield f"{topic} is not there any more"
            continue
        served = now["topics"][topic]
        for name, method in protocol["methods"].items():
            found = served["methods"].get(name, "not there any more")
            if found != method:
                yield f"{topic} {name} was {method} and is {found}"
        old, new = rpc.version_of(protocol["version"]), rpc.version_of(served["version"])
        if old[0] != new[0] or old > new:
            yield f"{topic} goes from {protocol['version']} to {served['version']}"
    for word in set(kept["context"]) - set(now["context"]):
        yield f"the context says nothing of {word} any more"


def test_all_that_the_release_before_calls_is_there_as_it_was() -> None:
    assert list(changes(before.INTERFACES, keep.messages())) == []


@pytest.mark.parametrize("protocol", keep.protocols(), ids=lambda one: one.topic)
def test_what_is_new_says_since_which_version(protocol: Any) -> None:
    kept = before.INTERFACES["topics"].get(protocol.topic, {"version": "0.0", "methods": {}})
    now = keep.methods(protocol)
    for name in kept["methods"]:
        assert rpc.serves(kept["version"], now[name]), f"{name} was there before its `since`"
    for name in set(now) - set(kept["methods"]):
        assert not rpc.serves(kept["version"], now[name]), f"{name} needs since=, and a version"


def test_contexts_of_the_release_before_and_of_the_next_are_understood() -> None:
    values: dict[str, Any] = {name: name for name in before.INTERFACES["context"]}
    values |= {"roles": ["admin"], "what only the next knows": True}
    understood = context.Context.from_dict(values)
    assert (understood.request_id, understood.is_admin) == ("request_id", True)


def test_whatever_vanishes_or_changes_is_told() -> None:
    def told(change: Any) -> list[str]:
        now = copy.deepcopy(before.INTERFACES)
        change(now)
        return list(changes(before.INTERFACES, now))

    def compute(now: dict[str, Any]) -> Any:
        return now["topics"]["compute"]["methods"]

    assert told(lambda now: compute(now).update(pause_instance="nudge(id: str) -> None")) == []
    assert told(lambda now: now["topics"].pop("volume")) == ["volume is not there any more"]
    [vanished] = told(lambda now: compute(now).pop("stop_instance"))
    assert vanished.startswith("compute stop_instance was nudge(id: str) -> None and is not there")
    [changed] = told(lambda now: compute(now).update(console_output="ask(id: str) -> str"))
    assert changed.endswith("and is ask(id: str) -> str")
    [older] = told(lambda now: now["topics"]["network"].update(version="2.0"))
    assert older == "network goes from 1.0 to 2.0"
    assert told(lambda now: now["context"].remove("user")) == [
        "the context says nothing of user any more"
    ]
