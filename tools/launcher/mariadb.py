"""This cloud's own MariaDB (USE_MYSQL=1): one server on one address and a socket, one database."""

from __future__ import annotations

import os
import secrets
import subprocess
import urllib.parse

from launcher import files
from launcher.report import Failure, say
from launcher.services import Service, rights
from launcher.state import Cloud
from launcher.variables import Variables
from minicloud import processes

DATABASE = "minicloud"
CONNECTIONS = 2000  # a lab of fifty hosts has 150 daemons, with about ten each
INSTALL = (
    'rm -rf "$1" && exec mariadb-install-db --no-defaults --datadir="$1"'
    " --auth-root-authentication-method=socket --skip-test-db"
)


def service(cloud: Cloud) -> Service:
    """How the server is started."""
    home, port = cloud.state.mariadb, cloud.variables.port("mariadb")
    address = cloud.variables.servants_ip
    return Service(
        processes.named("mariadb"),
        [
            "/usr/sbin/mariadbd",
            "--no-defaults",
            f"--datadir={home / 'data'}",
            f"--tmpdir={home / 'tmp'}",  # a server that starts empties the one it has
            f"--socket={home / 'sock'}",
            f"--pid-file={home / 'pid'}",
            f"--init-file={home / 'init.sql'}",
            f"--bind-address={address}",
            f"--port={port}",
            "--skip-log-bin",
            "--skip-name-resolve",
            f"--max-connections={CONNECTIONS}",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=1",
            "--performance-schema=off",
        ],
        ports=[(address, port)],
        prepare=lambda: prepare(cloud),
    )


def new_url(values: Variables) -> str:
    """A URL for SQLAlchemy; an empty MYSQL_PASS stands for one that is drawn."""
    word = urllib.parse.quote(values.mysql_pass or secrets.token_urlsafe(24), safe="")
    place = f"{values.servants_ip}:{values.port('mariadb')}"
    return f"mysql+pymysql://minicloud:{word}@{place}/{DATABASE}?charset=utf8mb4"


def prepare(cloud: Cloud) -> None:
    """The data directory is there and the next start makes user and database."""
    uid, gid = files.owner()
    files.directory(cloud.state.mariadb, 0o750, uid=uid, gid=gid)
    files.directory(cloud.state.mariadb / "tmp", 0o700, uid=uid, gid=gid)
    _install(cloud)
    url = urllib.parse.urlsplit(cloud.option("database", "connection"))
    password = urllib.parse.unquote(url.password or "").replace("\\", "\\\\").replace("'", "''")
    user = f"minicloud@'{_clients(cloud)}'"
    statements = [
        f"CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4",
        f"CREATE USER IF NOT EXISTS {user} IDENTIFIED BY '{password}'",
        f"ALTER USER {user} IDENTIFIED BY '{password}'",
        f"GRANT ALL ON {DATABASE}.* TO {user}",
        "ALTER USER root@localhost IDENTIFIED VIA unix_socket",
    ]
    text = "".join(f"{statement};\n" for statement in statements)
    files.write(cloud.state.mariadb / "init.sql", text, 0o600, uid=uid, gid=gid)


def _clients(cloud: Cloud) -> str:
    """Where the daemons may come from: this machine, or a lab's own network."""
    if not cloud.variables.lab:
        return "127.0.0.1"
    return cloud.variables.management.with_netmask


def _install(cloud: Cloud) -> None:
    """A half made data directory of an interrupted install is made again."""
    data = cloud.state.mariadb / "data"
    done = cloud.state.mariadb / "installed"
    if done.exists():
        return
    say("making the database server's files")
    uid, gid = files.owner()
    made = subprocess.run(
        [
            *rights(processes.named("mariadb"), real=False),
            "/bin/sh",
            "-c",
            INSTALL,
            "sh",
            str(data),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": os.devnull,
            "TMPDIR": str(cloud.state.mariadb / "tmp"),
        },
        check=False,
    )
    if made.returncode != 0:
        raise Failure(f"mariadb-install-db ended with {made.returncode}: {made.stderr[-500:]}")
    files.write(done, "", 0o600, uid=uid, gid=gid)
