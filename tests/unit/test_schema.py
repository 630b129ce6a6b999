"""The schema that the migrations make is the one the models declare, on every engine."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import autogenerate, migration

from minicloud.db import migrate, models, session
from tests.databases import database

__all__ = ["database"]  # a fixture: each test runs on every engine


def test_the_migrations_make_what_the_models_declare(database: str) -> None:
    with session.engine().connect() as connection:
        made = migration.MigrationContext.configure(connection, opts={"compare_type": True})
        assert autogenerate.compare_metadata(made, models.Base.metadata) == []


def test_sync_can_be_repeated(database: str) -> None:
    assert migrate.sync() == migrate.version()
    with session.engine().connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM cloud")) == 1
        assert connection.scalar(sa.text("SELECT count(*) FROM flavors")) == 6


def test_a_sync_that_was_cut_short_is_finished_by_the_next(database: str) -> None:
    with session.engine().begin() as connection:
        connection.execute(sa.text("DROP TABLE group_members"))
        name = "ix_events_at"
        on = " ON events" if connection.dialect.name == "mysql" else ""
        connection.execute(sa.text(f"DROP INDEX {name}{on}"))
        connection.execute(sa.text("DELETE FROM alembic_version"))
    migrate.sync()
    inspector = sa.inspect(session.engine())
    assert inspector.has_table("group_members")
    assert name in {index["name"] for index in inspector.get_indexes("events")}


def test_text_is_in_the_order_of_its_bytes(database: str) -> None:
    words = ["a", "B", "ab", "a-c", "\N{LATIN SMALL LETTER E WITH ACUTE}", "_"]
    user = {"is_admin": False, "secret": "", "token_epoch": 1}
    with session.engine().connect() as connection:
        rows = [
            user | {"id": ascii(word), "access_key": ascii(word), "name": word} for word in words
        ]
        connection.execute(sa.insert(models.User), rows)
        for column in (models.User.id, models.User.name):
            found = list(connection.scalars(sa.select(column).order_by(column)))
            assert found == sorted(found)
        connection.rollback()
