"""A process that has imported all of minicloud and forks daemons from it, each in some 20 ms.

`python -m tests.promises.nursery` reads a JSON object a line: `program` (a function of
minicloud.main, "manage" or "courier"), `arguments`, `environment`, `log`, `witness` (a directory)
and `name`; it answers with the pid of the daemon.  It has no thread and no connection, so that
what it forks is as fresh as a process of its own.  Its daemons die with it.

Every daemon tells the witness directory which checkpoints it passes (`passed/NAME`, a line each)
and does what it finds there for it (`armed/NAME`: a checkpoint and what is to happen at it).
"""

from __future__ import annotations

from minicloud import concurrency

concurrency.patch()

# ruff: noqa: E402  (as in minicloud.main: patching comes first)
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import eventlet.hubs
from eventlet import patcher

import minicloud
from minicloud import checkpoint, config, interfaces, rpc

PR_SET_PDEATHSIG = 1
REAL = ("minicloud.compute.libvirt", "minicloud.db.migrations", "minicloud.embedded.__main__")
# what libraries import only when they are used
LATE = (
    "oslo_messaging._drivers.impl_rabbit",
    "kombu.transport.pyamqp",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql.psycopg2",
    "alembic.command",
)

_write = patcher.original("os").write


def main() -> None:
    """Fork until the input ends."""
    for module in pkgutil.walk_packages(minicloud.__path__, "minicloud."):
        if not module.name.startswith(REAL):
            importlib.import_module(module.name)
    for name in LATE:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # shared with the children for as long as they leave it alone
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _live(order)
        print(pid, flush=True)


def _live(order: dict[str, Any]) -> None:
    """Become the daemon; never returns."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        _redirect(order["log"])
        os.environ.update(order["environment"])
        eventlet.hubs.use_hub()  # its own epoll
        checkpoint.hook = witness(order["witness"], order["name"])
        sys.argv = [f"minicloud-{order['program']}", *order["arguments"]]
        from minicloud import main as programs
        from minicloud.cli import app

        own = {"manage": app.main, "courier": courier}
        (own.get(order["program"]) or getattr(programs, order["program"]))()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with open(f"{order['witness']}/ended/{order['name']}", "w") as file:
            file.write(str(status))
        os._exit(status)


def courier() -> None:
    """Send the nudges that are written to a pipe, a JSON list [method, id, host] a line."""
    *arguments, pipe = sys.argv[1:]
    config.load(arguments, "courier")
    methods = {
        name: method
        for protocol in vars(interfaces).values()
        for name, method in getattr(protocol, "__dict__", {}).items()
        if getattr(method, "rpc_kind", "") == "nudge"
    }
    while True:
        with open(pipe) as lines:  # ends when its last writer does
            for line in lines:
                name, id, host = json.loads(line)
                rpc._cast(rpc.Nudge(methods[name], id, host), None)


def _redirect(log: str) -> None:
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    for number in (1, 2):
        os.dup2(written, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115  (the parent's has read ahead)


def witness(directory: str, name: str) -> Callable[[str], None]:
    """What `minicloud.checkpoint` calls at every checkpoint of the daemon `name`."""
    passed = os.open(f"{directory}/passed/{name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    armed, mine, reached = (f"{directory}/{kind}/{name}" for kind in ("armed", "mine", "reached"))

    def hook(place: str) -> None:
        booked = " booked" if getattr(concurrency._local, "inside", False) else ""
        _write(passed, f"{place}{booked}\n".encode())
        try:
            with open(armed) as file:
                wanted, how = file.read().split()
        except (FileNotFoundError, ValueError):
            return
        if place != wanted:
            return
        try:
            os.rename(armed, mine)
            with open(mine, "r+") as file:
                file.write(f"{os.getpid()}\n")
            os.rename(mine, reached)
        except FileNotFoundError:  # another thread was there first, or it was disarmed
            return
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            while os.path.exists(reached):  # held until somebody takes the file away
                time.sleep(0.005)

    return hook


if __name__ == "__main__":
    main()
