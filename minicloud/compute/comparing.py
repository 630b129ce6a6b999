"""What a compute host shows against what the rows say: pure, for the sweep and for the auditor.

To move a row it was read before the host, to remove something from the host that was listed
before the rows (DESIGN section 12, rule 7); the callers keep that order.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from minicloud import findings
from minicloud.compute.driver import Domain, Inventory
from minicloud.findings import Finding


def shown(domain: Domain | None) -> str:
    """The settled state of a row whose domain is so.

    No verb pauses a guest yet: one that QEMU has paused (its host's disk is full) goes on when it
    can, and may be rebooted or stopped like a running one.
    """
    if domain is None:
        return "error"
    return "running" if domain.state == "paused" else domain.state


def guests(rows: Iterable[Any], domains: Mapping[str, Domain], host_booted: bool) -> list[Finding]:
    """Settled rows that say something else than their domains; `state` and `reason` in the facts
    are what such a row is to say."""
    found = []
    for row in rows:
        domain = domains.get(row.id)
        state = shown(domain)
        if state == row.state or (row.state == "error" and row.rest is None):
            continue
        if host_booted and (row.state, state) == ("running", "stopped"):
            state = "starting"  # it did not halt itself: its host went down
        seen = "is gone from the host" if domain is None else f"is {domain.state}"
        facts = {"state": state, "reason": "" if domain else f"its domain {seen}"}
        words = f"instance {row.id} is said to be {row.state}, its domain {seen}"
        found.append(Finding(findings.GUEST_DIFFERS, row.id, words, facts=facts))
    return found


def without_disk(rows: Iterable[Any], disks: Collection[str]) -> list[Finding]:
    """Settled rows of guests that ran once, and whose root disk is not among `disks`."""
    return [
        Finding(
            findings.ROOT_DISK_GONE,
            row.id,
            f"instance {row.id} is {row.state}, and its root disk is not on the host",
        )
        for row in rows
        if row.rest is not None and row.id not in disks
    ]


def lost_disks(attached: Iterable[Any], domains: Mapping[str, Domain]) -> list[Finding]:
    """Attachments said to be in guests that run without the disk."""
    return [
        Finding(
            findings.DISK_GONE,
            row.id,
            f"volume {row.volume_id} is said to be disk {row.device} of {row.instance_id}, and is"
            " not",
            facts={"reason": "the guest lost the disk"},
        )
        for row in attached
        if (domain := domains.get(row.instance_id)) is not None
        and domain.state != "stopped"
        and row.device not in domain.volumes
    ]


def astray(attachments: Iterable[Any]) -> list[Finding]:
    """`attachments` are those, not detached, of terminated instances."""
    return [
        Finding(
            findings.ATTACHMENT_ASTRAY,
            row.id,
            f"volume {row.volume_id} is attached to {row.instance_id}, which is terminated",
            facts={"reason": "the instance is terminated"},
        )
        for row in attachments
    ]


def stray_disks(
    domains: Mapping[str, Domain], kept: Collection[str], live: Collection[tuple[str, str]]
) -> list[Finding]:
    """Disks in guests of ours that are in none of the `live` attachments (instance, letter)."""
    return [
        Finding(
            findings.DISK_WITHOUT_ROW,
            id,
            f"instance {id} has a disk {letter} that no attachment names",
            facts={"letter": letter},
        )
        for id, domain in sorted(domains.items())
        if id in kept and domain.state != "stopped"
        for letter in domain.volumes
        if (id, letter) not in live
    ]


def orphans(present: Inventory, kept: Collection[str]) -> list[Finding]:
    """Guests of which anything is on the host, but no row."""
    return [
        Finding(
            findings.GUEST_WITHOUT_ROW,
            id,
            f"{'a domain' if id in present.domains else 'files'} of {id}, which no row has here",
        )
        for id in sorted(present.guests - set(kept))
    ]


def loose_taps(present: Inventory, booked: Collection[str]) -> list[Finding]:
    """Network cards of ours that neither a domain nor a booking names."""
    return [
        Finding(findings.TAP_WITHOUT_GUEST, tap, f"the network card {tap} is no guest's")
        for tap in sorted(present.taps - set(booked))
    ]


def parts(present: Inventory) -> list[Finding]:
    return [
        Finding(
            findings.PART_LEFT, name, f"{name} was left half written", since=findings.stamp(at)
        )
        for name, at in sorted(present.parts.items())
    ]


def packet_filter(differences: Iterable[str], where: str) -> list[Finding]:
    """`differences` are those of the hypervisor's own packet filter, in words."""
    return [Finding(findings.FILTER_DIFFERS, where, words) for words in differences]
