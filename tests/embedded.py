"""`minicloud-all` in a process of its own: a whole cloud in two seconds."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import boto3
from botocore import config

TOP = pathlib.Path(__file__).resolve().parents[1]
PROGRAM = TOP / "bin" / "minicloud-all"
PORTS = (8773, 3333, 5000, 8774, 9292)


def free_offset(start: int) -> int:
    """A --port-offset at which no port is taken; each worker of the tests looks elsewhere."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
    for offset in range(start + 1000 * worker, start + 1000 * worker + 1000, 7):
        with contextlib.suppress(OSError):
            for port in PORTS:
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
            return offset
    raise AssertionError("no free ports")


class Embedded:
    """One `minicloud-all` on a state directory; `said` are the lines it printed."""

    def __init__(
        self, state: pathlib.Path, offset: int, *words: str, program: pathlib.Path = PROGRAM
    ) -> None:
        self.state = state
        self.offset = offset
        self.said: list[str] = []
        argv = [str(program), "--state", str(state), "--port-offset", str(offset), *words]
        self.process = subprocess.Popen(
            [sys.executable, *argv],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )
        guard = threading.Timer(60, self.process.kill)
        guard.start()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith(". "):
                break
        guard.cancel()

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        with self.process:
            return self.process.wait(30)

    @property
    def log(self) -> str:
        return (self.state / "minicloud.log").read_text()

    @property
    def environment(self) -> dict[str, str]:
        """What the line to source gives a shell."""
        shown = subprocess.run(
            ["/bin/bash", "-c", f"{self.said[-1]} && env -0"],
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        return dict(line.split("=", 1) for line in shown.split("\0") if "=" in line)

    def ec2(self) -> Any:
        """An unmodified boto3 client of this cloud's EC2 API, which asks once."""
        return self._client("ec2", read_timeout=30)

    def s3(self) -> Any:
        """The same of its S3."""
        return self._client("s3", read_timeout=60, s3={"addressing_style": "path"})

    def _client(self, service: str, **options: Any) -> Any:
        given = self.environment
        return boto3.client(
            service,
            endpoint_url=given[f"AWS_ENDPOINT_URL_{service.upper()}"],
            region_name=given["AWS_DEFAULT_REGION"],
            aws_access_key_id=given["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=given["AWS_SECRET_ACCESS_KEY"],
            config=config.Config(retries={"total_max_attempts": 1}, **options),
        )

    def manage(self, *words: str) -> Any:
        done = subprocess.run(
            [
                *(sys.executable, str(TOP / "bin" / "minicloud-manage")),
                *("--config-file", str(self.state / "minicloud.conf"), *words, "--json"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)
