"""The auditor's command."""

from __future__ import annotations

import json as encoding
from typing import TYPE_CHECKING

from minicloud import context
from minicloud.cli import nudges, table
from minicloud.cli.commands import WrongUsage, command

if TYPE_CHECKING:
    from minicloud.cloud.audit import Report
    from minicloud.findings import Finding

CLEAN, LEFT, UNSEEN = 0, 1, 2
COLUMNS = ("kind", "what", "where", "since", "request", "mended")


@command("audit")
def audit(fix: bool = False, trust: bool = False, json: bool = False) -> int:
    """Compare database, broker and every host; with --fix mend what is wrong.

    Each finding says what is wrong, where, since when and which request made it so.  Exit 0:
    nothing was found, or all of it is mended; 1: findings are left; 2: a part could not be looked
    at.  What does not carry this cloud's id is never touched.  With --fix --trust hosts that have
    seen another database trust this one: what it does not name is removed there.
    """
    from minicloud.cloud import audit as auditor

    if trust and not fix:
        raise WrongUsage("--trust goes with --fix")
    ctx = context.admin()
    with nudges.sent():
        report = auditor.look(ctx)
        left = auditor.mend(ctx, report, trust=trust) if fix and report.found else report
    told = {one.same: one for one in (*report.found, *left.found)}
    found = [(one, _is_mended(one, left)) for one in told.values()]
    (_show_json if json else _show)(found, left)
    return UNSEEN if left.unseen else LEFT if left.found else CLEAN


def _is_mended(finding: Finding, left: Report) -> bool | None:
    """None: where it was could not be looked at again, so nobody knows."""
    if any(one.same == finding.same for one in left.found):
        return False
    hidden = any(f"{part} ".startswith(f"{finding.where} ") for part in left.unseen)
    return None if hidden else True


def _show(found: list[tuple[Finding, bool | None]], left: Report) -> None:
    """A line for each finding, then what the kinds mean."""
    from minicloud.findings import KINDS

    if found:
        rows = [
            (
                one.kind,
                one.text,
                one.where,
                one.since,
                one.request_id,
                "unknown" if mended is None else mended,
            )
            for one, mended in found
        ]
        table.show(COLUMNS, rows, False)
    for name in sorted({one.kind for one, _ in found} & KINDS.keys()):
        kind = KINDS[name]
        print(f"\n{name}: {kind.wrong}\n  {'--fix' if kind.mended else 'by hand'}: {kind.fix}")
    for id in left.fenced:
        print(table.printable(f"fenced: {id}"))
    for part, why in sorted(left.unseen.items()):
        print(table.printable(f"not looked at: {part}: {why}"))
    mended = sum(1 for _, done in found if done)
    print(f"{len(found)} findings, {mended} mended, {len(left.unseen)} parts not looked at")


def _show_json(found: list[tuple[Finding, bool | None]], left: Report) -> None:
    from minicloud.findings import KINDS

    listed = []
    for one, mended in found:
        kind = KINDS.get(one.kind)
        words = {"wrong": kind.wrong, "fix": kind.fix, "by_hand": not kind.mended} if kind else {}
        listed.append({**one.to_dict(), "mended": mended, **words})
    told = {"findings": listed, "unseen": left.unseen, "fenced": left.fenced}
    print(encoding.dumps(told, indent=2))
