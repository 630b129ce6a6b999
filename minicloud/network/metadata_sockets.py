"""Listening sockets at 169.254.169.254:80 inside the networks, handed to `minicloud-api-metadata`.

The feed is a unix socket of whole messages (SOCK_SEQPACKET), JSON objects:
`{"numbers": [1, 2]}` first: the networks there are; sockets of others can be closed;
`{"number": 1, "network": ID}` with one descriptor: serve it, instead of any older one;
`{"number": 1}`: the network is gone.
This daemon keeps each socket too, so guests' connections wait in it while nobody serves; after a
restart it opens new ones beside the old (SO_REUSEPORT).
"""

from __future__ import annotations

import _socket
import array
import contextlib
import dataclasses
import json
import logging
import os
import pathlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from minicloud import concurrency
from minicloud.network import namespaces

LOG = logging.getLogger(__name__)

ADDRESS = "169.254.169.254"
PORT = 80
BACKLOG = 1024
SEND_S = 10.0


@dataclasses.dataclass(frozen=True)
class Opened:
    network_id: str
    namespace: int  # identity of the namespace it was opened in
    descriptor: int


class Feed:
    """The sockets of this daemon's networks and who is told of them; thread-safe."""

    def __init__(self, path: pathlib.Path, numbers: Callable[[], set[int]]) -> None:
        self._path = path
        self._numbers = numbers
        self._lock = threading.Lock()
        self._opened: dict[int, Opened] = {}
        self._clients: list[Any] = []

    def start(self) -> None:
        """The unix socket is there, whatever a predecessor left; call it once."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self._path))
        self._path.chmod(0o660)
        listener.listen(8)
        concurrency.start("metadata-feed", self._accept, listener)

    def open(self, number: int, network_id: str, namespace: str) -> None:
        """A socket listens in the namespace and whoever serves has it.  Repeating is harmless."""
        identity = namespaces.identity(namespace)
        if identity is None:
            raise FileNotFoundError(namespaces.path(namespace))
        known = self._opened.get(number)
        if known and (known.network_id, known.namespace) == (network_id, identity):
            return
        descriptor = namespaces.inside(namespace, listen)
        with self._lock:
            self._forget(number)
            self._opened[number] = Opened(network_id, identity, descriptor)
            self._tell({"number": number, "network": network_id}, descriptor)

    def close(self, number: int) -> None:
        """No socket of the network is left, here or where it is served."""
        with self._lock:
            self._forget(number)
            self._tell({"number": number})

    def _forget(self, number: int) -> None:
        known = self._opened.pop(number, None)
        if known:
            os.close(known.descriptor)

    def _tell(self, message: dict[str, Any], descriptor: int | None = None) -> None:
        for client in list(self._clients):
            try:
                send(client, message, descriptor)
            except OSError as error:
                LOG.warning("metadata server does not listen (%s): it has to ask again", error)
                self._clients.remove(client)
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: Any) -> None:
        while True:
            client, _ = listener.accept()
            concurrency.start("metadata-feed-client", self._serve, client)

    def _serve(self, client: Any) -> None:
        with contextlib.closing(client):
            with self._lock:
                send(client, {"numbers": sorted(self._numbers())})
                for number, opened in self._opened.items():
                    message = {"number": number, "network": opened.network_id}
                    send(client, message, opened.descriptor)
                self._clients.append(client)
            LOG.info("metadata server connected: it serves %d networks", len(self._opened))
            with contextlib.suppress(OSError):
                client.recv(1)  # it never says anything: this is its end
            with self._lock:
                if client in self._clients:
                    self._clients.remove(client)


def send(client: Any, message: dict[str, Any], descriptor: int | None = None) -> None:
    """One message goes out; OSError when the other end is gone or reads nothing for long."""
    descriptors = array.array("i", [] if descriptor is None else [descriptor])
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
    data = [json.dumps(message).encode()]
    while True:
        try:
            # not waiting in C, which would stop every green thread; socket.send_fds would: it
            # leaves out the flags (Python 3.11)
            client.sendmsg(data, rights, socket.MSG_DONTWAIT)
            return
        except BlockingIOError:
            if not select.select([], [client], [], SEND_S)[1]:
                raise TimeoutError(f"nothing read for {SEND_S:.0f} s") from None


def listen() -> int:
    """A listening socket of the namespace this native thread is in, as a descriptor."""
    made = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        made.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEPORT, 1)
        made.bind((ADDRESS, PORT))
        made.listen(BACKLOG)
        return made.detach()
    except BaseException:
        made.close()
        raise
