"""Instance types (flavors)."""

from __future__ import annotations

from minicloud import context
from minicloud.cli import table
from minicloud.cli.commands import command


@command("instance_type list")
def instance_type_list(json: bool = False) -> None:
    """List the sizes an instance can have."""
    from minicloud.cloud import flavors

    columns = ("id", "name", "vcpus", "memory_mib", "disk_gib")
    found = flavors.find(context.admin()).items
    table.show(columns, [[getattr(row, name) for name in columns] for row in found], json)
