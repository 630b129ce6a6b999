"""What must be true whatever dies, is lost, is doubled or comes late (DESIGN section 12)."""

from __future__ import annotations

import functools
import pathlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa

from minicloud import auditing, checkpoint, errors, interfaces, rpc, states, work
from minicloud.compute import simulated
from minicloud.context import Context
from minicloud.db import images, models, session
from minicloud.db.session import Tx, transaction
from minicloud.objectstore import store
from tests.conftest import InProcessCloud, Unswept
from tests.databases import database
from tests.functional.conftest import Verbs, instance, rows

__all__ = ["database"]  # a fixture: each test runs on every engine

Options = Callable[..., None]

ORPHAN = "ec200000-0000-0000-0000-000000000000"


def starts(driver: simulated.Simulated, id: str) -> int:
    """How often the domain was really started."""
    return sum(1 for entry in driver.history if (entry.what, entry.id) == ("started", id))


@pytest.fixture
def pause() -> Iterator[Callable[[str], threading.Event]]:
    """`pause(name)` holds whoever comes to that checkpoint until the event returned is set."""
    held: dict[str, threading.Event] = {}
    inside: dict[str, threading.Event] = {}

    def hook(name: str) -> None:
        if name in held:
            inside[name].set()
            held[name].wait(300)

    def hold(name: str) -> threading.Event:
        inside[name], held[name] = threading.Event(), threading.Event()
        held[name].inside = inside[name]  # type: ignore[attr-defined]
        return held[name]

    checkpoint.hook = hook
    yield hold
    checkpoint.hook = None
    for event in held.values():
        event.set()


