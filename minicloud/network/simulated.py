"""Wires that only pretend: the same contract, and what is served outlives a killed daemon.

What answers on a network is a small file.  They remember which address answered for whom and when,
and notice an address answered for two (`doubles`).
"""

from __future__ import annotations

import collections
import json
import pathlib
import time
from collections.abc import Mapping, Sequence

from typing_extensions import override

from minicloud import parts
from minicloud.checkpoint import checkpoint
from minicloud.network import driver
from minicloud.network.driver import Booking, Net, Present

KEPT = 10000  # entries of the history


class Simulated(driver.Wires):
    """`path` is the directory of this host's networks."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.history: collections.deque[tuple[float, str, str, str]] = collections.deque(
            maxlen=KEPT
        )
        self.doubles: list[str] = []

    @override
    def connect(self) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        parts.clear(self.path)

    @override
    def ping(self) -> None:
        pass

    @override
    def serve(self, net: Net, bookings: Sequence[Booking], leaving: Sequence[Booking]) -> None:
        checkpoint("serve.namespace")
        answered = self.served(net.number)
        for gone in leaving:
            if answered.get(gone.address) == gone.mac:
                del answered[gone.address]
                self._remember("leave", gone.address, gone.mac)
        for booking in bookings:
            before = answered.get(booking.address)
            if before is not None and before != booking.mac:
                self.doubles.append(booking.address)
            if before != booking.mac:
                self._remember("join", booking.address, booking.mac)
        self._write(net.number, {booking.address: booking.mac for booking in bookings})
        checkpoint("serve.dhcp")

    @override
    def withdraw(self, number: int) -> None:
        for address, mac in self.served(number).items():
            self._remember("leave", address, mac)
        self._file(number).unlink(missing_ok=True)

    @override
    def inventory(self) -> Mapping[int, Present]:
        return {
            one: Present(entries=frozenset(self.served(one).items())) for one in self.serving()
        }

    @override
    def serving(self) -> set[int]:
        return {int(file.stem) for file in self.path.glob("*.json")}

    @override
    def remove(self, number: int) -> None:
        self.withdraw(number)

    def served(self, number: int) -> dict[str, str]:
        """What answers on the network: address → MAC; {} too when its file is damaged, as after
        the death of a dnsmasq."""
        try:
            found = json.loads(self._file(number).read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _file(self, number: int) -> pathlib.Path:
        return self.path / f"{number}.json"

    def _write(self, number: int, answered: dict[str, str]) -> None:
        file = self._file(number)
        parts.write(parts.fresh(self.path, file), file, json.dumps(answered))

    def _remember(self, what: str, address: str, mac: str) -> None:
        self.history.append((time.monotonic(), what, address, mac))
