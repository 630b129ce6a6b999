"""What a volume host shows against what the rows say: pure, for the sweep and for the auditor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from minicloud import findings
from minicloud.findings import Finding


def orphans(present: Collection[str], rows: Collection[str]) -> list[Finding]:
    """Volumes whose bytes are here and that no row names; the host was listed first."""
    return [
        Finding(findings.VOLUME_WITHOUT_ROW, id, f"bytes of volume {id}, which no row has here")
        for id in sorted(set(present) - set(rows))
    ]


def differing(rows: Iterable[Any], present: Collection[str]) -> list[Finding]:
    """Rows that say something else of their bytes than the host, which was listed last; `state`
    and `reason` in the facts are what such a row is to say."""
    found = []
    for row in rows:
        if row.state == "available" and row.id not in present:
            words = f"volume {row.id} is said to be available, its bytes are gone"
            facts = {"state": "error", "reason": "its bytes are gone from the host"}
        elif (row.state, row.rest) == ("error", "available") and row.id in present:
            words = f"volume {row.id} is said to be in error, its bytes are there"
            facts = {"state": "available", "reason": ""}
        else:
            continue
        found.append(Finding(findings.VOLUME_DIFFERS, row.id, words, facts=facts))
    return found


def stray_exports(exported: Mapping[str, str], live: Iterable[Any]) -> list[Finding]:
    """Exports for attachments that are none of the `live` ones; the host was listed first."""
    names = {row.export_id for row in live}
    return [
        Finding(findings.EXPORT_WITHOUT_ROW, id, f"volume {volume_id or '?'} is exported as {id}")
        for id, volume_id in sorted(exported.items())
        if id not in names
    ]


def missing_exports(
    exported: Mapping[str, str], live: Iterable[Any], applied: Mapping[str, int]
) -> list[Finding]:
    """Attachments whose volume this host said to export, and does not."""
    return [
        Finding(
            findings.EXPORT_MISSING,
            row.id,
            f"volume {row.volume_id} is not exported as {row.export_id}",
        )
        for row in live
        if row.since <= applied.get(row.volume_id, 0) and not exported.get(row.export_id)
    ]
