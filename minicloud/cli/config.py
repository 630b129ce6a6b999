"""The options as this cloud has them."""

from __future__ import annotations

from minicloud.cli import table
from minicloud.cli.commands import command

MASK = "****"


@command("config list")
def config_list(json: bool = False) -> None:
    """List every option with its value; secrets are not shown."""
    from oslo_config import cfg

    from minicloud import config

    rows: list[tuple[str, str, object]] = []
    for group, options in config.list_opts():
        values = cfg.CONF if group == "DEFAULT" else cfg.CONF[group]
        for option in options:
            value = values[option.dest]
            shown = MASK if option.secret and value else value
            rows.append((group, option.dest, shown))
    table.show(("group", "option", "value"), sorted(rows, key=lambda row: (row[0], row[1])), json)
