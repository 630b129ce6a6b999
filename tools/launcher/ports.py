"""TCP ports: whether one is free, and whose it is when it is not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from launcher import alive
from launcher.report import Refused

LISTEN = "0A"  # the state column of /proc/net/tcp, net/tcp_states.h


def require_free(address: str, port: int, name: str) -> None:
    """Refused, naming the owner, when `name` could not listen there."""
    error = _bind_error(address, port)
    if error is None:
        return
    if error.errno == errno.EADDRINUSE:
        raise Refused(
            f"port {port}, on which {name} shall listen, is taken by {owner(port)}",
            "end that process, or make the cloud with another PORT_OFFSET",
        )
    if error.errno == errno.EADDRNOTAVAIL:
        raise Refused(
            f"{name} cannot listen on {address}: this machine has no such address",
            "give a HOST_IP that `ip address` shows; in a network namespace: ip link set lo up",
        )
    raise Refused(f"{name} cannot listen on {address} port {port}: {error.strerror}")


def is_free(address: str, port: int) -> bool:
    """Whether somebody could listen there now."""
    return _bind_error(address, port) is None


def owner(port: int) -> str:
    """Who listens on that port: "pid 12 (nginx)", as far as this user may see it."""
    inodes = _listening(port)
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        if inodes & _sockets(pid):
            words = " ".join(alive.command_line(pid))[:160] or "unknown"
            shown = "".join(each if each.isprintable() else "?" for each in words)
            return f"pid {pid} ({shown})"
    return "a process that this user cannot see"


def _bind_error(address: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # connections that linger from the last run do not make a port taken
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def _listening(port: int) -> set[str]:
    """The inodes of the sockets that listen on it."""
    found = set()
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    found.add(fields[9])
    return found


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found
