"""How a daemon answers the auditor: its own comparisons, looked at twice; and how it mends now.

What is only under way (a rule just added, a guest just starting) is gone at the second look.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from minicloud import concurrency, daemon, errors, findings, work
from minicloud.findings import Finding

LOG = logging.getLogger(__name__)

AGAIN_S = 2.0  # between two looks: a nudge takes milliseconds
MOST = 500  # findings in one answer

Look = Callable[[], list[Finding]]


def answer(manager: Any, looks: Mapping[str, Look]) -> dict[str, Any]:
    """What `interfaces.Daemon.audit` returns; `looks` are the comparisons by what they look at."""
    found, unseen = _look(looks)
    if found:
        concurrency.sleep(AGAIN_S)
        again, unseen_then = _look({part: looks[part] for part in looks if part not in unseen})
        kept = {one.same for one in again}
        found = [one for one in found if one.same in kept]
        unseen |= unseen_then
    if not manager.trusted:
        found.insert(0, Finding(findings.DISTRUSTED, manager.me.id, "it cleans nothing up"))
    return {
        "findings": [one.to_dict() for one in found[:MOST]],
        "more": max(0, len(found) - MOST),
        "unseen": unseen,
        "busy": sorted(manager.work.claimed),
    }


def _look(looks: Mapping[str, Look]) -> tuple[list[Finding], dict[str, str]]:
    found: list[Finding] = []
    unseen: dict[str, str] = {}
    for part, look in looks.items():
        try:
            found += look()
        except (errors.Error, OSError) as error:
            unseen[part] = str(error)[:500]
        except Exception as error:
            LOG.exception("audit of %s failed", part)
            unseen[part] = f"{type(error).__name__}: {error}"[:500]
    return found, unseen


def mend(manager: Any, *, trust: bool) -> None:
    """A sweep is queued, with everything it mends; see `interfaces.Daemon.mend`."""
    if trust and not manager.trusted:
        daemon.trust(manager.me)
        manager.trusted = True
    manager.work.add("audit", "mend", lambda: _sweep(manager), "ending")


def _sweep(manager: Any) -> None:
    work.sweep(manager)
    manager.sweep()
