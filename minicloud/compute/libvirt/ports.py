"""Network cards of guests on the host: libvirt makes a tap and plugs it when a guest starts, and
it goes with its QEMU.  Here is only what makes sure of that."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterable

from minicloud import concurrency, shell
from minicloud.wiring import links

GONE_S = 5.0  # a tap goes when its QEMU's last descriptor is closed
POLL_S = 0.1


def present(tag: str) -> set[str]:
    """The cards of guests of the cloud `tag` on this host, named as db/addresses.py draws them."""
    ours = re.compile(rf"mc-{re.escape(tag)}-[a-z]{{7}}")
    return {name for name in links.devices() if ours.fullmatch(name)}


def remove(taps: Iterable[str]) -> None:
    """None of the taps is on this host; CommandFailed when one cannot be removed."""
    for tap in taps:
        until = time.monotonic() + GONE_S
        while _is_there(tap) and time.monotonic() < until:
            concurrency.sleep(POLL_S)
        if _is_there(tap):
            shell.run(["ip", "link", "delete", "dev", tap])


def _is_there(device: str) -> bool:
    """Asked of the kernel: /sys may show another network namespace's devices."""
    try:
        return socket.if_nametoindex(device) > 0
    except OSError:
        return False
