"""The release before this one, as far as it is kept: its schema, its rows, its interfaces."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import sqlalchemy as sa

from tests.upgrade.keep import HERE

SCHEMA: dict[str, Any] = json.loads((HERE / "schema.json").read_text())
INTERFACES: dict[str, Any] = json.loads((HERE / "interfaces.json").read_text())

Rows = dict[str, list[dict[str, Any]]]

TYPES: dict[str, sa.types.TypeEngine[Any]] = {
    "BIGINT": sa.BigInteger(),
    "BLOB": sa.LargeBinary(),
    "BOOLEAN": sa.Boolean(),
    "DATETIME": sa.DateTime(),
    "INTEGER": sa.Integer(),
    "TEXT": sa.Text(),
}


def tables() -> sa.MetaData:
    """Its tables, to write and read them as that release did: what came later is not named."""
    made = sa.MetaData()
    for name, table in SCHEMA["tables"].items():
        columns = [_column(table, *pair) for pair in table["columns"].items()]
        sa.Table(name, made, *columns)
    return made


def _column(table: dict[str, Any], name: str, text: str) -> sa.Column[Any]:
    word = text.split(maxsplit=1)[0]
    kind = TYPES.get(word) or sa.String(int(word.removeprefix("VARCHAR(").removesuffix(")")))
    keys = [sa.ForeignKey(target) for key, target in table["references"].items() if key == name]
    return sa.Column(name, kind, *keys, primary_key=name in table["key"])


def rows(number: int) -> Rows:
    """One row for each of its tables with a value in every column, another for each `number`, in
    the order in which they can be written."""
    made: Rows = {}
    for table in tables().sorted_tables:
        row = {column.name: _value(column, number) for column in table.columns}
        for column in table.columns:
            for key in column.foreign_keys:
                row[column.name] = made[key.column.table.name][0][key.column.name]
        made[table.name] = [row]
    return made


def _value(column: sa.Column[Any], number: int) -> Any:
    if isinstance(column.type, sa.String) and not isinstance(column.type, sa.Text):
        return f"{number}{column.name}"[: column.type.length]
    return {
        sa.BigInteger: 2**40 + number,
        sa.Boolean: bool(number % 2),
        sa.DateTime: dt.datetime(2011, 2, 3, 4, 5, number, 678901),
        sa.Integer: number,
        sa.LargeBinary: bytes([number, 255]),
        sa.Text: f"{number} grüße",
    }[type(column.type)]


def write(connection: sa.Connection, made: Rows) -> None:
    """The rows are there."""
    for name, written in made.items():
        connection.execute(sa.insert(tables().tables[name]), written)


def missing(connection: sa.Connection, made: Rows) -> list[str]:
    """Those of the rows that are not there as they were written."""
    lost = []
    for name, written in made.items():
        table = tables().tables[name]
        found = [row._asdict() for row in connection.execute(sa.select(table))]
        lost += [f"{name}: {row}" for row in written if row not in found]
    return lost
