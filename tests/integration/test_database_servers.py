"""A cloud on a database server of its own (USE_MYSQL=1): made, cleaned, run again, scrubbed; and
what is seen while the server is not there, or stands still."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa

from launcher import bring_up, services
from launcher import state as states
from minicloud import processes
from tests.integration.doors import (
    ACCEPTED,
    HOSTS_WORK,
    READS,
    S3_WRITES,
    STORED,
    Doors,
    Refused,
)
from tests.integration.running import RunningCloud, emptied, free_offset, run, state, wait

pytestmark = pytest.mark.timeout(600)

EVERYTHING = tuple(dict.fromkeys([*ACCEPTED, *READS, *S3_WRITES, *STORED, *HOSTS_WORK]))
AWAY = Refused(503, "The cloud cannot do this now: the database does not answer or is too busy")
LOCK_S = 3.0  # that a transaction waits for a lock; twice that for a silent server


class ServedCloud(RunningCloud):
    """A cloud whose rows are on a MariaDB of its own."""

    @property
    def made(self) -> states.Cloud:
        found = states.cloud(states.State(self.state), {})
        assert found is not None
        return found

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """A look into the cloud's database."""
        url = sa.make_url(self.made.option("database", "connection"))
        place = {"host": url.host, "port": url.port or 0, "database": url.database}
        with pymysql.connect(**place, user=url.username, password=url.password or "") as link:
            cursor = link.cursor()
            cursor.execute(query)
            return list(cursor.fetchall())


def bring_up_anew(cloud: ServedCloud) -> None:
    """It is made, and up; it sweeps every second and waits for nobody for long."""
    cloud.command("run_detached")
    cloud.set_option("work", "sweep_s", 1)
    cloud.set_option("daemon", "heartbeat_s", 0.5)
    cloud.set_option("database", "lock_timeout_s", LOCK_S)
    cloud.command("restart")


@pytest.fixture(scope="module")
def served() -> Iterator[ServedCloud]:
    """Nothing is left of it afterwards."""
    # a short path: unix sockets lie below it
    place = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    place.chmod(0o755)  # the daemons have a user of their own
    settings = {"CONNECTION_TYPE": "simulated", "USE_MYSQL": "1"}
    made = ServedCloud(place / "state", **settings, PORT_OFFSET=str(free_offset()))
    try:
        yield made
    finally:
        made.command("scrub", "--all", check=False)
        shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def cloud(served: ServedCloud) -> ServedCloud:
    """Whole and without an instance."""
    if not served.state.exists():
        bring_up_anew(served)
    emptied(served)
    return served


def test_each_daemon_may_be_started_before_its_broker_and_database(cloud: ServedCloud) -> None:
    cloud.command("stop")
    everything = {one.name: one for one in bring_up.services_of(cloud.made)}
    daemons = [everything[one.name] for one in processes.DAEMONS]
    before = {one.name: len(cloud.log(one.name)) for one in daemons}

    def said(name: str, words: str) -> bool:
        return words in cloud.log(name)[before[name] :]

    starting = services.begin(cloud.made, daemons)
    try:
        wait(lambda: said("api", "ready"))
        for name in ("scheduler", "compute", "network", "volume", "objectstore"):
            wait(lambda name=name: said(name, "waits: "), what=f"{name} says what it waits for")  # type: ignore[misc]
        ec2 = cloud.ec2()
        with pytest.raises(Exception, match="the database does not answer"):
            ec2.describe_instances()
        cloud.start("mariadb")
        first: list[str] = []

        def accepted() -> bool:
            with contextlib.suppress(ec2.exceptions.ClientError):
                first.append(run(ec2))
            return bool(first)

        wait(accepted, what="an instance is accepted without a broker")
        cloud.start("rabbitmq")
        services.wait(cloud.made, starting)
    finally:
        services.forget(cloud.made, starting)
    wait(lambda: state(ec2, first[0]) == "running")
    assert cloud.command("status").returncode == 0


@pytest.mark.parametrize("how", ["killed", "standing still"])
def test_while_the_server_is_away_all_is_refused_and_afterwards_all_is_done(
    cloud: ServedCloud, how: str
) -> None:
    doors = Doors(cloud)
    assert doors.refused_of(EVERYTHING) == {}
    pid = cloud.pid("mariadb")
    assert pid is not None
    if how == "killed":
        cloud.kill("mariadb")
    else:
        os.kill(pid, signal.SIGSTOP)
    try:
        assert doors.refused_of(EVERYTHING) == dict.fromkeys(EVERYTHING, AWAY)
        refused = cloud.command("manage", "service", "list", check=False)
        assert refused.returncode == 1
        assert "the database does not answer" in refused.stderr
    finally:
        if how == "killed":
            cloud.start("mariadb")
        else:
            os.kill(pid, signal.SIGCONT)
    wait(lambda: doors.refused_of(EVERYTHING) == {}, what="all is accepted again")
    wait(doors.settled, what="all that was accepted before and after is done")
    doors.give_back()


def test_clean_keeps_the_data_and_scrub_leaves_nothing(cloud: ServedCloud) -> None:
    ec2 = cloud.ec2()
    id = run(ec2)
    wait(lambda: state(ec2, id) == "running")
    tables = cloud.rows("SELECT COUNT(*) FROM instances")
    cloud.command("clean")
    assert os.listdir(cloud.state / "run") == []
    assert cloud.command("scrub", "--list").stdout == ""
    cloud.command("run_detached")
    assert cloud.rows("SELECT COUNT(*) FROM instances") == tables
    assert state(cloud.ec2(), id) == "running"
    refused = cloud.command("run_detached", check=False, environment={"USE_MYSQL": "0"})
    assert refused.returncode == 1
    assert "USE_MYSQL=1" in refused.stderr

    pid = cloud.pid("mariadb")
    assert pid is not None
    cloud.command("scrub")
    assert cloud.pid("mariadb") is None
    assert cloud.command("scrub", "--list").stdout == ""
    assert (cloud.state / "mariadb").exists()
    cloud.command("scrub", "--all")
    assert not cloud.state.exists()
