"""Bring the database's schema to this release's: alembic, one linear history.

A migration only adds, one guarded statement each, so `sync` may be interrupted anywhere and
repeated, and daemons of the release before go on working (DESIGN section 12, rule 14).
"""

from __future__ import annotations

import pathlib
from typing import Any

import sqlalchemy as sa
from alembic import command, migration, op
from alembic.config import Config
from alembic.script import ScriptDirectory

from minicloud.db import session


def _alembic() -> Config:
    made = Config()
    made.set_main_option("script_location", str(pathlib.Path(__file__).parent / "migrations"))
    return made


def sync() -> str:
    """The schema is the newest and the seeds are there; returns its version.

    Repeating changes nothing.  Two at a time wait for each other or fail cleanly.
    """
    made, engine = _alembic(), session.patient_engine()
    with engine.connect() as connection:
        made.attributes["connection"] = connection
        command.upgrade(made, "head")
        connection.commit()
    engine.dispose()
    return version()


def version() -> str:
    """The version of the database's schema; "none" when it has none yet."""
    with session.engine().connect() as connection:
        found: Any = migration.MigrationContext.configure(connection).get_current_revision()
        connection.rollback()
    return found or "none"


def releases() -> list[str]:
    """Every version of the schema this release knows, the newest first."""
    scripts = ScriptDirectory.from_config(_alembic())
    return [script.revision for script in scripts.walk_revisions()]


def add_column(table: str, column: sa.Column[Any]) -> None:
    """The table has the column, also when a killed migration had added it (for migrations)."""
    known = {one["name"] for one in sa.inspect(op.get_bind()).get_columns(table)}
    if column.name not in known:
        op.add_column(table, column)


def create_table(name: str, *items: Any) -> None:
    """The table and each of its indexes are there: what a killed migration had made is left as
    it is (for migrations; DDL is not transactional on MariaDB)."""
    inspector = sa.inspect(op.get_bind())
    indexes = [item for item in items if isinstance(item, sa.Index)]
    if not inspector.has_table(name):
        op.create_table(
            name,
            *(item for item in items if not isinstance(item, sa.Index)),
            mysql_engine="InnoDB",
            mysql_charset="utf8mb4",
        )
    for index in indexes:
        add_index(name, index)


def add_index(table: str, index: sa.Index) -> None:
    """The table has the index, also when a killed migration had made it (for migrations)."""
    known = {one["name"] for one in sa.inspect(op.get_bind()).get_indexes(table)}
    if index.name not in known:
        columns = [str(column) for column in index._pending_colargs]
        op.create_index(index.name, table, columns, unique=index.unique)
