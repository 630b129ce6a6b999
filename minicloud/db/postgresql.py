"""psycopg2, so that no wait for PostgreSQL stops the other green threads or lasts for ever.

libpq waits in C, where neither eventlet nor a time limit reaches it, and looks up names there.
psycopg2 lets a function of ours do all the waiting for a connection: with `select`, which is green
when `concurrency` has patched it.
"""

from __future__ import annotations

import select
import socket
from typing import Any

import psycopg2
from psycopg2 import extensions


class _Connection(extensions.connection):  # type: ignore[misc]  # psycopg2 has no types
    """Seconds without a byte after which the server is gone: while connecting, and afterwards."""

    connect_s: float | None = None
    silence_s: float | None = None


def connect_arguments(connect_s: float, silence_s: float | None) -> dict[str, Any]:
    """For psycopg2.connect: how long the server may be silent; None is for ever."""
    extensions.set_wait_callback(_wait)
    limits = {"connect_s": connect_s, "silence_s": silence_s}
    return {"connection_factory": type("Connection", (_Connection,), limits)}


def settings(lock_s: float, silence_s: float | None) -> str:
    """SQL for each new connection: the server gives up no later than who waits for it."""
    seconds = {
        "lock_timeout": lock_s,
        "idle_in_transaction_session_timeout": lock_s,
        "statement_timeout": silence_s or 0,  # 0 is for ever
    }
    limits = "".join(f"SET {name} = {int(value * 1000)}; " for name, value in seconds.items())
    return f"{limits}SET TIME ZONE 'UTC'"


def look_up(dialect: Any, record: Any, arguments: Any, parameters: dict[str, Any]) -> None:
    """Listener to SQLAlchemy's `do_connect`: libpq is told the address of the server's host."""
    host = str(parameters.get("host") or "/")
    if not host.startswith("/"):  # a directory of sockets
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise psycopg2.OperationalError(f"{host}: {error}") from error
        parameters["hostaddr"] = found[0][4][0]


def _wait(connection: Any) -> None:
    """psycopg2's wait callback, the one for all connections of the process; when it raises,
    psycopg2 closes the connection."""
    ours = connection if isinstance(connection, _Connection) else _Connection
    while (state := connection.poll()) != extensions.POLL_OK:
        limit = ours.connect_s if connection.status == extensions.STATUS_SETUP else ours.silence_s
        ends = ([connection], []) if state == extensions.POLL_READ else ([], [connection])
        if not any(select.select(*ends, [], limit)):
            raise psycopg2.OperationalError(f"the server was silent for {limit:g} s")
