"""Networks."""

from __future__ import annotations

from minicloud import context
from minicloud.cli import table
from minicloud.cli.commands import command


@command("network create")
def network_create(
    name: str,
    cidr: str,
    kind: str = "flatdhcp",
    project: str = "",
    host: str = "",
    dns: str = "",
    mtu: int = 1500,
) -> None:
    """Create a network and show its id; with --project only that project may use it.

    CIDR is its range, as in 10.0.0.0/24; the first address is the gateway's.  HOST is whose
    network daemon serves it, else the first that comes.  DNS are addresses of servers that guests'
    questions go on to, with commas between.
    """
    from minicloud.cloud import networks

    made = networks.create(
        context.admin(),
        name=name,
        cidr=cidr,
        kind=kind,
        project=project or None,
        host=host or None,
        dns=dns,
        mtu=mtu,
    )
    print(made.id)


@command("network list")
def network_list(json: bool = False) -> None:
    """List all networks."""
    from minicloud.cloud import networks

    columns = ("id", "name", "cidr", "gateway", "kind", "host", "project_id", "dns", "mtu")
    rows = [[getattr(row, name) for name in columns] for row in networks.find(context.admin())]
    table.show(columns, rows, json)
