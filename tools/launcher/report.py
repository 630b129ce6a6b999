"""How the launcher speaks: what it does, on stdout as it does it; what went wrong, once."""

from __future__ import annotations

import os
import sys
import threading

_lock = threading.Lock()


class Failure(Exception):
    """A step failed: `cause` in one sentence, `mend` what the person at the keyboard can do."""

    def __init__(self, cause: str, mend: str = "") -> None:
        self.cause = cause
        self.mend = mend
        super().__init__(cause)


class Refused(Failure):
    """Nothing was changed: what was asked for cannot be done here."""


class WrongUsage(Failure):
    """The command line makes no sense."""


def say(line: str) -> None:
    """Print one line of progress; whole lines also when two steps run at the same time."""
    with _lock:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # nobody reads any more: what was begun is finished all the same
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(failure: Failure) -> None:
    """Print what went wrong and how to mend it to stderr."""
    print(f"error: {failure.cause}", file=sys.stderr)
    if failure.mend:
        print(f"mend:  {failure.mend}", file=sys.stderr)
