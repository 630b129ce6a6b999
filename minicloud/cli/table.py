"""Lists on stdout: aligned columns for people, JSON for programs."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any


def show(columns: Sequence[str], rows: Sequence[Sequence[Any]], as_json: bool) -> None:
    """Print `rows` under `columns`, or as a JSON list of objects with these names."""
    if as_json:
        objects = [dict(zip(columns, row, strict=True)) for row in rows]
        print(json.dumps(objects, indent=2, default=_plain))
        return
    cells = [[name.replace("_", " ") for name in columns]]
    cells += [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns))]
    numbers = [
        bool(rows) and all(_is_number(row[place]) for row in rows) for place in range(len(columns))
    ]
    for row in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numbers, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(", ".join(value) if isinstance(value, list) else str(_plain(value)))


def printable(text: str) -> str:
    """The text in one line; what a tenant wrote must not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return value.isoformat(timespec="seconds") + "Z"
    return value if isinstance(value, int | float) else str(value)
