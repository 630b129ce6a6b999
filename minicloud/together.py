"""Calls that come at the same time and are answered by one: a transaction for ten rows costs about
as much as for one."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from minicloud import context, errors

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")


@dataclasses.dataclass(eq=False)
class _Call:
    ask: Any
    answer: Any = None


class Together(Generic[Ask, Answer]):
    """`body` as a function of one.

    It gets what was asked since it was called last, and returns an answer for each, in the same
    order.  When it raises, each is asked alone, so that one does not spoil the others; but what
    holds for all of them, Unavailable and Fenced, is raised for all.
    """

    def __init__(self, body: Callable[[Sequence[Ask]], Sequence[Answer]]) -> None:
        self._body = body
        self._turn = threading.Lock()
        self._waiting: list[_Call] = []

    def __call__(self, ask: Ask) -> Answer:
        mine = _Call(ask)
        self._waiting.append(mine)
        with self._turn:
            if mine in self._waiting:
                calls = list(self._waiting)
                self._answer(calls)
                del self._waiting[: len(calls)]
        if isinstance(mine.answer, Exception):
            raise mine.answer
        answer: Answer = mine.answer
        return answer

    def _answer(self, calls: Sequence[_Call]) -> None:
        one = len(calls) == 1
        ctx = context.current() if one else context.Context("together")  # it is nobody's alone
        try:
            with context.use(ctx):
                answers: Sequence[Any] = self._body([call.ask for call in calls])
        except (errors.Unavailable, errors.Fenced) as error:
            answers = [error] * len(calls)
        except Exception as error:
            if not one:
                for call in calls:
                    self._answer([call])
                return
            answers = [error]
        for call, answer in zip(calls, answers, strict=True):
            call.answer = answer
