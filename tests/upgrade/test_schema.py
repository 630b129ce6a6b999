"""The database of the release before becomes this one's, whatever interrupts that, and both write
to it."""

from __future__ import annotations

import copy
import itertools
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import autogenerate, command, migration

from minicloud.db import migrate, models, session
from tests.databases import SERVERS, another
from tests.integration.running import TOP
from tests.upgrade import before, keep


@pytest.fixture(params=["sqlite", *SERVERS])
def empty(
    request: pytest.FixtureRequest, options: Callable[..., None], tmp_path: pathlib.Path
) -> Iterator[str]:
    """The URL of a database without a table, once on each engine."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/minicloud.sqlite"
        options("database", connection=url)
        yield url
        session.forget_engines()
        return
    url = another(request.getfixturevalue(request.param), "upgrade")
    options("database", connection=url)
    yield url
    session.forget_engines()


@pytest.fixture
def old(empty: str) -> str:
    """A database of the release before, with its rows."""
    alembic, engine = migrate._alembic(), session.patient_engine()
    with engine.connect() as connection:
        alembic.attributes["connection"] = connection
        command.upgrade(alembic, before.SCHEMA["revision"])
        before.write(connection, before.rows(1))
        connection.commit()
    engine.dispose()
    return empty


def differences() -> list[Any]:
    """What of the database is not as the models declare it."""
    with session.engine().connect() as connection:
        made = migration.MigrationContext.configure(connection, opts={"compare_type": True})
        return list(autogenerate.compare_metadata(made, models.Base.metadata))


def changes(kept: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What of an older schema is not as it was, or would refuse what that release writes."""
    for name, table in kept["tables"].items():
        found = now["tables"].get(name)
        if found is None:
            yield f"the table {name} is gone"
            continue
        columns = table["columns"]
        for column, text in columns.items():
            if found["columns"].get(column) != text:
                yield f"{name}.{column} was {text} and is {found['columns'].get(column)}"
        for column in set(found["columns"]) - set(columns):
            text = found["columns"][column]
            if "NOT NULL" in text and "DEFAULT" not in text:
                yield f"{name}.{column} is new, and must be null or have a server default"
        if found["key"] != table["key"]:
            yield f"{name} has another key: {found['key']}"
        for unique in found["unique"]:
            if unique not in table["unique"] and set(unique) <= set(columns):
                yield f"{name}: {unique} need not be unique before"
        for column, target in found["references"].items():
            if column in columns and table["references"].get(column) != target:
                yield f"{name}.{column} need not be a {target} before"


def test_a_released_migration_makes_what_it_made_when_it_was_released(old: str) -> None:
    with session.engine().connect() as connection:
        if connection.dialect.name == "sqlite":  # whose words are kept
            assert keep.schema(connection) == before.SCHEMA
        inspector = sa.inspect(connection)
        for name, table in before.SCHEMA["tables"].items():
            found = inspector.get_columns(name)
            assert {one["name"]: one["nullable"] for one in found} == {
                column: "NOT NULL" not in text for column, text in table["columns"].items()
            }


def test_the_rows_of_the_release_before_arrive_in_this_ones_schema(old: str) -> None:
    migrate.sync()
    assert differences() == []
    with session.engine().connect() as connection:
        assert before.missing(connection, before.rows(1)) == []


def test_what_the_release_before_writes_is_taken_after_the_sync(old: str) -> None:
    migrate.sync()
    with session.engine().connect() as connection:
        before.write(connection, before.rows(2))
        for number in (1, 2):
            assert before.missing(connection, before.rows(number)) == []
        connection.rollback()


def test_a_migration_only_adds(options: Callable[..., None], tmp_path: pathlib.Path) -> None:
    options("database", connection=f"sqlite:///{tmp_path}/minicloud.sqlite")
    migrate.sync()
    with session.engine().connect() as connection:
        assert list(changes(before.SCHEMA, keep.schema(connection))) == []
    session.forget_engines()


