"""Named places between the steps of the work, where the tests kill or stop a process.

`MINICLOUD_CHECKPOINT=NAME:kill` (or `:stop`) makes the process send itself that signal when it
comes to NAME for the first time; with `NAME:kill:FILE` only while FILE exists, and FILE is removed
first, so that a restarted daemon with the same environment gets past it.  Otherwise a no-op.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

hook: Callable[[str], None] | None = None  # in-process tests set this

_name, _, _rest = os.environ.get("MINICLOUD_CHECKPOINT", "").partition(":")
_how, _, _file = _rest.partition(":")


def checkpoint(name: str) -> None:
    """Say that the step `name` (manager method, dot, what is done) is behind us."""
    if hook is not None:
        hook(name)
    if name == _name:
        _signal_once()


def _signal_once() -> None:
    global _name
    if _file:
        try:
            os.unlink(_file)
        except FileNotFoundError:
            return
    else:
        _name = ""
    os.kill(os.getpid(), SIGNALS[_how])
