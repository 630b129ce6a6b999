"""The whole cloud: ending everything in it, and beginning anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minicloud import context
from minicloud.cli import nudges, table
from minicloud.cli.commands import command

if TYPE_CHECKING:
    from minicloud import states


@command("instance list")
def instance_list(json: bool = False) -> None:
    """List the instances of all projects that are not terminated."""
    from minicloud import states
    from minicloud.cloud import shown

    _show_living(states.INSTANCE, shown.instance_id, "flavor", json)


@command("volume list")
def volume_list(json: bool = False) -> None:
    """List the volumes of all projects that are not deleted."""
    from minicloud import states
    from minicloud.cloud import shown

    _show_living(states.VOLUME, shown.volume_id, "size_gib", json)


@command("cloud terminate")
def cloud_terminate() -> None:
    """Ask every instance of every project to end, and every volume that is not attached.

    A volume is free when its instance has ended: ask again until `instance list` and `volume list`
    show nothing.
    """
    from minicloud.cloud import operator

    with nudges.sent():
        operator.terminate_all(context.admin())


@command("cloud forget")
def cloud_forget() -> None:
    """Delete every user, project, key pair, security group, network, bucket and quota.

    Images stay; refused while there are instances or volumes.
    """
    from minicloud.cloud import operator

    with nudges.sent():
        operator.forget(context.admin())


@command("image adopt")
def image_adopt(project: str) -> None:
    """Give the images whose project is gone to PROJECT."""
    from minicloud.cloud import operator

    operator.adopt_images(context.admin(), project)


def _show_living(
    machine: states.Machine, shown_id: Callable[[Any], str], size: str, json: bool
) -> None:
    """The machine's rows that have not come to their end; `size` is the column of how big they
    are."""
    from minicloud.cloud import operator

    columns = ("state", "host", size, "project_id", "reason")
    rows = [
        (shown_id(row), *(getattr(row, name) for name in columns), row.id)
        for row in operator.living(context.admin(), machine)
    ]
    table.show(("id", *columns, "uuid"), rows, json)
