"""The venv of the clients: what requirements.txt pins, beside the product's own venv; and who uses
it."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from launcher import venv

PINS = pathlib.Path(__file__).with_name("requirements.txt")
# how pip says that it reached nobody, as against a pin that nobody has
AWAY = re.compile(
    r"Retrying \(|Max retries|Temporary failure|Network is unreachable|ConnectTimeout"
)


class Unreachable(Exception):
    """The package index does not answer."""


def installed() -> pathlib.Path:
    """`install`, for a test: one that cannot reach the package index is skipped."""
    try:
        return install()
    except Unreachable as error:
        pytest.skip(f"the package index cannot be reached: {error}")


def path() -> pathlib.Path:
    own = venv.path()
    return own.with_name(f"{own.name}-clients")


def install() -> pathlib.Path:
    """The venv with exactly the pinned clients; cheap when it is there.

    Two installs take turns; one that was cut short is done again.  Unreachable.
    """
    where = path()
    where.mkdir(mode=0o755, parents=True, exist_ok=True)
    digest = hashlib.sha256(sys.version.encode() + PINS.read_bytes()).hexdigest()
    marker = where / "installed"
    descriptor = os.open(where, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if not marker.exists() or marker.read_text() != digest:
            _run([sys.executable, "-m", "venv", "--clear", str(where)])
            pip = [str(where / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q"]
            _run([*pip, "install", "--retries", "2", "--timeout", "15", "-r", str(PINS)])
            marker.write_text(digest)
    finally:
        os.close(descriptor)
    return where


def _run(argv: list[str]) -> None:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode == 0:
        return
    said = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
    if AWAY.search(done.stdout + done.stderr):
        raise Unreachable(said)
    raise AssertionError(f"{' '.join(argv[:5])} … ended with {done.returncode}:\n{said}")


@dataclasses.dataclass(frozen=True)
class User:
    """Somebody at a shell who has sourced the cloud's novarc, and nothing else."""

    venv: pathlib.Path
    home: pathlib.Path
    novarc: dict[str, str]

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program, the venv's if it has it; `more` are environment variables."""
        return subprocess.run(
            words,
            env={
                **self.novarc,
                "PATH": f"{self.venv}/bin:/usr/bin:/bin",
                "HOME": str(self.home),
                "LANG": "C.UTF-8",
                **more,
            },
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def says(self, *words: str) -> str:
        """What the program prints; it must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def json(self, *words: str) -> Any:
        """What the program prints, as JSON; None for nothing."""
        said = self.says(*words)
        return json.loads(said) if said.strip() else None

    def fails(self, *words: str) -> str:
        """What the program says on stderr; it must fail."""
        done = self.run(*words)
        assert done.returncode != 0, f"{shlex.join(words)} succeeded:\n{done.stdout}"
        return done.stderr

    def python(self, text: str) -> None:
        """Run a Python program of asserts in the clients' venv; all of them hold."""
        done = self.run("python", "-W", "ignore", "-c", textwrap.dedent(text))
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
