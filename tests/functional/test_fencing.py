"""A host that died is fenced and evacuated, and its return harms nobody, whenever it comes.

Daemons of several hosts in this process; "stopped" is held at a checkpoint, as SIGSTOP would hold
it anywhere.
"""

from __future__ import annotations

import json
import pathlib
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from minicloud import checkpoint, daemon, errors, rpc, states
from minicloud.cloud import fencing, groups, hosts, networks, shown, statuses, volumes
from minicloud.cloud.rules import RuleSpec
from minicloud.compute.manager import Manager as Compute
from minicloud.compute.simulated import FILTER
from minicloud.compute.simulated import Simulated as Hypervisor
from minicloud.context import Context, admin
from minicloud.db import models
from minicloud.db.session import Tx, reading, transaction
from minicloud.network.manager import Manager as Network
from tests.conftest import InProcessCloud
from tests.databases import SERVERS, database
from tests.functional.conftest import Verbs, instance, rows

__all__ = ["database"]  # a fixture: each test runs on every engine

Options = Callable[..., None]
Actions = dict[str, Callable[[], None]]


@pytest.fixture
def at() -> Iterator[Actions]:
    """What happens at a checkpoint, by its name."""
    actions: Actions = {}

    def hook(name: str) -> None:
        if name in actions:
            actions[name]()

    checkpoint.hook = hook
    yield actions
    checkpoint.hook = None


class Stopped:
    """The first who comes to that checkpoint is held there until it may go on."""

    def __init__(self, at: Actions, name: str) -> None:
        self.there, self._go_on = threading.Event(), threading.Event()
        self._actions, self._name = at, name
        at[name] = self

    def __call__(self) -> None:
        self._actions.pop(self._name, None)
        self.there.set()
        self._go_on.wait(300)

    def wait(self) -> None:
        assert self.there.wait(100), f"nobody came to {self._name}"

    def go_on(self) -> None:
        self._go_on.set()


class Rack:
    """Compute hosts h1 and h2; what all need is on h3."""

    def __init__(self, cloud: InProcessCloud, verbs: Verbs) -> None:
        self.cloud = cloud
        self.verbs = verbs
        for begin in (cloud.network, cloud.volume, cloud.scheduler):
            begin("h3")
        for host in ("h1", "h2"):
            cloud.compute(host)
        cloud.wait(lambda: {self.state("h1"), self.state("h2")} == {"up"})

    def run_on(self, host: str, count: int = 1) -> list[str]:
        """Ids of instances that run on the host."""
        others = {"h1", "h2"} - {host}
        for other in others:
            fencing.enable(admin(), other, False)
        accepted = self.verbs.run(count)
        self.running(accepted)
        for other in others:
            fencing.enable(admin(), other, True)
        assert {instance(id).host for id in accepted} == {host}
        return accepted

    def running(self, accepted: list[str]) -> None:
        self.cloud.wait(lambda: all(self.verbs.state(id) == "running" for id in accepted))

    def domains(self, host: str) -> dict[str, str]:
        found = self.cloud.hypervisors[host].domains().values()
        return {domain.id: domain.state for domain in found}

    def die(self, host: str = "h1") -> None:
        """Every daemon of the host ends without a word, and the operator says so."""
        for id in [id for id in self.cloud.lives if id.endswith(f"@{host}")]:
            life = self.cloud.lives.pop(id)
            life.rest(5)
            life.fenced.set()  # it will never find that out
        fencing.fence(admin(), host, force=True)

    def come_back(self, host: str = "h1") -> None:
        self.cloud.compute(host)

    @staticmethod
    def state(host: str, kind: str = "compute") -> str:
        found = hosts.services(admin())
        return next(one.state for one in found if (one.row.host, one.row.daemon) == (host, kind))


@pytest.fixture
def rack(bare_cloud: InProcessCloud, verbs: Verbs) -> Rack:
    return Rack(bare_cloud, verbs)


def begin(driver: Hypervisor, host: str) -> daemon.Life:
    """A compute daemon begins, or has failed to."""
    life = daemon.Life(Compute(driver, wired=False), host, "nova")
    life.begin()
    return life


@reading
def address(tx: Tx, id: str) -> tuple[str, str]:
    model = models.Address
    row = tx.scalars(sa.select(model).where(model.instance_id == id)).one()
    return row.address, row.mac


@reading
def moves(tx: Tx, id: str) -> list[str]:
    model = models.Event
    moved = sa.select(model.to_state).where(model.resource_id == id).order_by(model.id)
    return list(tx.scalars(moved))


