"""The auditor: database, broker and every daemon's host, compared; what is wrong, and mending it.

It knows nothing of hosts: each daemon compares its own (`interfaces.Daemon`) with what its sweep
uses too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

from minicloud import concurrency, errors, findings, interfaces, rpc
from minicloud.auth import policy
from minicloud.cloud import comparing, hosts
from minicloud.context import Context
from minicloud.db.session import Tx, reading, transaction
from minicloud.findings import Finding

TOGETHER = 50  # daemons asked at the same time
MENDING_S = 60.0  # that mending may take before what is left is told
POLL_S = 0.5

PROTOCOLS: dict[str, Any] = {
    getattr(one, "topic"): one  # noqa: B009  (the decorator of interfaces puts it there)
    for one in interfaces.Daemon.__subclasses__()
}


@dataclasses.dataclass(frozen=True)
class Report:
    """`unseen`: what could not be looked at → why; `fenced`: the daemons that need not be, because
    the operator has said that their host is down."""

    found: list[Finding]
    unseen: dict[str, str]
    fenced: tuple[str, ...] = ()


def look(ctx: Context) -> Report:
    """Compare everything; takes up to the time of an ask (`[rpc] ask_timeout_s`) when a daemon
    does not answer."""
    policy.require(ctx, "audit")
    unseen: dict[str, str] = {}
    try:
        services, found = hosts.services(ctx), _of_rows()
    except errors.Unavailable as error:
        return Report([], {"database": str(error)})
    alive = [one for one in services if one.alive]
    fenced = tuple(one.row.id for one in services if one.state == "fenced")
    unseen |= {
        one.row.id: _silence(one) for one in services if not one.alive and one.row.id not in fenced
    }
    found += _of_broker(alive, unseen)
    busy: set[str] = set()
    with futures.ThreadPoolExecutor(TOGETHER) as pool:
        answers = pool.map(lambda one: _answer(ctx, one), alive)
        for service, answer in zip(alive, answers, strict=True):
            busy.update(answer.get("busy", ()))
            found += [
                dataclasses.replace(Finding.from_dict(each), where=service.row.id)
                for each in answer.get("findings", ())
            ]
            unseen |= {
                f"{service.row.id} {part}": why for part, why in answer.get("unseen", {}).items()
            }
            if answer.get("more"):
                unseen[f"{service.row.id} the rest"] = f"{answer['more']} more findings"
    found = [one for one in found if one.kind != findings.STUCK or one.id not in busy]
    return Report(_events_told(_distinct(found)), unseen, fenced)


def mend(ctx: Context, report: Report, *, trust: bool = False) -> Report:
    """Have everything mended that can be, each by whoever it belongs to; what is left then.

    Rows are mended here, in transactions that look again; hosts by their daemons, by a sweep that
    begins now: it removes a few things at a time, and nothing that has not this cloud's id.  Those
    that distrust the database clean nothing up, unless with `trust`: then they trust it again.
    """
    policy.require(ctx, "audit")
    for one in comparing.CHECKS:
        if one.mend is not None:
            _mend_rows(ctx, one.look, one.mend)
    distrusting = {one.where for one in report.found if one.kind == findings.DISTRUSTED and trust}
    alive = [one for one in hosts.services(ctx) if one.alive and _unaskable(one) is None]
    with futures.ThreadPoolExecutor(TOGETHER) as pool:
        list(pool.map(lambda one: _sweep(ctx, one, one.row.id in distrusting), alive))
    until = time.monotonic() + MENDING_S
    while True:
        left = look(ctx)
        if not any(findings.KINDS[one.kind].mended for one in left.found if _known(one)):
            return left
        if time.monotonic() > until:
            return left
        concurrency.sleep(POLL_S)


def _known(finding: Finding) -> bool:
    """Whether this release knows what it is: a newer daemon may tell more."""
    return finding.kind in findings.KINDS


def _distinct(found: Sequence[Finding]) -> list[Finding]:
    """What two schedulers both see is told once."""
    return list({(one.kind, one.id, one.what): one for one in reversed(found)}.values())[::-1]


@reading
def _of_rows(tx: Tx) -> list[Finding]:
    return comparing.look(tx)


@reading
def _events_told(tx: Tx, found: list[Finding]) -> list[Finding]:
    return comparing.told(tx, found)


@transaction
def _mend_rows(tx: Tx, ctx: Context, find: comparing.Look, change: Callable[..., None]) -> None:
    found = list(find(tx))
    if found:
        change(tx, ctx, found)


# --- the daemons ----------------------------------------------------------------------------


def _silence(service: hosts.Service) -> str:
    age = service.age_s
    return "it is stopped" if age is None else f"it is down: its heartbeat is {age:.0f} s old"


def _unaskable(service: hosts.Service) -> str | None:
    """Why this release cannot ask the daemon, None when it can."""
    row = service.row
    if row.daemon not in PROTOCOLS:
        return f"this release knows no daemon {row.daemon}"
    if not rpc.serves(row.version, PROTOCOLS[row.daemon].audit):
        return f"its version {row.version} cannot be asked yet"
    return None


def _answer(ctx: Context, service: hosts.Service) -> dict[str, Any]:
    row = service.row
    if why := _unaskable(service):
        return {"unseen": {"host": why}}
    try:
        answer: dict[str, Any] = rpc.ask_host(PROTOCOLS[row.daemon].audit, ctx, row.host)
        return answer
    except Exception as error:
        return {"unseen": {"host": str(error) or type(error).__name__}}


def _sweep(ctx: Context, service: hosts.Service, trust: bool) -> None:
    row = service.row
    with contextlib.suppress(Exception):  # the look that follows says that it does not answer
        rpc.ask_host(PROTOCOLS[row.daemon].mend, ctx, row.host, trust=trust)


def _of_broker(alive: Sequence[hosts.Service], unseen: dict[str, str]) -> list[Finding]:
    """Whose queue nobody reads, or more than one."""
    try:
        readers = rpc.readers([(one.row.daemon, one.row.host) for one in alive])
    except errors.Unavailable as error:
        unseen["broker"] = str(error)
        return []
    return [
        Finding(
            findings.DOUBLED if count else findings.DEAF,
            f"{daemon}@{host}",
            f"{count or 'no'} processes read the queue of {daemon}@{host}",
            "broker",
        )
        for (daemon, host), count in readers.items()
        if count != 1
    ]
