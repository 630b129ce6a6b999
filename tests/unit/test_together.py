"""What is asked at the same time is answered by one call."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent import futures

import pytest

from minicloud import errors
from minicloud.together import Together


class Body:
    """Doubles numbers; the first call waits until `open` is set."""

    def __init__(self, *bad: int) -> None:
        self.calls: list[list[int]] = []
        self.inside, self.open = threading.Event(), threading.Event()
        self.bad = set(bad)

    def __call__(self, asks: Sequence[int]) -> list[int]:
        self.calls.append(list(asks))
        self.inside.set()
        assert self.open.wait(60)
        if self.bad & set(asks):
            raise errors.Unavailable(reason="away") if 0 in asks else ValueError(asks)
        return [2 * ask for ask in asks]


def answers(body: Body, asks: Sequence[int]) -> list[object]:
    """Of each, an answer or what was raised; the first is asked before all others, which come
    while it is answered."""
    together = Together(body)

    def ask(one: int) -> object:
        try:
            return together(one)
        except Exception as error:
            return type(error)

    with futures.ThreadPoolExecutor(len(asks)) as pool:
        first = pool.submit(ask, asks[0])
        assert body.inside.wait(60)
        rest = [pool.submit(ask, one) for one in asks[1:]]
        while len(together._waiting) < len(asks):
            pass
        body.open.set()
        return [one.result(60) for one in (first, *rest)]


def test_those_that_come_meanwhile_share_the_next_call() -> None:
    body = Body()
    assert answers(body, [1, 2, 3, 4]) == [2, 4, 6, 8]
    assert [sorted(call) for call in body.calls] == [[1], [2, 3, 4]]


def test_one_that_fails_does_not_spoil_the_others() -> None:
    body = Body(3)
    assert answers(body, [1, 2, 3, 4]) == [2, 4, ValueError, 8]
    assert sorted(body.calls[2:]) == [[2], [3], [4]]


def test_what_holds_for_all_is_raised_for_all_at_once() -> None:
    body = Body(0)
    assert answers(body, [1, 2, 0, 4]) == [2, *[errors.Unavailable] * 3]
    assert len(body.calls) == 2


def test_an_answer_that_is_an_error_is_raised_where_it_was_asked() -> None:
    with pytest.raises(KeyError):
        Together(lambda asks: [KeyError(ask) for ask in asks])("x")
