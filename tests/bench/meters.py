"""What a running cloud has used: CPU, memory, SQL statements, messages."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
import subprocess
import time

import pymysql
import sqlalchemy as sa

from minicloud.processes import DAEMONS
from tests.integration.running import RunningCloud

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
SERVANTS = ("rabbitmq", "mariadb")


@dataclasses.dataclass(frozen=True)
class Used:
    """Since the cloud began; the difference of two is what happened between."""

    wall_s: float
    cpu_s: dict[str, float]  # of each process
    statements: int
    messages: int

    def __sub__(self, earlier: Used) -> Used:
        return Used(
            self.wall_s - earlier.wall_s,
            {name: self.cpu_s[name] - earlier.cpu_s[name] for name in self.cpu_s},
            self.statements - earlier.statements,
            self.messages - earlier.messages,
        )

    @property
    def cpu_ms(self) -> float:
        """Of all of them together."""
        return 1000 * sum(self.cpu_s.values())


class Meters:
    """Reads what a cloud on RabbitMQ and MariaDB has used; its own questions do not count."""

    def __init__(self, cloud: RunningCloud) -> None:
        self.cloud = cloud
        url = sa.make_url(cloud.made.option("database", "connection"))
        self._server = pymysql.connect(
            host=url.host,
            port=url.port or 0,
            user=url.username,
            password=url.password or "",
            database=url.database,
            autocommit=True,
        )
        self._mine = 0

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """The database's answer, which is not counted."""
        with self._server.cursor() as cursor:
            cursor.execute(query)
            self._mine += 1
            return list(cursor.fetchall())

    def read(self) -> Used:
        """All of it up to now."""
        messages = self._messages()
        [(_, statements)] = self.rows("SHOW GLOBAL STATUS LIKE 'Questions'")
        return Used(
            time.monotonic(),
            {name: cpu_s(pid) for name, pid in self.pids().items()},
            int(str(statements)) - self._mine,
            messages,
        )

    def pids(self) -> dict[str, int]:
        """Of the daemons, the broker and the database."""
        names = [one.name for one in DAEMONS] + list(SERVANTS)
        return {name: pid for name in names if (pid := self.cloud.pid(name)) is not None}

    def pss_mib(self) -> dict[str, float]:
        """The memory that is each process's own share."""
        return {name: pss_mib(pid) for name, pid in self.pids().items()}

    def _messages(self) -> int:
        """What was published to the broker since it began (its global counters)."""
        home = self.cloud.state / "rabbitmq"
        said = subprocess.run(
            [
                *("setpriv", f"--reuid={home.stat().st_uid}", "--clear-groups"),
                *("/usr/lib/rabbitmq/bin/rabbitmqctl", "-q", "-n", self._node(), "-l", "eval"),
                "rabbit_global_counters:overview().",
            ],
            env={
                "HOME": str(home),
                "PATH": os.environ["PATH"],
                "ERL_EPMD_PORT": str(self.cloud.made.variables.port("rabbitmq-epmd")),
                "RABBITMQ_CONF_ENV_FILE": "/dev/null",
                "LANG": "C.UTF-8",
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        protocol = said.partition("{protocol,amqp091}")[2]
        found = re.search(r"messages_received_total => (\d+)", protocol or said)
        assert found, f"the broker does not count: {said}"
        return int(found[1])

    def _node(self) -> str:
        return f"mc{self.cloud.made.tag}@127.0.0.1"


def cpu_s(pid: int) -> float:
    """User and system time of a process and of its children that have ended (proc(5), stat)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) * TICK_S


def pss_mib(pid: int) -> float:
    """proc(5), smaps_rollup."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
    assert found
    return int(found[1]) / 1024
