"""Options live beside the code that uses them; this page only registers and reads the file.

`CONF = config.declare("group", [cfg.StrOpt(...)])` at the top of a module gives the group's
values as attributes, also before a file is read.  oslo.messaging registers its options on the
global `cfg.CONF`, so that is the one used here.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from minicloud import errors

# every module that calls declare(); a house test compares this with the source
MODULES = (
    "minicloud.config",
    "minicloud.rpc",
    "minicloud.shell",
    "minicloud.concurrency",
    "minicloud.db.session",
    "minicloud.work",
    "minicloud.daemon",
    "minicloud.auth.internal",
    "minicloud.auth.tokens",
    "minicloud.cloud.image_bytes",
    "minicloud.cloud.quotas",
    "minicloud.cloud.instances",
    "minicloud.api.ec2.endpoint",
    "minicloud.api.openstack.endpoint",
    "minicloud.scheduler.manager",
    "minicloud.scheduler.filters",
    "minicloud.scheduler.volumes",
    "minicloud.compute.manager",
    "minicloud.compute.simulated",
    "minicloud.compute.images",
    "minicloud.compute.libvirt.driver",
    "minicloud.network.manager",
    "minicloud.network.linux",
    "minicloud.objectstore.store",
    "minicloud.objectstore.requests",
    "minicloud.volume.files",
    "minicloud.volume.manager",
    "minicloud.volume.simulated",
    "minicloud.volume.tgt",
)


_declared: dict[str, list[cfg.Opt]] = {}  # libraries register options of their own on cfg.CONF


def declare(group: str, options: Sequence[cfg.Opt]) -> Any:
    """Register `options` under `[group]` (or `DEFAULT`) and return the group's values."""
    _declared.setdefault(group, []).extend(options)
    if group == "DEFAULT":
        cfg.CONF.register_opts(options)
        return cfg.CONF
    cfg.CONF.register_opts(options, group=group)
    return cfg.CONF[group]


CONF = declare(
    "DEFAULT",
    [
        cfg.StrOpt(
            "tag",
            default="main",
            regex=r"^[a-z0-9]{4}$",
            help="Four letters or digits that name this cloud on a host: every bridge, namespace,"
            " table, domain and queue carries them, and nothing without them is ever touched.",
        ),
        cfg.StrOpt(
            "state_path",
            default="/var/lib/minicloud",
            help="Directory under which the daemons keep what must outlive them.",
        ),
        cfg.StrOpt(
            "lock_path",
            default="$state_path/lock",
            help="Directory of the locks that processes of this cloud on this host hold.",
        ),
        cfg.StrOpt(
            "host",
            default="host1",
            help="Name of this host in the cloud; two hosts must not share one.",
        ),
        cfg.StrOpt(
            "zone", default="nova", help="Availability zone this host's resources belong to."
        ),
        cfg.StrOpt("region", default="nova", help="Name of the one region the APIs show."),
        cfg.StrOpt(
            "my_ip",
            default="127.0.0.1",
            help="Address of this host that the APIs listen on and that clients are told.",
        ),
        cfg.BoolOpt("debug", default=False, help="Log at DEBUG, and every option at start."),
        cfg.StrOpt(
            "secret_key",
            secret=True,
            default="",
            help="Key (Fernet, 32 bytes in URL-safe base64) that encrypts secrets at rest and"
            " signs what the daemons ask of each other; the same on every host.",
        ),
    ],
)


def load(arguments: Sequence[str], program: str) -> None:
    """Read the command line and the file it names.

    BadRequest when the file is not there, may not be read or is something else; SystemExit(2)
    for any other word.
    """
    try:
        cfg.CONF(list(arguments), project="minicloud", prog=program)
    except (cfg.Error, OSError, ValueError) as error:
        words = " ".join(arguments)
        raise errors.BadRequest(
            reason=f"cannot read the configuration: {error} ({words})"
        ) from error


def check() -> None:
    """Every option of the modules imported so far has a usable value, or SystemExit names it."""
    for name, options in _declared.items():
        values = cfg.CONF if name == "DEFAULT" else cfg.CONF[name]
        for option in options:
            try:
                getattr(values, option.dest)
            except (ValueError, cfg.Error) as error:
                raise SystemExit(f"error: [{name}] {option.name}: {error}") from None


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """All options by group, for `oslo-config-generator` (entry point oslo.config.opts)."""
    for name in MODULES:
        importlib.import_module(name)
    return list(_declared.items())
