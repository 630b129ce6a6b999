"""What a check is, and how all of them are run.

A check is a function that is given the host and yields what it saw: `well`, `failed` with the
cause and the command that mends it, `unseen` when it could not look.  One that yields nothing does
not apply here and is not shown.  Its docstring says what it proves.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from minicloud import concurrency, errors
from minicloud.doctor.host import Host

LOG = logging.getLogger(__name__)

WELL, FAILED, UNSEEN = "well", "FAILED", "unseen"
LIMIT_S = 30.0  # of one check; all run side by side
AS_ROOT = "run doctor as root"

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was seen of one thing: `text` is the value or the cause, `mend` a command."""

    about: str
    state: str
    text: str
    mend: str = ""
    check: str = ""  # the name of the check


Look = Callable[[Host], Iterator[Seen]]


@dataclasses.dataclass(frozen=True)
class Check:
    name: str
    look: Look

    @property
    def proves(self) -> str:
        return " ".join((inspect.getdoc(self.look) or "").split())


CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Look], Look]:
    """Make the function the check of that name; they are shown in the order of the source."""

    def register(look: Look) -> Look:
        CHECKS[name] = Check(name, look)
        return look

    return register


def well(about: str, text: str) -> Seen:
    return Seen(about, WELL, text)


def failed(about: str, text: str, mend: str) -> Seen:
    return Seen(about, FAILED, text, mend)


def unseen(about: str, text: str, mend: str = "") -> Seen:
    return Seen(about, UNSEEN, text, mend)


def examine(host: Host, limit_s: float = LIMIT_S) -> list[Seen]:
    """What every check saw, in their order; none takes longer than `limit_s`.

    A check that breaks off or does not end is unseen; what it saw before counts.
    """
    found: dict[str, list[Seen]] = {name: [] for name in CHECKS}

    def run(one: Check) -> None:
        for seen in _guarded(one, host):
            found[one.name].append(dataclasses.replace(seen, check=one.name))

    late = [one for one, done in together(run, list(CHECKS.values()), limit_s) if done is None]
    for one in late:
        found[one.name].append(
            Seen("", UNSEEN, f"no answer within {limit_s:.0f} s", "run doctor again", one.name)
        )
    return [seen for name in CHECKS for seen in tuple(found[name])]


def _guarded(one: Check, host: Host) -> Iterator[Seen]:
    """What the check sees, and why it broke off."""
    try:
        yield from one.look(host)
    except (errors.CommandFailed, PermissionError) as error:
        rights = isinstance(error, PermissionError) or os.geteuid() != 0
        yield unseen("", _sentence(error), AS_ROOT if rights else "")
    except (errors.Error, OSError) as error:
        yield unseen("", _sentence(error))
    except Exception as error:
        LOG.exception("check %s", one.name)
        yield unseen("", f"{type(error).__name__}: {_sentence(error)}")


def _sentence(error: BaseException) -> str:
    reason = error.facts.get("reason") if isinstance(error, errors.Error) else None
    return " ".join(str(reason or error).split())[:500]


def together(
    function: Callable[[T], R], items: Sequence[T], limit_s: float
) -> Iterable[tuple[T, tuple[R] | None]]:
    """Each item with what `function` said of it, None when it is not back within `limit_s`.

    All are called at once; one that hangs is left alone and ends with the process.
    """
    results: dict[int, tuple[R]] = {}

    def call(place: int) -> None:
        results[place] = (function(items[place]),)

    threads: list[threading.Thread] = [
        concurrency.start("doctor", call, place) for place in range(len(items))
    ]
    until = time.monotonic() + limit_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return [(item, results.get(place)) for place, item in enumerate(items)]


def status(seen: Iterable[Seen]) -> int:
    """0: all is well.  1: something failed.  2: nothing that was seen failed, but not all was."""
    states: set[Any] = {one.state for one in seen}
    return 1 if FAILED in states else 2 if UNSEEN in states else 0
