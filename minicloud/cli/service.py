"""The daemons that have registered."""

from __future__ import annotations

from minicloud import context
from minicloud.cli import table
from minicloud.cli.commands import command


@command("service list")
def service_list(json: bool = False) -> None:
    """List the daemons, whether they are up and the age of their heartbeat in seconds."""
    from minicloud.cloud import hosts

    rows = [
        (
            view.row.daemon,
            view.row.host,
            view.row.zone,
            view.state,
            None if view.age_s is None else round(view.age_s, 1),
            view.row.version,
        )
        for view in hosts.services(context.admin())
    ]
    table.show(("name", "host", "zone", "state", "age_s", "version"), rows, json)
