"""What a database server does to connections and transactions, and what becomes of it here."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from minicloud import errors
from minicloud.db import health, migrate, models, session
from minicloud.db.session import Tx, reading, transaction
from tests.conftest import InProcessCloud
from tests.databases import SERVERS

Options = Callable[..., None]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, options: Options) -> Iterator[str]:
    """The kind of a server with a cloud's tables that nobody else uses meanwhile."""
    options("database", connection=request.getfixturevalue(request.param))
    if migrate.version() == "none":
        migrate.sync()
    yield request.param
    session.forget_engines()


@pytest.fixture
def impatient(server: str, options: Options) -> None:
    """Nobody waits for more than a second or two."""
    options("database", lock_timeout_s=1.0)
    session.forget_engines()


def grow(tx: Tx, flavor: str) -> None:
    model = models.Flavor
    tx.changed(sa.update(model).where(model.id == flavor).values(disk_gib=model.disk_gib + 1))


@transaction
def grown(tx: Tx) -> None:
    grow(tx, "1")


@transaction
def sizes(tx: Tx) -> list[int]:
    model = models.Flavor
    return list(tx.scalars(sa.select(model.disk_gib).where(model.id < "3").order_by(model.id)))


def done(call: Callable[[], object]) -> bool:
    try:
        call()
    except errors.Unavailable:
        return False
    return True


@pytest.mark.usefixtures("impatient")
def test_a_transaction_that_is_idle_for_too_long_loses_its_locks(server: str) -> None:
    inside, go_on = threading.Event(), threading.Event()

    @transaction
    def idle(tx: Tx) -> None:
        tx.changed(sa.update(models.Flavor).values(disk_gib=0))
        inside.set()
        assert go_on.wait(100)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(idle)
        assert inside.wait(100)
        try:
            InProcessCloud.wait(lambda: done(grown))
        finally:
            go_on.set()
        with pytest.raises(errors.Unavailable):
            asked.result(100)
    assert sizes() != [0, 0]


def test_two_that_wait_for_each_other_both_get_done(server: str) -> None:
    locked = {"1": threading.Event(), "2": threading.Event()}
    before = sizes()

    @transaction
    def both(tx: Tx, first: str, second: str) -> None:
        grow(tx, first)
        locked[first].set()
        assert locked[second].wait(60)
        grow(tx, second)

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(both, "1", "2"), pool.submit(both, "2", "1")]
        for one in asked:
            one.result(100)
    assert sizes() == [size + 2 for size in before]


CONNECTIONS = {
    "mariadb": "SELECT CONCAT('KILL ', id) FROM information_schema.processlist"
    " WHERE id <> connection_id() AND db = database()",
    "postgresql": "SELECT concat('SELECT pg_terminate_backend(', pid, ')')"
    " FROM pg_catalog.pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND datname = current_database()",
}


def test_a_connection_that_the_server_ended_is_replaced_unnoticed(server: str) -> None:
    health.clock()  # its connection is in the pool now
    mine = session.patient_engine()
    with mine.connect() as connection:
        for statement in connection.exec_driver_sql(CONNECTIONS[server]).scalars().all():
            connection.exec_driver_sql(statement)
    mine.dispose()
    health.clock()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", [transaction, reading])
def test_a_server_that_falls_silent_is_given_up_and_not_asked_again(
    server: str, kind: Callable[[Callable[[Tx], None]], Callable[[], None]]
) -> None:
    stopped, runs = [], []

    def asked(tx: Tx) -> None:
        runs.append(tx)
        if server == "postgresql":  # what it would do by itself, it does not do stopped
            stopped.append(tx.scalars(sa.text("SELECT pg_backend_pid()")).one())
            os.kill(stopped[0], signal.SIGSTOP)
        tx.execute(sa.text("SELECT 1" if stopped else "SELECT sleep(100)"))

    try:
        with pytest.raises(errors.Unavailable):
            kind(asked)()
        assert len(runs) == 1
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    health.clock()


def test_a_server_whose_name_is_not_known_is_away(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    options("database", connection="postgresql+psycopg2://minicloud@database.invalid/minicloud")
    with pytest.raises(errors.Unavailable) as refused:
        health.answers()
    assert "database.invalid: " in health.cause(refused.value)
    session.forget_engines()
