"""A Python prompt in the cloud."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from typing import Any

from minicloud import context
from minicloud.cli.commands import command


@command("shell")
def shell() -> None:
    """Open a Python prompt with the modules of minicloud.cloud and `admin()`, a fresh context.

    What comes through a pipe is run as a script.  For example:
    projects.find(admin()), instances.find(admin()), hosts.find(admin()).
    """
    names = _names()
    if not sys.stdin.isatty():
        exec(compile(sys.stdin.read(), "<stdin>", "exec"), names)  # noqa: S102  (the operator may run anything)
        return
    import code
    import readline  # noqa: F401  (gives the prompt its editing keys)

    known = ", ".join(sorted(names))
    code.interact(banner=f"minicloud shell: {known}", local=names, exitmsg="")


def _names() -> dict[str, Any]:
    from minicloud import cloud

    names: dict[str, Any] = {"admin": context.admin}
    for module in pkgutil.iter_modules(cloud.__path__):
        names[module.name] = importlib.import_module(f"minicloud.cloud.{module.name}")
    return names
