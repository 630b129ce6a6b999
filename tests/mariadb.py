"""A private MariaDB for tests."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator

import pymysql
import pytest

SERVER = "/usr/sbin/mariadbd"
START_S = 120
NO_AIO = "--innodb-use-native-aio=0"  # the machine's rings are counted, and others use them too


def _ready(socket: pathlib.Path, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_S
    while True:
        try:
            pymysql.connect(user="root", unix_socket=str(socket)).close()
        except pymysql.err.OperationalError:
            assert server.poll() is None, "mariadbd ended at once: see its log"
            assert time.monotonic() < until, f"mariadbd does not answer within {START_S} s"
            time.sleep(0.05)
        else:
            return


@pytest.fixture(scope="session")
def mariadb() -> Iterator[str]:
    """The URL of a database on a server that nobody else uses; it ends with the tests."""
    if not shutil.which(SERVER) or not shutil.which("mariadb-install-db"):
        pytest.skip("mariadbd is not installed (Debian package mariadb-server)")
    path = pathlib.Path(tempfile.mkdtemp(prefix="mc-mariadb-"))
    user = "--user=root"
    install = ["mariadb-install-db", "--no-defaults", user, f"--datadir={path}/data"]
    install += ["--auth-root-authentication-method=normal", "--skip-test-db", NO_AIO]
    # a server that starts empties its directory for temporary files: not one that others use
    own = {**os.environ, "TMPDIR": str(path)}
    made = subprocess.run(install, env=own, check=False, capture_output=True, text=True)
    assert made.returncode == 0, f"{made.stdout}\n{made.stderr}"
    # durability is the business of other tests: here only the order of things counts
    command = ["setpriv", "--pdeathsig", "KILL", SERVER, "--no-defaults", user]
    command += [f"--datadir={path}/data", f"--socket={path}/socket", f"--pid-file={path}/pid"]
    command += ["--skip-networking", "--skip-log-bin", "--innodb-buffer-pool-size=64M"]
    command += ["--innodb-flush-log-at-trx-commit=0", "--performance-schema=off", NO_AIO]
    with open(path / "log", "wb") as log:
        server = subprocess.Popen(command, env=own, stdout=log, stderr=log)
    try:
        _ready(path / "socket", server)
        with pymysql.connect(user="root", unix_socket=f"{path}/socket") as connection:
            connection.cursor().execute("CREATE DATABASE minicloud")
        yield f"mysql+pymysql://root@localhost/minicloud?unix_socket={path}/socket"
    finally:
        server.terminate()
        server.wait(60)
        shutil.rmtree(path)
