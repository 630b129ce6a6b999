"""The doctor's command."""

from __future__ import annotations

import dataclasses
import json as encoding
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from minicloud.cli import table
from minicloud.cli.commands import command

if TYPE_CHECKING:
    from minicloud.doctor.check import Seen

WIDEST = 24  # of the column of things; what is longer pushes its line out
BOLD, PLAIN = "\033[1m", "\033[0m"


@command("doctor")
def doctor(json: bool = False) -> int:
    """Look whether this host and its cloud stand; say what does not, why, and what mends it.

    It changes nothing, and goes on when the database or the broker is away.  What does not apply
    here is not shown; as root it sees most.  Exit 0: all is well; 1: something failed; 2: nothing
    that was seen failed, but a part could not be looked at.  docs/doctor.md lists the checks.
    """
    from minicloud import config, doctor  # noqa: F401  (all checks, and the options they read)
    from minicloud.doctor import check, host

    config.list_opts()
    found = check.examine(host.Host())
    if json:
        print(encoding.dumps([dataclasses.asdict(one) for one in found], indent=2))
    else:
        _show(found)
    return check.status(found)


def _show(found: Sequence[Seen]) -> None:
    """A line for each thing, below it what mends it, and at the end how many."""
    from minicloud.doctor import check

    names = max((len(one.check) for one in found), default=0)
    things = min(WIDEST, max((len(one.about) for one in found), default=0))
    last = ""
    for one in found:
        named = "" if one.check == last else one.check
        last = one.check
        words = f"{named.ljust(names)}  {one.about.ljust(things)}  {one.text}"
        line = table.printable(f"{one.state.ljust(6)}  {words}")
        loud = one.state == check.FAILED and sys.stdout.isatty()
        print(f"{BOLD}{line}{PLAIN}" if loud else line)
        if one.mend:
            print(table.printable(f"{' ' * 6}  {' ' * names}    mend: {one.mend}"))
    counts = [
        sum(one.state == state for one in found)
        for state in (check.WELL, check.FAILED, check.UNSEEN)
    ]
    print("{} well, {} failed, {} not looked at".format(*counts))
