"""The ways to a cloud's directories: its users can pass every directory above them.

A directory that lets nobody but its owner through (a clone under /root, a temporary directory)
gets an access control list that lets just the daemons' users through (acl(5)); an extended
attribute beside it names the clouds that need it, and the last of them to be scrubbed takes both
away.  Nothing else of the directory is changed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from launcher.report import Refused, say
from launcher.state import Cloud, State
from launcher.variables import Variables
from minicloud import processes

USERS = (processes.USER, "libvirt-qemu")
NEEDED_BY = "user.minicloud"  # tags of clouds, space between


def open_(cloud: Cloud) -> None:
    """The daemons' users can pass; repeating changes nothing.  Refused where the file system
    knows no access control lists."""
    for directory in _closed(cloud.state, cloud.variables):
        tags = _tags(directory)
        if cloud.tag in tags:
            continue
        try:
            os.setxattr(directory, NEEDED_BY, " ".join([*tags, cloud.tag]).encode())
            _setfacl(["-m", *_entries(":--x")], directory)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Refused(
                f"the daemons' user cannot pass {directory}: {error}",
                f"chmod o+x {directory}, or choose another place (MINICLOUD_STATE, …)",
            ) from error
        say(f"letting the users {' and '.join(_users())} pass {directory} (scrub takes that back)")


def close(cloud: Cloud) -> None:
    """This cloud needs nobody to pass any more; repeating changes nothing."""
    for directory in opened(cloud):
        others = [tag for tag in _tags(directory) if tag != cloud.tag]
        if others:
            os.setxattr(directory, NEEDED_BY, " ".join(others).encode())
            continue
        _setfacl(["-x", *_entries("")], directory)
        os.removexattr(directory, NEEDED_BY)
        say(f"{directory} is as closed as it was")


def opened(cloud: Cloud) -> list[Path]:
    """The directories that were opened for this cloud."""
    return [way for way in _above(cloud.state, cloud.variables) if cloud.tag in _tags(way)]


def _closed(state: State, values: Variables) -> list[Path]:
    """Existing directories that users other than their owner cannot pass."""
    if os.geteuid() != 0:
        return []  # then the daemons are the caller's own
    return [way for way in _above(state, values) if not way.stat().st_mode & stat.S_IXOTH]


def _above(state: State, values: Variables) -> Iterator[Path]:
    """The existing directories above the cloud's, each once; the state directory is our own."""
    ends = (state.path, Path(values.instances_path), Path(values.lock_path))
    ways = dict.fromkeys(way for end in ends for way in end.parents)
    yield from (way for way in ways if way.is_dir() and way != state.path)


def _tags(directory: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return os.getxattr(directory, NEEDED_BY).decode(errors="replace").split()
    return []


def _users() -> list[str]:
    known = {entry.pw_name for entry in pwd.getpwall()}
    return [user for user in USERS if user in known]


def _entries(rights: str) -> list[str]:
    return [",".join(f"u:{user}{rights}" for user in _users())]


def _setfacl(words: list[str], directory: Path) -> None:
    command = ["setfacl", *words, "--", str(directory)]
    subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