def starts(rack: Rack, host: str, id: str) -> int:
    history = rack.cloud.hypervisors[host].history
    return sum((entry.what, entry.id) == ("started", id) for entry in history)


# --- fencing --------------------------------------------------------------------------------


def test_a_host_that_gives_signs_of_life_is_not_fenced_by_mistake(rack: Rack) -> None:
    with pytest.raises(errors.StillAlive, match="compute daemon of host h1 still lives"):
        fencing.fence(admin(), "h1")
    assert rack.state("h1") == "up"
    with pytest.raises(errors.NotFenced):
        fencing.evacuate(admin(), "h1")
    for act in (fencing.fence, fencing.evacuate, fencing.rebind):
        with pytest.raises(errors.HostNotFound):
            act(admin(), "h9")
    with pytest.raises(errors.Forbidden):
        fencing.fence(Context("req-x", "user", "project"), "h1")


def test_a_daemon_that_is_fenced_ends_at_its_next_sign_of_life(rack: Rack) -> None:
    life = rack.cloud.lives["compute@h1"]
    fencing.fence(admin(), "h1", force=True)
    assert rack.state("h1") == "fenced"
    rack.cloud.wait(life.fenced.is_set)
    assert life.wait(0)


def test_a_daemon_that_was_replaced_takes_no_nudge_from_the_one_in_its_place(
    bare_cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    options("work", sweep_s=3600)  # or the sweep would hide a nudge that was lost
    for daemon_ in (bare_cloud.network, bare_cloud.scheduler, bare_cloud.compute):
        daemon_("h1")
    replaced = bare_cloud.lives["compute@h1"]
    bare_cloud.compute("h1")
    bare_cloud.wait(replaced.fenced.is_set)
    for _ in range(8):
        ids = verbs.run()
        bare_cloud.wait(lambda ids=ids: verbs.state(ids[0]) == "running")


def test_a_daemon_that_is_fenced_before_it_listens_never_does(
    bare_cloud: InProcessCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on, stopped = threading.Event(), threading.Event(), threading.Event()

    class Late:
        """A server that came when all was over."""

        stop = staticmethod(stopped.set)
        wait = staticmethod(stopped.set)

    def serve(*what: object) -> Late:
        asked.set()
        assert go_on.wait(100)
        return Late()

    monkeypatch.setattr(rpc, "serve", serve)
    life = daemon.Life(
        Compute(Hypervisor(bare_cloud.directory("simulated", "h1")), False), "h1", "nova"
    )
    life.begin()
    assert asked.wait(100)
    life.fence()
    go_on.set()
    assert stopped.wait(100)
    assert not life.ready.is_set()


def test_a_daemon_that_is_fenced_ends_instead_of_taking_up_work(
    rack: Rack, verbs: Verbs, still_hearts: Callable[[], None]
) -> None:
    still_hearts()  # begun anew it beats once
    rack.cloud.stop("compute@h1")
    rack.come_back()
    rack.cloud.wait(lambda: rack.state("h1") == "up")
    [id] = rack.run_on("h1")
    life = rack.cloud.lives["compute@h1"]
    fencing.fence(admin(), "h1", force=True)
    verbs.stop(id)
    rack.cloud.wait(life.fenced.is_set)
    assert (verbs.state(id), rack.domains("h1")) == ("stopping", {id: "running"})


def test_what_was_being_built_is_built_elsewhere(
    rack: Rack, verbs: Verbs, at: Actions, still_hearts: Callable[[], None]
) -> None:
    still_hearts()
    fencing.enable(admin(), "h2", False)
    stopped = Stopped(at, "spawn.image_cached")
    [id] = verbs.run()
    stopped.wait()
    fencing.enable(admin(), "h2", True)
    fencing.fence(admin(), "h1", force=True)
    rack.cloud.wait(lambda: verbs.state(id) == "running")
    assert instance(id).host == "h2"
    stopped.go_on()
    rack.cloud.wait(rack.cloud.lives["compute@h1"].fenced.is_set)
    assert (rack.domains("h1"), rack.domains("h2")) == ({}, {id: "running"})


def test_a_host_that_was_only_fenced_comes_back_with_all_it_had(rack: Rack) -> None:
    accepted = rack.run_on("h1", 2)
    rack.die()
    assert rack.state("h1") == "fenced"
    before = {id: starts(rack, "h1", id) for id in accepted}
    rack.come_back()
    rack.cloud.wait(lambda: rack.state("h1") == "up")
    assert rack.domains("h1") == dict.fromkeys(accepted, "running")
    assert {rack.verbs.state(id) for id in accepted} == {"running"}
    assert before == dict.fromkeys(accepted, 1)


# --- evacuation -----------------------------------------------------------------------------


def test_instances_come_back_elsewhere_as_they_were(rack: Rack, verbs: Verbs) -> None:
    runs, off, was_going = rack.run_on("h1", 3)
    verbs.stop(off)
    rack.cloud.wait(lambda: verbs.state(off) == "stopped")
    had = {id: address(id) for id in (runs, off, was_going)}
    rack.die()
    verbs.stop(was_going)  # nobody there can do it
    moved = fencing.evacuate(admin(), "h1")
    assert {(one.now, one.rest) for one in moved} == {
        ("scheduling", "running"),
        ("scheduling", "stopped"),
    }
    rack.cloud.wait(lambda: verbs.state(runs) == "running")
    rack.cloud.wait(lambda: {verbs.state(off), verbs.state(was_going)} == {"stopped"})
    assert {id: address(id) for id in had} == had
    assert {instance(id).host for id in had} == {"h2"}
    assert rack.domains("h2") == {runs: "running", off: "stopped", was_going: "stopped"}
    assert moves(off)[-3:] == ["scheduling", "building", "stopped"], "never said to run"
    verbs.start(off)
    rack.cloud.wait(lambda: verbs.state(off) == "running")
    assert fencing.evacuate(admin(), "h1") == []


def test_users_see_an_instance_that_is_made_anew_and_can_end_it(rack: Rack, verbs: Verbs) -> None:
    first, second = rack.run_on("h1", 2)
    rack.cloud.stop("compute@h2")
    rack.die()
    fencing.evacuate(admin(), "h1")
    rack.cloud.wait(lambda: instance(first).waits)
    row = instance(first)
    assert shown.instance_state(row.state, row.rest) == "pending"
    assert statuses.status(row.state, row.rest) == "REBUILD"
    assert statuses.task_state(row.state, row.rest) == "rebuilding"
    verbs.terminate(second)
    assert verbs.state(second) == "terminated"
    rack.cloud.wait(lambda: len(rows(models.Address)) == 1)
    rack.cloud.compute("h2")
    rack.running([first])


def test_an_instance_that_was_somewhere_waits_for_room_as_long_as_it_takes(
    rack: Rack, options: Options
) -> None:
    options("scheduler", tries=1)
    [id] = rack.run_on("h1")
    rack.cloud.stop("compute@h2")
    rack.die()
    fencing.evacuate(admin(), "h1")
    rack.cloud.wait(lambda: instance(id).waits >= 2)
    assert rack.verbs.state(id) == "scheduling"
    rack.cloud.compute("h2")
    rack.running([id])


def test_what_never_ran_keeps_nothing_and_what_ends_ends(
    rack: Rack, verbs: Verbs, options: Options
) -> None:
    fencing.enable(admin(), "h2", False)
    options("simulated", failing=["spawn:Final"])
    [broken] = verbs.run()
    rack.cloud.wait(lambda: verbs.state(broken) == "error")
    options("simulated", failing=["destroy"])
    [ending] = verbs.run()
    rack.running([ending])
    verbs.terminate(ending)
    rack.cloud.wait(lambda: instance(ending).attempts)
    rack.die()
    options("simulated", failing=[])
    fencing.evacuate(admin(), "h1")
    assert (verbs.state(broken), verbs.state(ending)) == ("error", "terminated")
    assert instance(broken).host is None
    rack.cloud.wait(lambda: rows(models.Address) == [])
    rack.come_back()
    rack.cloud.wait(lambda: rack.domains("h1") == {})


def test_terminate_on_a_fenced_host_is_at_once(rack: Rack, verbs: Verbs) -> None:
    [id] = rack.run_on("h1")
    rack.die()
    verbs.terminate(id)
    assert verbs.state(id) == "terminated"
    rack.cloud.wait(lambda: rows(models.Address) == [])
    rack.come_back()
    rack.cloud.wait(lambda: rack.state("h1") == "up")
    assert rack.domains("h1") == {}


def test_a_host_that_was_given_up_is_forgotten_when_nothing_is_left_of_it(
    rack: Rack, verbs: Verbs
) -> None:
    [id] = rack.run_on("h1")
    with pytest.raises(errors.NotFenced):
        fencing.forget(admin(), "h1")
    rack.die()
    with pytest.raises(errors.InUse, match="1 instances"):
        fencing.forget(admin(), "h1")
    verbs.terminate(id)
    fencing.forget(admin(), "h1")
    assert {row.host for row in rows(models.Host)} == {"h2", "h3"}
    assert "compute@h1" not in {row.host for row in rows(models.Applied)}
    with pytest.raises(errors.HostNotFound):
        fencing.forget(admin(), "h1")


def test_an_evacuation_that_is_cut_short_is_finished_by_the_next_and_moves_each_once(
    rack: Rack, at: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "TOGETHER", 1)
    accepted = rack.run_on("h1", 3)
    rack.die()
    for name in ("commit", "committed"):

        def die() -> None:
            raise KeyboardInterrupt

        at[f"cloud.fencing._leave.{name}"] = die
        with pytest.raises(KeyboardInterrupt):
            fencing.evacuate(admin(), "h1")
        at.clear()
    fencing.evacuate(admin(), "h1")
    rack.running(accepted)
    assert [moves(id).count("scheduling") for id in accepted] == [2, 2, 2]  # asked, and moved
    assert [starts(rack, "h2", id) for id in accepted] == [1, 1, 1]


# --- coming back ----------------------------------------------------------------------------


def test_a_host_first_lets_go_of_what_was_handed_over_and_then_is_given_new_work(
    rack: Rack, verbs: Verbs, at: Actions
) -> None:
    accepted = rack.run_on("h1", 5)
    rack.die()
    fencing.evacuate(admin(), "h1")
    rack.running(accepted)
    rack.cloud.stop("compute@h2")
    [waiting] = verbs.run()
    stopped = Stopped(at, "daemon.let_go")
    begin = threading.Thread(target=rack.come_back)
    begin.start()
    stopped.wait()
    assert rack.domains("h1") == {}, "more than a sweep would take, and before anything else"
    assert (rack.state("h1"), verbs.state(waiting)) == ("fenced", "scheduling")
    stopped.go_on()
    begin.join(30)
    rack.running([waiting])
    assert rack.domains("h1") == {waiting: "running"}


def test_what_is_handed_over_while_a_host_comes_back_is_let_go_of_too(
    rack: Rack, verbs: Verbs, at: Actions
) -> None:
    moved, ended = rack.run_on("h1", 2)
    rack.die()
    let_go: list[set[str]] = []
    steps = [lambda: fencing.evacuate(admin(), "h1"), lambda: verbs.terminate(ended)]

    def meanwhile() -> None:
        let_go.append(set(rack.domains("h1")))
        if steps:
            steps.pop()()

    at["daemon.let_go"] = meanwhile
    rack.come_back()
    assert let_go == [{moved, ended}, {moved}, set()]
    rack.running([moved])
    assert len(rack.domains("h1") | rack.domains("h2")) == 1


def test_a_host_that_is_back_is_not_evacuated_any_further(
    rack: Rack, at: Actions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fencing, "TOGETHER", 1)
    accepted = rack.run_on("h1", 2)
    rack.die()

    def come_back() -> None:
        at.clear()
        rack.come_back()

    at["cloud.fencing._leave.committed"] = come_back
    with pytest.raises(errors.NotFenced, match="came back"):
        fencing.evacuate(admin(), "h1")
    rack.running(accepted)
    by_host = [rack.domains("h1"), rack.domains("h2")]
    assert sorted(id for domains in by_host for id in domains) == sorted(accepted)


@pytest.mark.parametrize(
    "name",
    [
        "build_instance.addressed",
        "build_instance.exported",
        "spawn.disk_made",
        "spawn.domain_defined",
        "spawn.domain_started",
    ],
)
def test_a_process_stopped_inside_a_build_that_wakes_after_the_evacuation_leaves_one_guest(
    rack: Rack,
    verbs: Verbs,
    at: Actions,
    options: Options,
    still_hearts: Callable[[], None],
    name: str,
) -> None:
    still_hearts()
    options("daemon", stop_s=100)  # the host is looked through when its verbs have ended
    fencing.enable(admin(), "h2", False)
    stopped = Stopped(at, name)
    [id] = verbs.run()
    stopped.wait()
    fencing.enable(admin(), "h2", True)
    fencing.fence(admin(), "h1", force=True)
    fencing.evacuate(admin(), "h1")
    rack.running([id])
    stopped.go_on()
    rack.cloud.wait(rack.cloud.lives["compute@h1"].fenced.is_set)
    assert (rack.domains("h1"), rack.domains("h2")) == ({}, {id: "running"})
    assert (instance(id).host, verbs.state(id)) == ("h2", "running")
    assert rack.cloud.wires["h3"].doubles == []


@pytest.mark.parametrize("verb", ["start", "reboot", "stop", "terminate"])
def test_a_process_stopped_inside_any_verb_does_nothing_more_to_what_is_anothers(
    rack: Rack, verbs: Verbs, at: Actions, still_hearts: Callable[[], None], verb: str
) -> None:
    [id] = rack.run_on("h1")
    if verb == "start":
        verbs.stop(id)
        rack.cloud.wait(lambda: verbs.state(id) == "stopped")
    still_hearts()
    method = f"{verb}_instance"
    stopped = Stopped(at, f"{method}.claimed")
    getattr(verbs, verb)(id)
    stopped.wait()
    fencing.fence(admin(), "h1", force=True)
    fencing.evacuate(admin(), "h1")
    wanted = {"stop": "stopped", "terminate": "terminated"}.get(verb, "running")
    rack.cloud.wait(lambda: verbs.state(id) == wanted)
    stopped.go_on()
    rack.cloud.wait(rack.cloud.lives["compute@h1"].fenced.is_set)
    assert rack.domains("h1") == {}
    assert verbs.state(id) == wanted
    there = {} if wanted == "terminated" else {id: wanted}
    assert rack.domains("h2") == there


def test_the_process_that_wakes_is_gone_and_the_next_one_cleans_up_what_it_could_not(
    rack: Rack, at: Actions
) -> None:
    """kill -9 after the step and before anything was undone: the start is what counts."""
    [id] = rack.run_on("h1")
    rack.die()
    fencing.evacuate(admin(), "h1")
    rack.running([id])
    assert id in rack.domains("h1"), "nobody has taken it away yet"
    rack.come_back()
    assert rack.domains("h1") == {}


def test_a_database_older_than_the_host_takes_nothing_away(rack: Rack) -> None:
    [id] = rack.run_on("h1")
    rack.die()
    fencing.evacuate(admin(), "h1")

    @transaction
    def restore(tx: Tx) -> None:
        tx.changed(sa.update(models.Host).values(epoch=0))

    restore()
    life = begin(rack.cloud.hypervisors["h1"], "h1")
    assert life.failed.is_set()
    assert rack.state("h1") == "fenced"
    assert id in rack.domains("h1")


# --- volumes --------------------------------------------------------------------------------


@reading
def attachment(tx: Tx) -> models.Attachment:
    return tx.scalars(sa.select(models.Attachment)).one()


def attached(rack: Rack, verbs: Verbs, id: str) -> str:
    """A volume of h3 in the instance."""
    volume = volumes.create(verbs.caller(), size_gib=1, zone="nova").row.id
    rack.cloud.wait(lambda: volume_of(volume).state == "available")
    volumes.attach(verbs.caller(), volume, id, "/dev/vdb")
    rack.cloud.wait(lambda: attachment().state == "attached")
    return volume


@reading
def volume_of(tx: Tx, id: str) -> models.Volume:
    return tx.scalars(sa.select(models.Volume).where(models.Volume.id == id)).one()


def test_a_volume_is_entered_from_its_new_host_only_after_the_old_one_was_put_out(
    rack: Rack, verbs: Verbs, at: Actions, options: Options
) -> None:
    options("work", applied_wait_s=0.2)
    [id] = rack.run_on("h1")
    attached(rack, verbs, id)
    before = attachment()
    rack.die()
    stopped = Stopped(at, "apply_exports.read")
    fencing.evacuate(admin(), "h1")
    stopped.wait()
    rack.cloud.wait(lambda: instance(id).host and instance(id).waits)
    assert (verbs.state(id), rack.domains("h2")) == ("building", {})
    stopped.go_on()
    rack.running([id])
    after = attachment()
    assert (after.id, after.state, after.host) == (before.id, "attached", "h2")
    assert after.secret != before.secret
    store, hypervisor = rack.cloud.stores["h3"], rack.cloud.hypervisors["h2"]
    assert list(store.present()) == [after.export_id]
    left = max(e.at for e in store.history if (e.what, e.id) == ("withdraw", before.export_id))
    [entered] = [
        e.at for e in hypervisor.history if (e.what, e.id) == ("entered", after.export_id)
    ]
    assert left < entered
    assert hypervisor.domains()[id].volumes == ("b",)


def test_a_volume_of_an_instance_without_a_host_can_be_detached_and_used(
    rack: Rack, verbs: Verbs
) -> None:
    [id] = rack.run_on("h1")
    [other] = rack.run_on("h2")
    volume = attached(rack, verbs, id)
    fencing.enable(admin(), "h2", False)
    rack.die()
    fencing.evacuate(admin(), "h1")
    volumes.detach(verbs.caller(), volume)
    assert attachment().state == "detached"
    rack.cloud.wait(lambda: rack.cloud.stores["h3"].present() == {})
    volumes.attach(verbs.caller(), volume, other, "/dev/vdc")
    rack.cloud.wait(lambda: rack.cloud.hypervisors["h2"].domains()[other].volumes == ("c",))


def test_volumes_of_a_fenced_host_are_in_error_until_it_is_back(rack: Rack, verbs: Verbs) -> None:
    kept = volumes.create(verbs.caller(), size_gib=1, zone="nova").row.id
    rack.cloud.wait(lambda: volume_of(kept).state == "available")
    rack.cloud.lives.pop("volume@h3").rest(0)
    ended = volumes.create(verbs.caller(), size_gib=1, zone="nova").row.id
    rack.cloud.wait(lambda: volume_of(ended).state == "creating")
    for id in ("network@h3", "scheduler@h3"):
        rack.cloud.stop(id)
    fencing.fence(admin(), "h3", force=True)
    assert (volume_of(kept).state, volume_of(ended).state) == ("error", "placing")
    assert volume_of(ended).host is None
    assert volume_of(kept).reason == "its bytes are on host h3, which is fenced"
    rack.cloud.scheduler("h3")
    rack.cloud.volume("h3")
    rack.cloud.wait(lambda: volume_of(kept).state == "available")
    rack.cloud.wait(lambda: volume_of(ended).state == "available")
    assert rack.cloud.stores["h3"].volumes() == {kept, ended}


# --- networks -------------------------------------------------------------------------------


def test_networks_are_served_by_another_host_and_by_one_only(rack: Rack, verbs: Verbs) -> None:
    [first] = rack.run_on("h1")
    rack.cloud.network("h2")
    rack.cloud.scheduler("h2")
    old = rack.cloud.wires["h3"]
    rack.cloud.lives.pop("network@h3").rest(0)
    fencing.fence(admin(), "h3", force=True)
    [moved] = [one for one in fencing.evacuate(admin(), "h3") if one.kind == "network"]
    assert (moved.id, moved.now) == ("private", "h2")
    [second] = rack.run_on("h1")
    [network] = networks.find(admin())
    assert set(rack.cloud.wires["h2"].served(network.number)) == {
        address(first)[0],
        address(second)[0],
    }
    rack.cloud._live(Network(old), "h3")  # its namespaces outlived it
    assert old.serving() == set()
    rack.cloud.wait(lambda: rack.state("h3", "network") == "up")
    verbs.terminate(first)
    rack.cloud.wait(lambda: len(rows(models.Address)) == 1)


def test_a_network_daemon_stopped_while_it_serves_wakes_and_serves_no_more(
    rack: Rack, at: Actions, still_hearts: Callable[[], None]
) -> None:
    rack.cloud.stop("network@h3")
    still_hearts()
    stopped = Stopped(at, "apply_network.served")
    old = rack.cloud.network("h3")
    life = rack.cloud.lives.pop("network@h3")
    stopped.wait()
    rack.cloud.network("h2")
    fencing.fence(admin(), "h3", force=True)
    fencing.evacuate(admin(), "h3")
    stopped.go_on()
    rack.cloud.wait(life.fenced.is_set)
    assert old.serving() == set()
    assert networks.find(admin())[0].host == "h2"


def all_is_applied(cloud: InProcessCloud) -> bool:
    """The network and the group are served as they are wanted, and nothing is queued."""
    wanted = {row.id: row.wanted for row in [*rows(models.Network), *rows(models.SecurityGroup)]}
    applied = {row.thing: row.applied for row in rows(models.Applied)}
    idle = all(life.manager.work.counts() == (0, 0) for life in cloud.lives.values())
    return applied == wanted and idle


# SQLite's writers take turns: there is no same moment
@pytest.mark.parametrize("database", SERVERS, indirect=True)
def test_an_address_is_free_when_the_last_two_let_go_of_it_at_the_same_moment(
    bare_cloud: InProcessCloud, verbs: Verbs, at: Actions, options: Options
) -> None:
    options("work", sweep_s=3600)  # which would free it
    for daemon_ in (bare_cloud.network, bare_cloud.scheduler, bare_cloud.compute):
        daemon_("h1")
    stays, goes = verbs.run(2)  # the filter lists their group until after the last has gone
    bare_cloud.wait(lambda: verbs.state(stays) == verbs.state(goes) == "running")
    bare_cloud.wait(lambda: all_is_applied(bare_cloud))  # or what is held is of the launch
    served = Stopped(at, "apply_network.served")
    storing = Stopped(at, "compute.manager._store_groups.commit")
    stored = threading.Event()
    at["network.manager._store.committed"] = stored.set
    verbs.terminate(goes)
    served.wait()
    storing.wait()
    served.go_on()
    stored.wait(1)  # in vain, when it waits for the other as it must
    storing.go_on()
    bare_cloud.wait(lambda: len(rows(models.Address)) == 1)


def test_a_network_that_nobody_can_serve_waits_for_the_first_that_comes(rack: Rack) -> None:
    rack.cloud.network("h1")
    rack.cloud.stop("network@h1")
    rack.cloud.lives.pop("network@h3").rest(0)
    fencing.fence(admin(), "h3", force=True)
    [moved] = [one for one in fencing.evacuate(admin(), "h3") if one.kind == "network"]
    assert moved.now is None
    rack.cloud.network("h1")
    rack.cloud.scheduler("h3")
    rack.run_on("h2")


# --- one name, two machines -----------------------------------------------------------------


Machine = Callable[[str], None]


@pytest.fixture
def machine(options: Options, tmp_path: pathlib.Path) -> Machine:
    """`machine("a")`: what begins from now on, begins there."""

    def be(name: str) -> None:
        state = tmp_path / f"machine-{name}"
        state.mkdir(exist_ok=True)
        (state / "id").write_text(f"{name}\n")
        options("daemon", machine_id_file=str(state / "id"))
        options("DEFAULT", state_path=str(state))

    be("a")
    return be


def test_a_name_is_another_machines_only_when_the_operator_says_so(
    bare_cloud: InProcessCloud, verbs: Verbs, machine: Machine
) -> None:
    machine("a")
    rack = Rack(bare_cloud, verbs)
    [id] = rack.run_on("h1")
    old = rack.cloud.hypervisors["h1"]
    with pytest.raises(errors.NotFenced):
        fencing.rebind(admin(), "h1")
    rack.die()
    machine("b")
    new = Hypervisor(rack.cloud.path / "b")
    assert begin(new, "h1").failed.is_set(), "the name belongs to a"
    fencing.evacuate(admin(), "h1")
    rack.running([id])
    fencing.rebind(admin(), "h1", "b")
    machine("c")
    assert begin(new, "h1").failed.is_set(), "the name is for b"
    machine("b")
    rack.cloud._live(Compute(new, wired=False), "h1")
    rack.cloud.wait(lambda: rack.state("h1") == "up")
    machine("a")
    assert begin(old, "h1").failed.is_set()
    assert old.domains() == {}
    assert (verbs.state(id), rack.domains("h2")) == ("running", {id: "running"})


def test_a_name_is_one_machines_whichever_daemon_comes_first(
    bare_cloud: InProcessCloud, machine: Machine
) -> None:
    machine("a")
    bare_cloud.network("h1")
    machine("b")
    other = Hypervisor(bare_cloud.path / "b")
    assert begin(other, "h1").failed.is_set(), "the name belongs to a"
    assert [row.id for row in rows(models.Host)] == ["network@h1"]
    machine("a")
    bare_cloud.compute("h1")


@pytest.mark.parametrize("said", [None, "", "uninitialized\n"])
def test_a_machine_that_does_not_say_which_it_is_gets_no_name(
    bare_cloud: InProcessCloud, options: Options, tmp_path: pathlib.Path, said: str | None
) -> None:
    file = tmp_path / "said"
    if said is not None:
        file.write_text(said)
    options("daemon", machine_id_file=str(file))
    manager = Compute(Hypervisor(tmp_path / "h1"), wired=False)
    with pytest.raises(SystemExit, match=r"\[daemon\] machine_id_file"):
        daemon.run(manager)
    assert begin(manager.driver, "h1").failed.is_set()
    assert rows(models.Host) == []


def test_a_process_stopped_on_the_old_machine_ends_what_it_has_when_it_wakes(
    bare_cloud: InProcessCloud,
    verbs: Verbs,
    at: Actions,
    options: Options,
    still_hearts: Callable[[], None],
    machine: Machine,
) -> None:
    machine("a")
    rack = Rack(bare_cloud, verbs)
    rack.cloud.stop("compute@h1")
    still_hearts()
    options("daemon", stop_s=100)  # the host is looked through when its verbs have ended
    rack.cloud.compute("h1")
    fencing.enable(admin(), "h2", False)
    stopped = Stopped(at, "spawn.domain_defined")
    [id] = verbs.run()
    stopped.wait()
    first, old = rack.cloud.lives.pop("compute@h1"), rack.cloud.hypervisors["h1"]
    fencing.fence(admin(), "h1", force=True)
    fencing.rebind(admin(), "h1")
    machine("b")
    options("daemon", heartbeat_s=0.2)
    new = Hypervisor(rack.cloud.path / "b")
    rack.cloud._live(Compute(new, wired=False), "h1")
    rack.running([id])
    assert set(new.domains()) == {id}
    machine("a")
    stopped.go_on()
    rack.cloud.wait(first.fenced.is_set)
    assert old.domains() == {}, "the row names h1, but h1 is another machine now"
    assert (verbs.state(id), set(new.domains())) == ("running", {id})


# --- addresses ------------------------------------------------------------------------------


def lists(rack: Rack, host: str, wanted: str) -> bool:
    file = rack.cloud.hypervisors[host].path / FILTER
    return any(wanted in members for members in json.loads(file.read_text())["members"].values())


def test_an_address_is_given_on_only_when_no_hosts_filter_lists_it(
    rack: Rack, verbs: Verbs, at: Actions
) -> None:
    [first] = rack.run_on("h1")
    rack.run_on("h2")  # of the same group, whose members reach each other
    number, _ = address(first)
    assert lists(rack, "h2", number)
    rack.cloud.stop("compute@h2")  # cut off: its filter stays as it is
    verbs.terminate(first)
    rack.cloud.wait(lambda: verbs.state(first) == "terminated")
    manager = rack.cloud.lives["network@h3"].manager
    manager.sweep()
    rack.cloud.wait(manager.work.idle)
    assert address(first)[0] == number, "h2 would let the next owner in"
    rack.cloud.compute("h2")
    rack.cloud.wait(lambda: len(rows(models.Address)) == 1)
    assert not lists(rack, "h2", number)
    assert rows(models.GroupLeaving) == []


def test_a_host_that_is_fenced_does_not_keep_addresses(rack: Rack, verbs: Verbs) -> None:
    [first] = rack.run_on("h1")
    rack.run_on("h2")
    rack.cloud.lives.pop("compute@h2").rest(0)
    verbs.terminate(first)
    rack.cloud.wait(lambda: verbs.state(first) == "terminated")
    fencing.fence(admin(), "h2", force=True)
    rack.cloud.wait(lambda: len(rows(models.Address)) == 1)


def test_a_host_that_has_only_read_the_members_keeps_their_addresses_too(
    rack: Rack, verbs: Verbs, at: Actions, options: Options
) -> None:
    """Its first guest of the group is being built: its filter lists them in a moment."""
    [first] = rack.run_on("h1")
    rack.die()
    rack.cloud.stop("compute@h2")
    options("work", sweep_s=3600)
    reads: list[str] = []
    at["protect.read"] = lambda: reads.append("h2")
    rack.cloud.compute("h2")
    rack.cloud.wait(lambda: len(reads) == 2)  # its start's and its sweep's, of nothing
    stopped = Stopped(at, "protect.read")
    [second] = verbs.run()
    stopped.wait()
    verbs.terminate(first)
    assert verbs.state(first) == "terminated"
    manager = rack.cloud.lives["network@h3"].manager
    manager.sweep()
    rack.cloud.wait(manager.work.idle)
    assert first in {row.instance_id for row in rows(models.Address)}
    stopped.go_on()
    rack.running([second])
    rack.cloud.wait(lambda: [row.instance_id for row in rows(models.Address)] == [second])


def test_a_rule_that_was_revoked_keeps_the_address_until_the_host_has_forgotten_the_group(
    rack: Rack, verbs: Verbs, at: Actions
) -> None:
    """By the rows the host has no part in the group any more; by its filter it has."""
    [first] = rack.run_on("h1")
    [second] = rack.run_on("h2")
    number, _ = address(first)
    [default] = groups.find(verbs.caller(), names=["default"]).items
    rule = RuleSpec(protocol="-1", source_group="default")
    rack.cloud.stop("compute@h2")
    groups.revoke(verbs.caller(), name="default", rules=[rule])
    verbs.terminate(first)
    rack.cloud.wait(lambda: verbs.state(first) == "terminated")
    manager = rack.cloud.lives["network@h3"].manager
    manager.sweep()
    rack.cloud.wait(manager.work.idle)
    assert address(first)[0] == number
    rack.cloud.compute("h2")
    rack.cloud.wait(lambda: [row.instance_id for row in rows(models.Address)] == [second])
    assert default.row.name == "default"


def test_every_move_for_a_fenced_host_ends_where_a_daemon_or_nobody_waits() -> None:
    for machine in states.MACHINES:
        for to in machine.fenced:
            assert not machine.handed_over(to) & machine.finals
            work = machine.work.get(to)
            assert work is None or work.host is None, "the fenced host would have to act"
