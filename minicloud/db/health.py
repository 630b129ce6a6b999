"""What the database says about itself, for `doctor`."""

from __future__ import annotations

import datetime as dt
import pathlib
from collections.abc import Sequence

import sqlalchemy as sa
from alembic import migration

from minicloud import context, errors
from minicloud.db import networks, session
from minicloud.db.models import Network
from minicloud.db.session import Tx, once, reading, transaction


def engine() -> str:
    """sqlite, mysql or postgresql."""
    return str(sa.make_url(session.CONF.connection).get_backend_name())


def file() -> pathlib.Path | None:
    """SQLite's file; None when the database is a server."""
    name = sa.make_url(session.CONF.connection).database
    return pathlib.Path(name or "") if engine() == "sqlite" else None


def place() -> str:
    """Where the database is, without its password."""
    return str(file() or sa.make_url(session.CONF.connection).render_as_string())


@reading
def answers(tx: Tx) -> str:
    """Its version; Unavailable, whose cause is the engine's own error."""
    function = "sqlite_version()" if engine() == "sqlite" else "version()"
    return str(tx.scalars(sa.text(f"SELECT {function}")).one())


def takes_writes() -> None:
    """Returns when a transaction could have been committed; it was taken back."""
    try:
        _written(context.admin())
    except errors.DryRun:
        return


@transaction
def _written(tx: Tx, ctx: context.Context) -> None:
    once(tx, ctx, "doctor", None, None)
    tx.dry_run = True


def cause(error: BaseException) -> str:
    """In the engine's own words, what stood behind an Unavailable."""
    behind = getattr(error.__cause__, "orig", None)
    return str(behind or error)


@reading
def schema(tx: Tx) -> str | None:
    """The version of the schema, None without one."""
    return migration.MigrationContext.configure(tx.connection()).get_current_revision()


@reading
def clock(tx: Tx) -> dt.datetime:
    """The database's time, UTC."""
    return session.clock(tx).replace(tzinfo=dt.UTC)


@reading
def settings(tx: Tx, names: Sequence[str]) -> dict[str, str]:
    """These variables of the engine, as it shows them; one it does not know is left out."""
    if engine() == "sqlite":
        return {name: str(tx.scalars(sa.text(f"PRAGMA {name}")).one()) for name in names}
    listing = (
        "SHOW GLOBAL VARIABLES"
        if engine() == "mysql"
        else "SELECT name, setting FROM pg_catalog.pg_settings"
    )
    found = {str(row[0]).lower(): str(row[1]) for row in tx.execute(sa.text(listing))}
    return {name: found[name] for name in names if name in found}


@reading
def networks_of(tx: Tx, host: str) -> list[Network]:
    """The networks this host serves, by number."""
    return sorted(networks.of_host(tx, host), key=lambda network: network.number)
