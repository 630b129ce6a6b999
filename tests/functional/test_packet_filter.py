"""The packet filter is about all guests of a host: it is made true for many of them at once."""

from __future__ import annotations

import pathlib
import threading
from collections.abc import Callable
from concurrent import futures
from typing import Any

import pytest

from minicloud import daemon
from minicloud.compute import manager as compute
from minicloud.compute import simulated
from minicloud.db import models
from minicloud.db.session import Tx, transaction
from tests.conftest import InProcessCloud
from tests.functional.conftest import Verbs

ASKED = 5


@transaction
def register(tx: Tx, life: daemon.Life) -> tuple[models.Host, bool]:
    return life.register(tx)


def test_who_waits_for_its_turn_is_served_by_the_one_who_has_it(
    bare_cloud: InProcessCloud, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = simulated.Simulated(tmp_path / "h1")
    manager = compute.Manager(driver, wired=False)
    life = daemon.Life(manager, "h1", "nova")  # without threads: no sweep looks at the filter
    life.take_up(*register(life))
    before = manager._asked
    entered, go_on = threading.Event(), threading.Event()
    written = []
    protect = driver.protect

    def slowly(firewall: Any, complete: bool) -> None:
        written.append(firewall)
        entered.set()
        assert go_on.wait(60)
        protect(firewall, complete)

    monkeypatch.setattr(driver, "protect", slowly)
    apply: Any = compute.Manager.apply_group
    with futures.ThreadPoolExecutor(ASKED + 1) as pool:
        first = pool.submit(apply.apply, manager, "ec2-first")
        assert entered.wait(60)
        others = [pool.submit(apply.apply, manager, "ec2") for _ in range(ASKED)]
        bare_cloud.wait(lambda: manager._asked == before + 1 + ASKED)
        go_on.set()
        for one in (first, *others):
            one.result(60)
    assert len(written) == 2  # what the first had read was older than the others' ask


def test_no_guest_is_started_before_the_filter_lists_its_ports(
    bare_cloud: InProcessCloud,
    verbs: Verbs,
    options: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where an earlier build of the same moment wrote it for all."""
    options("work", sweep_s=3600)
    for daemon_ in (bare_cloud.scheduler, bare_cloud.network, bare_cloud.compute):
        daemon_("h1")
    driver = bare_cloud.hypervisors["h1"]
    listed: list[bool] = []
    spawn = driver.spawn

    def seen(guest: Any, check: Any) -> None:
        known = str(driver._filter())
        listed.append(all(port.tap in known for port in guest.ports) and bool(guest.ports))
        spawn(guest, check)

    monkeypatch.setattr(driver, "spawn", seen)
    ids = verbs.run(3)
    bare_cloud.wait(lambda: all(verbs.state(id) == "running" for id in ids))
    assert listed == [True] * 3
