"""The fixture `database` on every engine.

`from tests.databases import database` in a test module runs its tests on each of them.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from minicloud.db import migrate, models, session

SERVERS = ("mariadb", "postgresql")  # fixtures of conftest.py, each the URL of an empty database
SEEDED = ("cloud", "flavors")  # by the migrations, once


@pytest.fixture(params=["sqlite", *SERVERS])
def database(
    request: pytest.FixtureRequest, options: Callable[..., None], tmp_path: pathlib.Path
) -> Iterator[str]:
    """An empty cloud's database, once on each engine; its URL."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/minicloud.sqlite"
        options("database", connection=url)
        migrate.sync()
        yield url
        session.forget_engines()
        return
    url = request.getfixturevalue(request.param)
    options("database", connection=url)
    if migrate.version() == "none":
        migrate.sync()
    yield url
    with session.engine().begin() as connection:
        for table in reversed(models.Base.metadata.sorted_tables):
            if table.name not in SEEDED:
                connection.execute(table.delete())
    session.forget_engines()


def another(server: str, name: str) -> str:
    """The URL of a new and empty database of that name on the server, in place of the one there
    was."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {name}")
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    return sa.make_url(server).set(database=name).render_as_string(hide_password=False)
