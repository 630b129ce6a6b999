"""Ports: a taken one is refused with its owner named."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from launcher import ports
from launcher.report import Refused


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_taken_port_is_refused_with_the_pid_and_program_of_its_owner(taken):
    with pytest.raises(Refused) as refused:
        ports.require_free("127.0.0.1", taken, "api")
    assert f"port {taken}" in refused.value.cause
    assert f"pid {os.getpid()} (" in refused.value.cause


def test_a_free_port_is_fine(taken):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    ports.require_free("127.0.0.1", port, "api")


def test_an_address_this_machine_does_not_have_is_refused():
    with pytest.raises(Refused, match="no such address"):
        ports.require_free("192.0.2.251", 8773, "api")


def test_the_owners_command_line_cannot_steer_the_terminal():
    script = (
        "import socket, sys\n"
        "made = socket.create_server(('127.0.0.1', 0))\n"
        "print(made.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    argv = [sys.executable, "-c", script, "\x1b[2J"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        shown = ports.owner(int(other.stdout.readline()))
        other.kill()
    assert shown.startswith(f"pid {other.pid} ")
    assert shown.isprintable()
