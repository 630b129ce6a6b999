"""A private PostgreSQL for tests."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence

import pytest

from tests.mariadb import START_S

PROGRAMS = pathlib.Path("/usr/lib/postgresql")  # Debian's, a directory for each version
USER = "postgres"  # of the package: a server that root starts refuses
# durability is the business of other tests: here only the order of things counts
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "",
    "max_connections": "1000",
    "shared_buffers": "64MB",
}


def _programs() -> pathlib.Path | None:
    found = sorted(PROGRAMS.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def _as_its_user() -> list[str]:
    if os.geteuid() != 0:
        return []
    return ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]


def _run(command: Sequence[str], path: pathlib.Path) -> subprocess.CompletedProcess[str]:
    argv = [*_as_its_user(), *command]
    return subprocess.run(argv, cwd=path, check=False, capture_output=True, text=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a database on a server that nobody else uses; it ends with the tests."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    path = pathlib.Path(tempfile.mkdtemp(prefix="mc-postgresql-"))
    if os.geteuid() == 0:
        shutil.chown(path, USER)
    # an order of letters that no other engine has: where it matters, the tables say their own
    order = ["--locale=C", "--locale-provider=icu", "--icu-locale=en"]
    install = [f"{programs}/initdb", f"--pgdata={path}/data", "--username=minicloud", "--no-sync"]
    made = _run([*install, "--auth=trust", "--encoding=UTF8", *order], path)
    assert made.returncode == 0, f"{made.stdout}\n{made.stderr}"
    command = [*(_as_its_user() or ["setpriv"]), "--pdeathsig=KILL", f"{programs}/postgres"]
    command += ["-D", f"{path}/data", "-k", str(path)]
    command += [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    with open(path / "log", "wb") as log:
        server = subprocess.Popen(command, cwd=path, stdout=log, stderr=log)
    try:
        until = time.monotonic() + START_S
        create = [f"{programs}/createdb", f"--host={path}", "--username=minicloud", "minicloud"]
        while (made := _run(create, path)).returncode != 0:
            assert server.poll() is None, (path / "log").read_text()
            assert time.monotonic() < until, f"no answer within {START_S} s: {made.stderr}"
            time.sleep(0.05)
        yield f"postgresql+psycopg2://minicloud@/minicloud?host={path}"
    finally:
        server.send_signal(signal.SIGINT)  # its word for: now, and in order
        server.wait(60)
        shutil.rmtree(path)
