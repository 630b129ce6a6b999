"""Files of the state directory: whole or not there, and owned by who shall read or write them."""

from __future__ import annotations

import os
import pwd
import secrets
from pathlib import Path

from minicloud import processes


def owner() -> tuple[int, int]:
    """Who the daemons are: the user `minicloud` for root, otherwise the caller itself."""
    if os.geteuid() != 0:
        return os.getuid(), os.getgid()
    entry = pwd.getpwnam(processes.USER)
    return entry.pw_uid, entry.pw_gid


def write(path: Path, text: str, mode: int, *, uid: int = -1, gid: int = -1) -> None:
    """`path` holds `text`, whatever dies when: written aside, synced, then named."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        os.rename(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def directory(path: Path, mode: int, *, uid: int = -1, gid: int = -1) -> None:
    """`path` is a directory of that mode and owner; repeating changes nothing."""
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        os.fchown(descriptor, uid, gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