def test_an_instance_runs_and_is_terminated_and_leaves_nothing(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    verbs.terminate(id)
    cloud.wait(lambda: verbs.state(id) == "terminated")
    assert cloud.hypervisors["h1"].domains() == {}
    cloud.wait(lambda: rows(models.Address) == [])
    assert rows(models.GroupMember) == []


def test_stop_start_and_reboot_come_to_their_ends(cloud: InProcessCloud, verbs: Verbs) -> None:
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    verbs.stop(id)
    cloud.wait(lambda: verbs.state(id) == "stopped")
    assert cloud.hypervisors["h1"].domains()[id].state == "stopped"
    verbs.start(id)
    cloud.wait(lambda: verbs.state(id) == "running")
    verbs.reboot(id)
    cloud.wait(lambda: verbs.state(id) == "running")
    assert starts(cloud.hypervisors["h1"], id) == 3


def test_terminate_during_a_build_wins(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", start_s=60)
    [id] = verbs.run()
    cloud.wait(lambda: cloud.hypervisors["h1"].history)
    verbs.terminate(id)
    cloud.wait(lambda: verbs.state(id) == "terminated")
    assert cloud.hypervisors["h1"].domains() == {}
    assert cloud.hypervisors["h1"].overlaps == []


def test_a_nudge_that_comes_ten_times_starts_the_guest_once(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", start_s=0.3)
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) in ("building", "running"))
    for _ in range(10):
        rpc.send([rpc.Nudge(interfaces.Compute.build_instance, id, "h1")])
    cloud.wait(lambda: verbs.state(id) == "running")
    rpc.send([rpc.Nudge(interfaces.Compute.build_instance, id, "h1")])
    driver = cloud.hypervisors["h1"]
    assert starts(driver, id) == 1
    assert driver.overlaps == []


def test_lost_nudges_only_cost_time(cloud: InProcessCloud, verbs: Verbs) -> None:
    session.send_with(lambda nudges: None)
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    verbs.terminate(id)
    cloud.wait(lambda: verbs.state(id) == "terminated")
    cloud.wait(lambda: rows(models.Address) == [])


def test_a_build_that_fails_again_and_again_ends_in_error_with_its_reason(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", failing=["spawn"])
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "error")
    failed = instance(id)
    assert failed.reason == "simulated failure of spawn"
    tried = [e for e in cloud.hypervisors["h1"].history if e.what == "spawn"]
    assert len(tried) == work.CONF.tries
    verbs.terminate(id)
    cloud.wait(lambda: verbs.state(id) == "terminated")
    cloud.wait(lambda: rows(models.Address) == [])


def test_what_cannot_be_mended_by_trying_again_is_not_tried_again(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", failing=["spawn:Final"])
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "error")
    assert [e.what for e in cloud.hypervisors["h1"].history] == ["spawn"]


def test_a_failed_reboot_leaves_the_row_as_the_host_shows_it(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    options("simulated", failing=["reboot:Final"])
    verbs.reboot(id)
    cloud.wait(lambda: verbs.state(id) == "running")
    assert instance(id).reason == "simulated failure of reboot"


def test_without_any_host_an_instance_waits_and_is_built_when_one_comes(
    bare_cloud: InProcessCloud, verbs: Verbs
) -> None:
    bare_cloud.scheduler("h1")
    bare_cloud.network("h1")
    [id] = verbs.run()
    bare_cloud.wait(lambda: instance(id).waits >= 1)
    assert "no compute host is registered" in str(instance(id).reason)
    bare_cloud.compute("h1")
    bare_cloud.wait(lambda: verbs.state(id) == "running")


def test_an_instance_no_host_could_ever_take_is_refused_with_every_hosts_numbers(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", memory_mib=1024)
    cloud.stop("compute@h1")
    cloud.compute("h1")
    [id] = verbs.run(flavor="m1.small")
    cloud.wait(lambda: verbs.state(id) == "error")
    assert "h1: memory: 2048 MiB wanted, 512 of 512 free" in str(instance(id).reason)
    cloud.wait(lambda: rows(models.Address) == [])
    verbs.terminate(id)
    assert verbs.state(id) == "terminated"


def test_a_full_host_makes_an_instance_wait_until_there_is_room(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", memory_mib=512 + 96)
    cloud.stop("compute@h1")
    cloud.compute("h1")
    [first] = verbs.run()
    cloud.wait(lambda: verbs.state(first) == "running")
    [second] = verbs.run()
    cloud.wait(lambda: instance(second).waits >= 1)
    assert verbs.state(second) == "scheduling"
    verbs.terminate(first)
    cloud.wait(lambda: verbs.state(second) == "running")


def test_a_build_waits_while_the_networks_host_is_down(
    bare_cloud: InProcessCloud, verbs: Verbs
) -> None:
    bare_cloud.compute("h1")
    bare_cloud.scheduler("h1")
    [id] = verbs.run()

    def waits() -> bool:
        row = instance(id)
        return row.waits >= 2 and (row.state, row.attempts) == ("building", 0)

    bare_cloud.wait(waits)
    bare_cloud.network("h1")
    bare_cloud.wait(lambda: verbs.state(id) == "running")


def test_an_address_is_given_on_only_when_its_network_has_let_go_of_it(
    cloud: InProcessCloud, verbs: Verbs, pause: Callable[[str], threading.Event]
) -> None:
    [first] = verbs.run()
    cloud.wait(lambda: verbs.state(first) == "running")
    [booking] = [row for row in rows(models.Address) if isinstance(row, models.Address)]
    held = pause("apply_network.read")
    verbs.terminate(first)
    cloud.wait(lambda: verbs.state(first) == "terminated")
    [left] = [row for row in rows(models.Address) if isinstance(row, models.Address)]
    assert (left.address, left.leaving is not None) == (booking.address, True)
    held.set()
    cloud.wait(lambda: rows(models.Address) == [])
    assert cloud.wires["h1"].doubles == []


def test_a_repeated_reboot_finds_its_own_start_and_is_done(
    bare_cloud: InProcessCloud, verbs: Verbs
) -> None:
    cloud = bare_cloud
    cloud.network("h1")
    cloud.scheduler("h1")
    cloud.life = Unswept
    cloud.compute("h1")
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    session.send_with(lambda nudges: None)
    verbs.reboot(id)
    row = instance(id)
    life = cloud.lives["compute@h1"]
    # the apply ran and its daemon died before the END: the sweep runs it again
    type(life.manager).reboot_instance.apply(life.manager, Context("again"), row)
    session.send_with(rpc.send)
    life.sweep()
    cloud.wait(lambda: verbs.state(id) == "running")
    assert starts(cloud.hypervisors["h1"], id) == 2


@transaction
def take_over(tx: Tx, id: str) -> None:
    tx.changed(
        sa.update(models.Host).where(models.Host.id == id).values(epoch=models.Host.epoch + 1)
    )


def test_a_daemon_whose_place_was_taken_moves_nothing_and_ends(
    cloud: InProcessCloud,
    verbs: Verbs,
    pause: Callable[[str], threading.Event],
    options: Options,
    still_hearts: Callable[[], None],
) -> None:
    still_hearts()
    held = pause("spawn.domain_started")
    [id] = verbs.run()
    assert held.inside.wait(100)  # type: ignore[attr-defined]
    take_over("compute@h1")
    held.set()
    life = cloud.lives["compute@h1"]
    cloud.wait(lambda: not life.manager.work.claimed)
    assert verbs.state(id) == "building"
    options("daemon", heartbeat_s=0.2)
    life._beat_for_ever()
    assert life.fenced.is_set()


def test_a_guest_that_switches_itself_off_is_shown_stopped(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    cloud.hypervisors["h1"].halt(id)
    cloud.wait(lambda: verbs.state(id) == "stopped")
    verbs.start(id)
    cloud.wait(lambda: verbs.state(id) == "running")


def test_a_domain_that_vanished_is_an_error_until_it_is_back(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    driver = cloud.hypervisors["h1"]
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    before = driver._file(id).read_text()
    driver._file(id).unlink()
    cloud.wait(lambda: verbs.state(id) == "error")
    assert instance(id).reason == "its domain is gone from the host"
    driver._file(id).write_text(before)
    cloud.wait(lambda: verbs.state(id) == "running")


def test_a_guest_whose_disk_is_not_there_is_not_started_with_an_empty_one(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    driver = cloud.hypervisors["h1"]
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    elsewhere = driver.path / "unmounted"
    driver._file(id).rename(elsewhere)
    verbs.reboot(id)
    cloud.wait(lambda: instance(id).reason == "Its disk is not on this host")
    assert verbs.state(id) == "error"
    assert driver.domains() == {}
    elsewhere.rename(driver._file(id))
    cloud.wait(lambda: verbs.state(id) == "running")


def test_what_never_ran_gets_its_disk_by_a_reboot(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", failing=["spawn:Final"])
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "error")
    verbs.reboot(id)
    cloud.wait(lambda: verbs.state(id) == "running")


def test_a_sweep_before_its_end_does_not_bring_a_guest_back_into_the_filter(
    cloud: InProcessCloud, verbs: Verbs, pause: Callable[[str], threading.Event]
) -> None:
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    held = pause("terminate_instance.unprotected")
    verbs.terminate(id)
    assert held.inside.wait(60)  # type: ignore[attr-defined]
    manager = cloud.lives["compute@h1"].manager
    manager.sweep()
    assert cloud.hypervisors["h1"]._filter()["ports"] == {}
    assert not manager.filters()
    held.set()
    cloud.wait(lambda: verbs.state(id) == "terminated")
    cloud.wait(lambda: rows(models.Address) == [])


def test_what_ends_something_is_tried_again_by_the_workers_kept_for_it(
    bare_cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("work", workers=3)
    bare_cloud.network("h1")
    bare_cloud.compute("h1")
    bare_cloud.scheduler("h1")
    [id] = verbs.run()
    bare_cloud.wait(lambda: verbs.state(id) == "running")
    options("simulated", failing=["destroy"])
    options("work", sweep_s=60)
    go = threading.Event()
    queue = bare_cloud.lives["compute@h1"].manager.work
    for number in range(2):
        queue.add(f"slow{number}", "build", lambda: go.wait(60))
    verbs.terminate(id)
    bare_cloud.wait(lambda: instance(id).reason == "simulated failure of destroy")
    options("simulated", failing=[])
    bare_cloud.wait(lambda: verbs.state(id) == "terminated", 50)
    assert not go.is_set()
    go.set()


def test_a_domain_without_a_row_is_removed_a_few_at_a_time(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    driver = cloud.hypervisors["h1"]
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    for number in range(5):
        name = f"ec20000{number}-0000-0000-0000-000000000000"
        driver._write(simulated.Domain(name, "running", 1))
    cloud.wait(lambda: set(driver.domains()) == {id})


def test_a_daemon_that_is_stopped_says_last_that_it_is_down(
    cloud: InProcessCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A heartbeat was under way when it was stopped."""
    inside, go = threading.Event(), threading.Event()

    def ping() -> None:
        inside.set()
        go.wait(30)

    monkeypatch.setattr(cloud.hypervisors["h1"], "ping", ping)
    assert inside.wait(30)
    life = cloud.lives["compute@h1"]
    ending = threading.Thread(target=cloud.stop, args=["compute@h1"])
    ending.start()
    ending.join(1)  # it ends now, if it does not wait for the heartbeat
    go.set()
    ending.join(30)
    cloud.wait(lambda: not any(thread.is_alive() for thread in life._threads))
    [row] = (host for host in rows(models.Host) if host.id == "compute@h1")
    assert row.heartbeat is None


def test_a_database_older_than_the_host_cleans_nothing_up(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    driver = cloud.hypervisors["h1"]
    cloud.stop("compute@h1")

    @transaction
    def restore(tx: Tx) -> None:
        tx.changed(sa.update(models.Host).values(epoch=0))

    restore()
    driver._write(simulated.Domain(ORPHAN, "running", 1))
    swept = threading.Event()
    cloud.compute("h1")
    manager = cloud.lives["compute@h1"].manager
    manager.work.add("probe", "probe", swept.set)
    assert swept.wait(20)
    manager.sweep()
    assert manager.trusted is False
    assert set(cloud.hypervisors["h1"].domains()) == {ORPHAN}


def beats() -> int:
    [host] = (host for host in rows(models.Host) if host.id == "compute@h1")
    return int(host.beats)


def restore(number: int, id: str = "compute@h1") -> None:
    """The database is one from when the daemon, which had begun before, had beaten so often."""

    @transaction
    def change(tx: Tx) -> None:
        mine = sa.update(models.Host).where(models.Host.id == id)
        tx.changed(mine.values(beats=number))

    change()


def test_a_database_restored_while_a_daemon_lives_cleans_nothing_up(cloud: InProcessCloud) -> None:
    driver, life = cloud.hypervisors["h1"], cloud.lives["compute@h1"]
    cloud.wait(lambda: beats() > 4)
    assert life.manager.trusted
    restore(1)
    cloud.wait(lambda: not life.manager.trusted)
    driver._write(simulated.Domain(ORPHAN, "running", 1))
    life.manager.sweep()
    assert set(driver.domains()) == {ORPHAN}


def test_a_sweep_that_is_quicker_than_the_heartbeat_finds_that_out_itself(
    bare_cloud: InProcessCloud, options: Options
) -> None:
    options("daemon", heartbeat_s=3600)
    bare_cloud.life = Unswept
    bare_cloud.compute("h1")
    driver, life = bare_cloud.hypervisors["h1"], bare_cloud.lives["compute@h1"]
    bare_cloud.wait(lambda: beats() == 1 and life._beats == 1)
    restore(0)
    driver._write(simulated.Domain(ORPHAN, "running", 1))
    life.sweep()
    assert not life.manager.trusted
    assert set(driver.domains()) == {ORPHAN}


class Orphan(NamedTuple):
    """What no row names on a host: `listed.method()` is how its daemon finds it."""

    listed: Any
    method: str
    plant: Callable[[], Any]
    there: Callable[[], bool]


def guest(cloud: InProcessCloud) -> Orphan:
    driver = cloud.compute("h1")
    plant = functools.partial(driver._write, simulated.Domain(ORPHAN, "running", 1))
    return Orphan(driver, "inventory", plant, lambda: ORPHAN in driver.domains())


def network(cloud: InProcessCloud) -> Orphan:
    cloud.network("h1")
    wires = cloud.wires["h1"]
    return Orphan(wires, "inventory", lambda: wires._write(77, {}), lambda: 77 in wires.serving())


def volume(cloud: InProcessCloud) -> Orphan:
    disks = cloud.volume("h1")
    plant = functools.partial(disks.create, ORPHAN, 1)
    return Orphan(disks, "volumes", plant, lambda: ORPHAN in disks.volumes())


def file(cloud: InProcessCloud) -> Orphan:
    cloud.objectstore("h1")
    path = store.directory() / images.fresh_file(ORPHAN)
    return Orphan(store, "names", path.touch, path.exists)


@pytest.mark.parametrize("kind", [guest, network, volume, file])
def test_a_sweep_during_which_the_database_is_restored_cleans_nothing_up(
    bare_cloud: InProcessCloud,
    options: Options,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    kind: Callable[[InProcessCloud], Orphan],
) -> None:
    """It has listed the host and not read the rows; the next heartbeat is far."""
    options("daemon", heartbeat_s=3600)
    options("objectstore", path=str(tmp_path / "files"))
    bare_cloud.life = Unswept
    orphan = kind(bare_cloud)
    [life] = bare_cloud.lives.values()
    bare_cloud.wait(lambda: life._beats == 1)
    look = getattr(orphan.listed, orphan.method)

    def look_and_restore() -> Any:
        orphan.plant()
        found = look()
        restore(0, life.id)
        return found

    monkeypatch.setattr(orphan.listed, orphan.method, look_and_restore)
    life.manager.sweep()
    bare_cloud.wait(life.manager.work.idle)
    assert not life.manager.trusted
    assert orphan.there()
    monkeypatch.undo()
    auditing.mend(life.manager, trust=True)
    bare_cloud.wait(lambda: not orphan.there())


def test_a_database_restored_between_two_lives_cleans_nothing_up(cloud: InProcessCloud) -> None:
    cloud.wait(lambda: beats() > 4)
    cloud.stop("compute@h1")
    known = beats()
    cloud.compute("h1")
    cloud.wait(lambda: beats() > known)
    assert cloud.lives["compute@h1"].manager.trusted
    cloud.stop("compute@h1")
    restore(1)
    cloud.compute("h1")
    assert not cloud.lives["compute@h1"].manager.trusted


def test_two_schedulers_never_book_a_host_twice(
    bare_cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", memory_mib=512 + 5 * 96)
    options("scheduler", chunk=3)
    bare_cloud.compute("h1")
    bare_cloud.network("h1")
    bare_cloud.scheduler("s1")
    bare_cloud.scheduler("s2")
    accepted = verbs.run(4) + verbs.run(4)
    bare_cloud.wait(
        lambda: (
            sum(verbs.state(id) == "running" for id in accepted) == 5
            and all(instance(id).waits for id in accepted if verbs.state(id) == "scheduling")
        )
    )
    assert sorted(verbs.state(id) for id in accepted) == ["running"] * 5 + ["scheduling"] * 3


def test_a_row_that_kills_its_daemon_is_tried_alone_and_then_given_up(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("simulated", start_s=60)
    options("daemon", stop_s=0.1)
    [poisoned] = verbs.run()
    cloud.wait(lambda: instance(poisoned).attempts == 1)
    cloud.stop("compute@h1")
    assert instance(poisoned).attempts == 0, "a polite stop is nobody's failure"

    @transaction
    def died(tx: Tx) -> None:
        changed = sa.update(models.Instance).where(models.Instance.id == poisoned)
        tx.changed(changed.values(attempts=work.CONF.tries))

    died()
    cloud.compute("h1")
    cloud.wait(lambda: verbs.state(poisoned) == "error")
    assert instance(poisoned).reason == f"{work.CONF.tries} tries did not end"


def test_an_attempt_that_waits_is_given_back_once_when_its_daemon_is_stopped(
    cloud: InProcessCloud,
    verbs: Verbs,
    options: Options,
    pause: Callable[[str], threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has just been written that it waits."""
    options("daemon", stop_s=0.1)

    def spawn(guest: object, check: object) -> None:
        raise errors.TryLater(reason="the hypervisor is away")

    monkeypatch.setattr(cloud.hypervisors["h1"], "spawn", spawn)
    written = pause("work._note_in.committed")
    [id] = verbs.run()
    assert written.inside.wait(30)  # type: ignore[attr-defined]
    cloud.stop("compute@h1")
    assert instance(id).waits == 1
    assert instance(id).attempts == 0


def test_a_row_that_was_just_claimed_when_its_daemon_was_stopped_is_not_begun(
    cloud: InProcessCloud,
    verbs: Verbs,
    options: Options,
    pause: Callable[[str], threading.Event],
) -> None:
    options("daemon", stop_s=0.1)
    claimed = pause("work._claim.committed")
    [id] = verbs.run()
    assert claimed.inside.wait(100)  # type: ignore[attr-defined]
    place = "scheduler@h1" if verbs.state(id) == "scheduling" else "compute@h1"
    cloud.stop(place)
    assert instance(id).attempts == 1
    claimed.set()
    cloud.wait(lambda: instance(id).attempts == 0)
    assert instance(id).reason == "its daemon was stopped"
    assert not cloud.hypervisors["h1"].history


def test_every_working_state_has_an_end_and_every_end_a_method() -> None:
    for machine in states.MACHINES:
        for state, work_ in machine.work.items():
            assert hasattr(work_.method, "rpc_topic"), f"{machine.name} {state}"
            assert state not in machine.finals
        reachable = set(machine.created)
        for _ in range(10):
            reachable |= {to for to in machine.states if machine.asked(to) & reachable}
            reachable |= {w.done for s, w in machine.work.items() if s in reachable}
        assert machine.finals <= reachable, machine.name
