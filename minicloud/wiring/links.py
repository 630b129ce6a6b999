"""Make the links of a network exist on this host, or be gone.

Compute and network daemons share bridges, so one lock per name (a file in `lock_path`, never
removed) is held while a bridge is made or looked at to be removed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import pathlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from minicloud import concurrency, config, errors, shell
from minicloud.wiring import Bridge

LOCK_WAIT_S = 30.0


def ensure(bridges: Sequence[Bridge]) -> None:
    """Each bridge is there and up, with its MTU; the host itself has no part in it.

    Repeating it changes nothing.  TryLater when another process holds the name for long.
    """
    for bridge in bridges:
        with _named(bridge.name):
            _ensure(bridge)


def remove(bridges: Sequence[Bridge]) -> None:
    """None of the bridges is left; TryLater, and nothing removed, while one has a port."""
    for bridge in bridges:
        with _named(bridge.name):
            if bridge.name not in devices():
                continue
            ports = [d["ifname"] for d in devices().values() if d.get("master") == bridge.name]
            if ports:
                used = ", ".join(sorted(ports)[:5])
                raise errors.TryLater(reason=f"{bridge.name} still has the ports {used}")
            shell.run(["ip", "link", "delete", bridge.name])


def devices() -> dict[str, dict[str, Any]]:
    """Every network device of this host's namespace, by name, as `ip -json` tells them."""
    return parse_devices(shell.run(["ip", "-json", "link", "show"]))


def parse_devices(listing: str) -> dict[str, dict[str, Any]]:
    return {device["ifname"]: device for device in json.loads(listing or "[]") if device}


def _ensure(bridge: Bridge) -> None:
    found = devices().get(bridge.name)
    commands = []
    if found is None:
        options = "forward_delay 0 mcast_snooping 0"  # frames pass at once, multicast too
        commands.append(f"link add name {bridge.name} type bridge {options}")
    if found is None or found["mtu"] != bridge.mtu or not {"UP", "NOARP"} <= set(found["flags"]):
        # without ARP and IPv6 a guest cannot talk to the host by the bridge's own MAC
        commands.append(f"link set dev {bridge.name} mtu {bridge.mtu} arp off up")
    if commands:
        shell.run(["ip", "-batch", "-"], input="\n".join(commands) + "\n")
    without_ipv6(bridge.name)


def without_ipv6(device: str) -> None:
    """The host takes no IPv6 address on `device`; nothing to do where the kernel has no IPv6."""
    setting = pathlib.Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6")
    with contextlib.suppress(FileNotFoundError):
        if setting.read_text().strip() != "1":
            setting.write_text("1\n")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Hold the host-wide lock of `name`; a flock ends with its process."""
    if not re.fullmatch(r"[a-z0-9-]{1,15}", name):
        raise errors.Final(reason=f"{name!r} is not a name of ours")
    directory = pathlib.Path(config.CONF.lock_path)
    directory.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + LOCK_WAIT_S
    with (directory / f"{name}.lock").open("a") as file:
        while True:
            try:
                # never a waiting flock: it would stop every green thread
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise errors.TryLater(reason=f"another process holds {name}") from None
                concurrency.sleep(0.05)
        yield
