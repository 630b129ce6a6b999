"""`python -m minicloud.servants NAME [--config-file FILE]`: become libvirtd, virtlogd or tgtd
of the cloud on this host.

It is what their systemd units start, as root; they give up by themselves what they do not need.
"""

from __future__ import annotations

import os
import pathlib
import sys

from minicloud import config, processes
from minicloud.compute import manager as compute
from minicloud.servants import libvirtd, tgtd
from minicloud.volume import tgt

NAMES = ("libvirtd", "virtlogd", "tgtd")


def command(name: str) -> list[str]:
    """What to start, once everything it needs is there; repeating changes nothing.

    SystemExit(1) when somebody else than root could replace what root is about to start.
    """
    state = pathlib.Path(config.CONF.state_path)
    found = state.stat()
    if found.st_uid != 0 or found.st_mode & 0o022:
        raise SystemExit(f"error: only root may write to {state} (see etc/tmpfiles.d)")
    if name == "tgtd":
        tgtd.prepare(state, processes.USER)
        portal = f"{config.CONF.my_ip}:{tgt.CONF.port}"
        return tgtd.command(state, processes.USER, portal)
    libvirtd.prepare(state, pathlib.Path(compute.CONF.instances_path), processes.USER)
    return libvirtd.command(state, config.CONF.tag, name)


def main(arguments: list[str]) -> None:
    if arguments[:1] not in [[name] for name in NAMES]:
        raise SystemExit(f"usage: python -m minicloud.servants {'|'.join(NAMES)} [options]")
    config.load(arguments[1:], "minicloud.servants")
    argv = command(arguments[0])
    os.execvp(argv[0], argv)


if __name__ == "__main__":
    main(sys.argv[1:])
