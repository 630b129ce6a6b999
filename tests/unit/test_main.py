"""How the daemons' processes begin, in processes of their own: `main` patches who imports it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys

OPEN = "from minicloud import main; main._http('127.0.0.1', {port}, None)()"


def test_a_taken_port_is_named_with_what_mends_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-c", OPEN.format(port=port)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    assert done.returncode == 1
    said = rf"error: 127\.0\.0\.1 port {port}: .* in use; .*ss -ltnp.*\n"
    assert re.fullmatch(said, done.stderr), done.stderr
