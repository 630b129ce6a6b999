"""The whole RPC protocol: what each daemon can be told (nudges) and asked.

A nudge carries one id, may be lost, doubled or late, and only saves waiting: the row says what is
to be done.  An ask has keyword arguments and an answer within its timeout.

The first release had version 1.0 of each.  A method that comes later says `since` which version it
is there; one that is there neither changes nor goes while the release before may call it.
"""

from __future__ import annotations

from typing import Any

from minicloud import rpc
from minicloud.context import Context


class Daemon:
    """What every daemon can be asked."""

    @rpc.ask(since="1.1")
    def audit(self, ctx: Context) -> dict[str, Any]:
        """What is wrong on this host: `findings` (as `Finding.to_dict`), `more` (how many were
        left out), `unseen`: what could not be looked at, and why; and `busy`: the ids of the rows
        it is at work on (not told by releases before it)."""
        raise NotImplementedError

    @rpc.ask(since="1.1")
    def mend(self, ctx: Context, *, trust: bool) -> None:
        """A sweep begins now, which mends what it finds; with `trust` the database is trusted
        again, whatever this host remembers of another one."""
        raise NotImplementedError

    @rpc.ask(since="1.1")
    def ping(self, ctx: Context) -> dict[str, Any]:
        """Who answers: its `epoch`, its `release` of minicloud and its `clock` (seconds since
        1970)."""
        raise NotImplementedError


@rpc.interface(topic="scheduler")
class Scheduler(Daemon):
    @rpc.nudge()
    def place_instances(self, ctx: Context, id: str, /) -> None:
        """Finish "scheduling" of every waiting instance; `id` is one of them."""
        raise NotImplementedError

    @rpc.nudge()
    def place_volumes(self, ctx: Context, id: str, /) -> None:
        """Finish "placing" of every waiting volume; `id` is one of them."""
        raise NotImplementedError


@rpc.interface(topic="compute")
class Compute(Daemon):
    @rpc.nudge()
    def build_instance(self, ctx: Context, id: str, /) -> None:
        """Finish "building"."""
        raise NotImplementedError

    @rpc.nudge()
    def start_instance(self, ctx: Context, id: str, /) -> None:
        """Finish "starting"."""
        raise NotImplementedError

    @rpc.nudge()
    def stop_instance(self, ctx: Context, id: str, /) -> None:
        """Finish "stopping"."""
        raise NotImplementedError

    @rpc.nudge()
    def reboot_instance(self, ctx: Context, id: str, /) -> None:
        """Finish "rebooting"."""
        raise NotImplementedError

    @rpc.nudge()
    def terminate_instance(self, ctx: Context, id: str, /) -> None:
        """Finish "terminating"."""
        raise NotImplementedError

    @rpc.nudge()
    def apply_group(self, ctx: Context, id: str, /) -> None:
        """Make this host's firewall equal to the rows of the security group."""
        raise NotImplementedError

    @rpc.nudge()
    def attach_volume(self, ctx: Context, id: str, /) -> None:
        """Finish "attaching" of an attachment."""
        raise NotImplementedError

    @rpc.nudge()
    def detach_volume(self, ctx: Context, id: str, /) -> None:
        """Finish "detaching" of an attachment."""
        raise NotImplementedError

    @rpc.ask()
    def console_output(self, ctx: Context, *, id: str, max_bytes: int) -> str:
        """The last `max_bytes` bytes of the instance's serial console, in base64."""
        raise NotImplementedError


@rpc.interface(topic="network")
class Network(Daemon):
    @rpc.nudge()
    def apply_network(self, ctx: Context, id: str, /) -> None:
        """Make this host serve the network as its rows say."""
        raise NotImplementedError


@rpc.interface(topic="volume")
class Volume(Daemon):
    @rpc.nudge()
    def create_volume(self, ctx: Context, id: str, /) -> None:
        """Finish "creating" of a volume: its bytes have a place."""
        raise NotImplementedError

    @rpc.nudge()
    def delete_volume(self, ctx: Context, id: str, /) -> None:
        """Finish "deleting" of a volume: its bytes are gone."""
        raise NotImplementedError

    @rpc.nudge()
    def apply_exports(self, ctx: Context, id: str, /) -> None:
        """Make this host export the volume to whom its attachments name, and to nobody else."""
        raise NotImplementedError


@rpc.interface(topic="objectstore")
class Objectstore(Daemon):
    @rpc.nudge()
    def delete_image(self, ctx: Context, id: str, /) -> None:
        """Finish "deleting" of an image: its bytes are gone."""
        raise NotImplementedError

    @rpc.nudge()
    def register_image(self, ctx: Context, id: str, /) -> None:
        """Finish "registering" of an image: an object's bytes are copied and inspected."""
        raise NotImplementedError

    @rpc.nudge()
    def delete_object(self, ctx: Context, id: str, /) -> None:
        """Finish "deleting" of an object: its bytes are gone."""
        raise NotImplementedError
