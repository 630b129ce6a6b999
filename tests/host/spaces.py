"""Network namespaces, and working inside one."""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
import subprocess
from collections.abc import Iterator

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


def sh(*argv: str) -> str:
    """What the command says; AssertionError with its words when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stdout}{done.stderr}"
    return done.stdout


def _enter(file: int) -> None:
    if libc.setns(file, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread, its sockets and what it starts are in that network namespace."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    wanted = os.open(f"/run/netns/{name}", os.O_RDONLY)
    try:
        _enter(wanted)
        try:
            yield
        finally:
            _enter(before)
    finally:
        os.close(wanted)
        os.close(before)


@contextlib.contextmanager
def uplinked() -> Iterator[tuple[str, str]]:
    """Two namespaces: a host (198.51.100.1) whose default route leads to an outside (.2).

    The outside knows no way to anything behind the host.
    """
    word = secrets.token_hex(2)
    host, outside = f"host-{word}", f"outside-{word}"
    try:
        for name in (host, outside):
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        peer = ("peer", "name", "uplink", "netns", outside)
        sh("ip", "-n", host, "link", "add", "uplink", "type", "veth", *peer)
        for name, address in ((host, "198.51.100.1/30"), (outside, "198.51.100.2/30")):
            sh("ip", "-n", name, "address", "add", address, "dev", "uplink")
            sh("ip", "-n", name, "link", "set", "uplink", "up")
        sh("ip", "-n", host, "route", "add", "default", "via", "198.51.100.2")
        yield host, outside
    finally:
        for name in (host, outside):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
