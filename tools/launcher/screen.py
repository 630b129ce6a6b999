"""A tmux session to watch a cloud by: a window for each log, one with the credentials loaded.

The session only looks: leaving or closing it stops nothing.  The option `@minicloud` on it says
whose it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence

from launcher import packages
from launcher.report import Failure, Refused, say
from launcher.state import State
from launcher.variables import Variables

SHELL = "credentials"  # the window that is looked at first
MARK = "@minicloud"


def is_terminal() -> bool:
    """Whether somebody sits there."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def install() -> None:
    """tmux is there: only who has a terminal needs it."""
    packages.install({"tmux"})


def require_free(values: Variables, where: State) -> None:
    """Refused when another's session has the name."""
    name = _name(values)
    if _exists(name) and _owner(name) != str(where.path):
        raise Refused(
            f"there is a tmux session {name}, which is not this cloud's",
            "end it (tmux kill-session -t " + name + "), or use another SCREEN_NAME",
        )


def show(values: Variables, where: State, names: Sequence[str]) -> None:
    """This process becomes the terminal's view of the session; it returns to nobody.

    Windows that are missing are made, so that whatever was closed or interrupted is there again.
    """
    name = _name(values)
    home = os.path.expanduser("~")
    if not _exists(name):
        mark = ["set-option", "-t", f"={name}:", MARK, str(where.path)]
        begin = ["new-session", "-d", "-s", name, "-n", SHELL, "-c", home, *_shell(where)]
        _tmux(*begin, ";", *mark)  # both or none
    there = _tmux("list-windows", "-t", f"={name}", "-F", "#{window_name}").splitlines()
    if SHELL not in there:
        _tmux("new-window", "-d", "-t", f"={name}:", "-n", SHELL, "-c", home, *_shell(where))
    for daemon in names:
        if daemon not in there:
            follow = ["tail", "-n", "200", "-F", str(where.log(daemon))]
            _tmux("new-window", "-d", "-t", f"={name}:", "-n", daemon, *follow)
    _tmux("select-window", "-t", f"={name}:{SHELL}")
    say(f"tmux session {name}; leave it with Ctrl-b d, that stops nothing")
    sys.stdout.flush()
    verb = "switch-client" if os.environ.get("TMUX") else "attach-session"
    os.execvp("tmux", ["tmux", verb, "-t", f"={name}"])


def close(values: Variables, where: State) -> None:
    """This cloud's session is gone, if there was one of the caller's that he is not in."""
    name = _name(values)
    if not shutil.which("tmux") or not _exists(name) or _owner(name) != str(where.path):
        return
    inside = os.environ.get("TMUX") and _tmux("display-message", "-p", "#S", check=False).strip()
    if inside != name:
        say(f"closing the tmux session {name}")
        _tmux("kill-session", "-t", f"={name}", check=False)


def _name(values: Variables) -> str:
    return values.screen_name.replace(".", "_")  # tmux(1): a dot would name a pane


def _shell(where: State) -> list[str]:
    load = f'. {shlex.quote(str(where.novarc))}; exec "${{SHELL:-/bin/bash}}" -i'
    return ["/bin/bash", "-c", load]


def _exists(name: str) -> bool:
    argv = ["tmux", "has-session", "-t", f"={name}"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _owner(name: str) -> str:
    return _tmux("show-options", "-qv", "-t", f"={name}:", MARK).strip()


def _tmux(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        ["tmux", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if check and done.returncode != 0:
        raise Failure(
            f"tmux {words[0]}: {done.stderr.strip()}",
            "the cloud runs all the same; run_detached needs no tmux",
        )
    return done.stdout
