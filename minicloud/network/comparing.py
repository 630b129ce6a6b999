"""What a network host shows against what the rows say: pure, for the sweep and for the auditor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from minicloud import findings
from minicloud.findings import Finding
from minicloud.network.driver import Present


def orphans(present: Mapping[int, Present], numbers: Collection[int]) -> list[Finding]:
    """Networks that are here and in no row; the host was listed before the rows were read."""
    return [
        Finding(
            findings.NETWORK_WITHOUT_ROW,
            str(number),
            f"something of network number {number}, which no row has",
        )
        for number in sorted(present.keys() - set(numbers))
    ]


def served(
    network: Any, present: Present | None, bookings: Iterable[Any], applied: int
) -> Iterator[Finding]:
    """In what this host does not serve a network as its rows said when it was `applied`."""
    if present is None:
        if applied:
            yield Finding(findings.NETWORK_LACKS, network.id, f"{network.name} lacks everything")
        return
    for words in present.lacks:
        yield Finding(findings.NETWORK_LACKS, network.id, f"{network.name} lacks {words}")
    booked = list(bookings)
    allowed = {
        (row.address, row.mac)
        for row in booked
        if row.leaving is None or row.leaving > applied  # it is on its way out
    }
    for address, mac in sorted((present.entries | present.leases) - allowed):
        words = f"{network.name} answers {mac} for {address}"
        yield Finding(findings.ANSWER_WITHOUT_BOOKING, network.id, words)
    for row in booked:
        ready = row.leaving is None and row.since <= applied
        if ready and (row.address, row.mac) not in present.entries:
            words = f"{network.name} does not answer {row.mac} for {row.address}"
            yield Finding(findings.BOOKING_NOT_ANSWERED, row.instance_id, words)
