"""The daemons' user on this machine."""

from __future__ import annotations

import os
import pwd
import subprocess

from launcher.report import Failure, say
from minicloud import processes


def make() -> None:
    """The system user of the daemons is there, without a shell, a home or a password.

    Nothing is done for a caller who is not root: then the daemons are the caller's.
    """
    if os.geteuid() != 0 or _exists():
        return
    done = subprocess.run(
        [
            *("useradd", "--system", "--user-group", "--no-create-home"),
            *("--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", processes.USER),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and not _exists():
        raise Failure(f"useradd ended with {done.returncode}: {done.stderr.strip()}")
    say(f"made the system user {processes.USER}")


def _exists() -> bool:
    try:
        pwd.getpwnam(processes.USER)
    except KeyError:
        return False
    return True
