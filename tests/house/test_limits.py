"""docs/limits.md says what the source says."""

from __future__ import annotations

import importlib
import pathlib
import re
from typing import Any

import pytest
from oslo_config import cfg

from minicloud import config

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "limits.md"
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "days": 86400, "s": 1, "bytes": 1}
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text().splitlines()
    if line.startswith("|") and not re.match(r"\| what |\|-", line)
]


def written(bound: str) -> list[int]:
    """The numbers in a bound, each times its unit."""
    found = re.findall(r"([0-9]+)(?: ([A-Za-z]+))?", bound)
    return [int(number) * UNITS.get(unit, 1) for number, unit in found]


def meant(where: str) -> list[int]:
    """The numbers at this place of the source, or the default of this option."""
    option = re.fullmatch(r"`\[(\w+)\] (\w+)`", where)
    if option is not None:
        group, name = option.groups()
        return [_option(group, name).default]
    module, _, name = where.strip("`").rpartition(".")
    value = getattr(importlib.import_module(f"minicloud.{module}"), name)
    if isinstance(value, str):  # letters: each is one
        return [len(value)]
    return [int(one) for one in (value if isinstance(value, tuple) else (value,))]


def _option(group: str, name: str) -> Any:
    for known, options in config.list_opts():
        for option in options:
            if (known or "DEFAULT", option.name) == (group, name):
                return option
    raise cfg.NoSuchOptError(name, cfg.OptGroup(group))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_bound_is_that_of_the_source_and_has_its_test(row: list[str]) -> None:
    _, bound, where, tried = row
    assert written(bound) == meant(where)
    assert re.fullmatch(r"\[`test_\w+`\]\(\.\./tests/[\w/]+\.py\)", tried)
