"""Network namespaces with a name, as `ip netns` keeps them: made, entered, removed.

`run` starts a tool inside; `inside` calls a function there in a native thread, which is the only
way to get a socket of a namespace.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from minicloud import concurrency, shell

P = ParamSpec("P")
R = TypeVar("R")

DIRECTORY = "/run/netns"  # of iproute2, so that `ip netns exec NAME` works for a person too
CLONE_NEWNET = 0x40000000
EXIT_LOST = 70

_libc = ctypes.CDLL(None, use_errno=True)


def path(name: str) -> str:
    return f"{DIRECTORY}/{name}"


def names() -> set[str]:
    """Everything `ip netns` would list, also what a killed `ip netns add` left half made."""
    with contextlib.suppress(FileNotFoundError):
        return set(os.listdir(DIRECTORY))
    return set()


def identity(name: str) -> int | None:
    """The namespace's own number (inode of nsfs); None when there is no namespace of that name."""
    with contextlib.suppress(FileNotFoundError):
        found = os.stat(path(name))
        if found.st_dev == os.stat("/proc/self/ns/net").st_dev:
            return found.st_ino
    return None


def ensure(name: str) -> None:
    """The namespace is there; repeating it changes nothing."""
    if identity(name) is None:
        if name in names():
            shell.run(["ip", "netns", "delete", name])  # made, but never mounted
        shell.run(["ip", "netns", "add", name])


def remove(name: str) -> None:
    """The name is gone; the namespace itself ends with the last socket or process in it."""
    if name in names():
        shell.run(["ip", "netns", "delete", name])


def run(name: str, argv: Sequence[str], *, input: str | None = None, check: bool = True) -> str:
    """`shell.run` inside the namespace."""
    return shell.run(["nsenter", f"--net={path(name)}", *argv], input=input, check=check)


def inside(name: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function` in a native thread that is in the namespace; OSError when it is not there.

    The function must use nothing that is green: no log, no lock, `_socket` instead of `socket`.
    """
    return concurrency.blocking("files", _switched, path(name), lambda: function(*args, **kwargs))


def _switched(target_path: str, function: Callable[[], R]) -> R:
    with open("/proc/thread-self/ns/net", "rb") as home:
        with open(target_path, "rb") as target:
            _enter(target.fileno())
        try:
            return function()
        finally:
            try:
                _enter(home.fileno())
            except OSError:
                # this thread would do its next work in a tenant's network
                os._exit(EXIT_LOST)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
