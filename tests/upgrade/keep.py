"""Writes down what daemons of a release say to each other and to the database.

`PYTHONPATH=CHECKOUT python tests/upgrade/keep.py` makes `schema.json` and `interfaces.json` beside
this file anew, as those of the release in CHECKOUT: once, when a release is finished.
"""

from __future__ import annotations

import inspect
import json
import pathlib
import tempfile
from typing import Any

import sqlalchemy as sa
from oslo_config import cfg

from minicloud import context, interfaces
from minicloud.db import migrate

HERE = pathlib.Path(__file__).parent


def schema(connection: sa.Connection) -> dict[str, Any]:
    """The tables of the database and the version of its schema.

    The types are SQLite's, which has a word for each of the models' and none of its own.
    """
    inspector = sa.inspect(connection)
    tables = {name: table(inspector, name) for name in sorted(inspector.get_table_names())}
    del tables["alembic_version"]
    [revision] = connection.scalars(sa.text("SELECT version_num FROM alembic_version"))
    return {"revision": revision, "tables": tables}


def table(inspector: sa.Inspector, name: str) -> dict[str, Any]:
    """Its columns and what binds them; indexes bind nobody."""
    columns = {
        column["name"]: str(column["type"])
        + ("" if column["nullable"] else " NOT NULL")
        + ("" if column["default"] is None else " DEFAULT")
        for column in inspector.get_columns(name)
    }
    uniques = inspector.get_unique_constraints(name)
    return {
        "columns": columns,
        "key": inspector.get_pk_constraint(name)["constrained_columns"],
        "unique": sorted(sorted(one["column_names"]) for one in uniques),
        "references": {
            key["constrained_columns"][0]: f"{key['referred_table']}.{key['referred_columns'][0]}"
            for key in inspector.get_foreign_keys(name)
        },
    }


def messages() -> dict[str, Any]:
    """Every interface by its topic, with the methods that can be called, and what of the context
    travels with each message."""
    topics = {
        protocol.topic: {
            "version": protocol.version,
            "methods": {name: method(one) for name, one in methods(protocol).items()},
        }
        for protocol in protocols()
    }
    return {"topics": topics, "context": sorted(context.Context("").to_dict())}


def protocols() -> list[Any]:
    """The interface classes."""
    return [one for one in vars(interfaces).values() if "topic" in getattr(one, "__dict__", {})]


def methods(protocol: Any) -> dict[str, Any]:
    """What can be called of an interface, by name."""
    return {name: one for name, one in vars(protocol).items() if hasattr(one, "rpc_kind")}


def method(one: Any) -> str:
    """What is sent and answered: the names of the arguments and their types."""
    signature = inspect.signature(one)
    arguments = list(signature.parameters.values())[2:]  # but self and ctx
    sent = ", ".join(f"{argument.name}: {argument.annotation}" for argument in arguments)
    return f"{one.rpc_kind}({sent}) -> {signature.return_annotation}"


def main() -> None:
    """Both files are those of the release whose modules these are."""
    with tempfile.TemporaryDirectory() as path:
        url = f"sqlite:///{path}/minicloud.sqlite"
        cfg.CONF([], project="minicloud", default_config_files=[])
        cfg.CONF.set_override("connection", url, "database")
        migrate.sync()
        with sa.create_engine(url).connect() as connection:
            kept = {"schema": schema(connection), "interfaces": messages()}
    for name, value in kept.items():
        (HERE / f"{name}.json").write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