def test_whatever_does_more_than_add_is_told() -> None:
    def told(change: Callable[[dict[str, Any]], Any]) -> list[str]:
        now = copy.deepcopy(before.SCHEMA)
        change(now["tables"])
        return list(changes(before.SCHEMA, now))

    def hosts(tables: dict[str, Any], **columns: str) -> None:
        tables["hosts"]["columns"] |= columns

    assert told(lambda tables: tables.update(more={"columns": {"id": "INTEGER NOT NULL"}})) == []
    assert told(lambda tables: hosts(tables, a="INTEGER", b="INTEGER NOT NULL DEFAULT")) == []
    assert told(lambda tables: tables["hosts"]["unique"].append(["new"])) == []
    assert told(lambda tables: tables.pop("tags")) == ["the table tags is gone"]
    for change, word in (
        (lambda tables: tables["hosts"]["columns"].pop("zone"), "hosts.zone was"),
        (lambda tables: hosts(tables, zone="TEXT NOT NULL"), "and is TEXT NOT NULL"),
        (lambda tables: hosts(tables, new="TEXT NOT NULL"), "hosts.new is new, and must be null"),
        (lambda tables: tables["hosts"].update(key=["host"]), "hosts has another key"),
        (lambda tables: tables["hosts"]["unique"].append(["host"]), "need not be unique before"),
        (lambda tables: tables["tags"]["references"].update(kind="a.b"), "need not be a a.b"),
    ):
        [one] = told(change)
        assert word in one


def test_a_first_sync_that_is_killed_at_any_statement_goes_on_when_it_is_run_again(
    empty: str,
) -> None:
    assert len(list(cuts(empty))) > 2
    assert_synced({})


def test_an_upgrade_that_is_killed_at_any_statement_goes_on_when_it_is_run_again(
    old: str,
) -> None:
    assert len(list(cuts(old))) > 2
    assert_synced(before.rows(1))


def assert_synced(rows: before.Rows) -> None:
    """The schema is this release's; the seeds are there once, and so are these rows."""
    assert differences() == []
    assert migrate.version() == migrate.releases()[0]
    with session.engine().connect() as connection:
        assert before.missing(connection, rows) == []
        for table, seeds in {"cloud": 1, "flavors": 6}.items():
            count = connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))
            assert count == seeds + len(rows.get(table, ()))


def cuts(url: str) -> Iterator[object]:
    """Sync again and again, killed ever later, until one comes to its end; what the database
    looked like after each that was cut."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.upgrade.cutting", url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=TOP,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        last, number = looks(), 0
        for _ in itertools.count():
            number += 1
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            how = process.stdout.readline().strip()
            if how == "done":
                break
            assert how == "cut"
            now = looks()
            if now != last:  # the next one has this behind it, and comes to a new place at once
                last, number = now, 1
            yield now
        process.stdin.close()


LOOK = {
    "sqlite": ["SELECT name, sql FROM sqlite_master"],
    "mysql": [
        f"SELECT table_name, {name} FROM information_schema.{kind} WHERE table_schema = DATABASE()"
        for kind, name in (("columns", "column_name"), ("statistics", "index_name"))
    ],
    "postgresql": [
        f"SELECT {names} FROM {place} = 'public'"
        for names, place in (
            ("table_name, column_name", "information_schema.columns WHERE table_schema"),
            ("tablename, indexname", "pg_catalog.pg_indexes WHERE schemaname"),
        )
    ],
}


def looks() -> object:
    """What a sync changes of the database."""
    with session.engine().connect() as connection:
        queries = LOOK[connection.dialect.name]
        shape = [sorted(map(tuple, connection.execute(sa.text(text)))) for text in queries]
        tables = {row[0] for row in shape[0]}
        data = [
            sorted(map(str, connection.execute(sa.text(f"SELECT * FROM {name}"))))
            for name in ("alembic_version", "cloud", "flavors")
            if name in tables
        ]
        connection.rollback()
    return shape, data
