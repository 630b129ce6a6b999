"""The hosts that run guests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minicloud import context
from minicloud.cli import nudges, table
from minicloud.cli.commands import command

if TYPE_CHECKING:
    from minicloud.cloud import fencing


@command("host list")
def host_list(json: bool = False) -> None:
    """List the compute hosts: what they have and how much of it is booked."""
    from minicloud.cloud import hosts

    columns = (
        "host",
        "zone",
        "state",
        "enabled",
        "hypervisor",
        "instances",
        "vcpus_used",
        "vcpus",
        "memory_mib_used",
        "memory_mib",
        "disk_gib_used",
        "disk_gib",
    )
    rows = [
        (
            view.row.host,
            view.row.zone,
            view.state,
            not view.row.disabled,
            view.row.hypervisor,
            view.instances,
            view.vcpus_used,
            view.row.vcpus,
            view.memory_mib_used,
            view.row.memory_mib,
            view.disk_gib_used,
            view.row.disk_gib,
        )
        for view in hosts.capacity(context.admin())
    ]
    table.show(columns, rows, json)


@command("host disable")
def host_disable(host: str) -> None:
    """Give HOST no new instances and volumes; what it has stays and goes on."""
    from minicloud.cloud import fencing

    fencing.enable(context.admin(), host, False)


@command("host enable")
def host_enable(host: str) -> None:
    """Give HOST new instances and volumes again."""
    from minicloud.cloud import fencing

    fencing.enable(context.admin(), host, True)


@command("host fence")
def host_fence(host: str, force: bool = False, json: bool = False) -> None:
    """Say that HOST is dead or cut off: its daemons may not act any more.

    What was being made on it is made elsewhere; the rest stays until `host evacuate`, or until it
    comes back, which lifts the fence by itself.  Switch the machine off first: guests on one that
    still runs go on. Refused while a daemon of HOST gives signs of life, unless --force.
    """
    from minicloud.cloud import fencing

    with nudges.sent():
        moved = fencing.fence(context.admin(), host, force)
    _show(moved, json)


@command("host evacuate")
def host_evacuate(host: str, json: bool = False) -> None:
    """Start the instances of the fenced HOST, and serve its networks, on other hosts.

    They keep id, addresses, groups and volumes; THEIR ROOT DISKS ARE LOST and made anew from the
    image. Stopped ones stay stopped. Volumes whose bytes are on HOST are in error until it is
    back. Repeat it when it was cut short.
    """
    from minicloud.cloud import fencing

    with nudges.sent():
        moved = fencing.evacuate(context.admin(), host)
    _show(moved, json)


@command("host rebind")
def host_rebind(host: str, machine_id: str = "") -> None:
    """Let another machine be the fenced HOST: that of MACHINE_ID, or the first that comes.

    MACHINE_ID is what /etc/machine-id says there. The machine that was HOST cannot be it again;
    a daemon that is started there ends what is left of HOST's guests and then itself. Evacuate
    first, unless the guests' disks move along.
    """
    from minicloud.cloud import fencing

    fencing.rebind(context.admin(), host, machine_id or None)


@command("host forget")
def host_forget(host: str) -> None:
    """Forget the fenced HOST, which will not be back: nothing names it any more.

    Refused while anything is left on it: `host evacuate` first, and delete the volumes, images and
    objects whose bytes are there. If the machine is ever to be a host again, empty its state and
    instances directories first.
    """
    from minicloud.cloud import fencing

    fencing.forget(context.admin(), host)


def _show(moved: list[fencing.Moved], json: bool) -> None:
    rows = [(one.kind, one.id, one.now, one.rest) for one in moved]
    table.show(("kind", "id", "now", "comes_back"), rows, json)
