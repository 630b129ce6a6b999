"""A server that ran out of descriptors serves again when it has some: eventlet's own gives up."""

from __future__ import annotations

import http.client
import pathlib
import socket
import subprocess
import sys
import threading

TOP = pathlib.Path(__file__).resolve().parents[2]
CLIENTS = 60

# says its port, and then every time a connection must wait
SCRIPT = """
from minicloud import concurrency
concurrency.patch()
import logging, os, resource, sys, threading
from oslo_config import cfg
cfg.CONF([], project="minicloud", default_config_files=[])
logging.basicConfig(stream=sys.stdout, level=logging.WARNING, format="%(message)s")

def answer(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]

listener = concurrency.listen("127.0.0.1", 0)
concurrency.serve_wsgi(listener, answer)
few = len(os.listdir("/proc/self/fd")) + 20
resource.setrlimit(resource.RLIMIT_NOFILE, (few, few))
print(listener.getsockname()[1], flush=True)
threading.Event().wait()
"""


def test_a_server_outlives_a_shortage_of_descriptors() -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT]
    with subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        guard = threading.Timer(30, server.kill)
        guard.start()
        try:
            port = int(server.stdout.readline())
            clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(CLIENTS)]
            said = server.stdout.readline()  # empty when the server has ended, or says nothing
            for client in clients:
                client.close()
            assert "a connection waits: [Errno 24]" in said
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/")
            assert connection.getresponse().read() == b"ok"
            connection.close()
        finally:
            guard.cancel()
            server.kill()
