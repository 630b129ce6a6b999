"""`minicloud-manage db sync` that dies by SIGKILL, again and again.

`python -m tests.upgrade.cutting URL` reads a number a line, and has a new process sync that
database, which dies before the so manieth statement that changes something (a commit is one).
It answers `cut`, or `done` when the process came to its end before.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from minicloud.db import migrate

LOOKS = ("SELECT", "PRAGMA", "SHOW", "SET", "BEGIN", "DESCRIBE")


def main(url: str) -> None:
    """Sync as often as is asked."""
    cfg.CONF([], project="minicloud", default_config_files=[])
    cfg.CONF.set_override("connection", url, "database")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _sync(int(line))
        _, status = os.waitpid(child, 0)
        ways = {0: "done", signal.SIGKILL: "cut"}
        print(ways.get(os.waitstatus_to_exitcode(status) * -1, "failed"), flush=True)


def _sync(number: int) -> None:
    """Never returns."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @sa.event.listens_for(sa.Engine, "before_cursor_execute")
    def statement(connection: Any, cursor: Any, text: str, *more: Any) -> None:
        if not text.lstrip().upper().startswith(LOOKS):
            count()

    @sa.event.listens_for(sa.Engine, "commit")
    def commit(connection: Any) -> None:
        count()

    status = 1
    try:
        migrate.sync()
        status = 0
    except Exception as error:
        print(error, file=sys.stderr)
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
