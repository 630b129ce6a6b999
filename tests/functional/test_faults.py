"""What must be true when the database, the host or the hypervisor fails in the wrong moment.

Each test runs on every engine.  Errors of a database are raised at the checkpoint just
before the commit: there everything the body did is done, and all of it must be undone.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import threading
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy import exc
from typing_extensions import override

from minicloud import checkpoint, concurrency, daemon, errors, ids, rpc, states, work
from minicloud.cloud import images
from minicloud.compute import manager as compute_manager
from minicloud.compute import simulated
from minicloud.compute.driver import Domain
from minicloud.context import Context
from minicloud.db import clouds, hosts, migrate, models, session
from minicloud.db.session import Tx, transaction
from minicloud.objectstore import uploads
from minicloud.scheduler import manager as scheduler_manager
from tests.conftest import InProcessCloud
from tests.databases import SERVERS, another, database
from tests.functional.conftest import Verbs, instance, rows

__all__ = ["database"]  # a fixture: each test runs on every engine

Options = Callable[..., None]
Actions = dict[str, Callable[[], None]]

ORPHAN = "ec200000-0000-0000-0000-000000000000"
OTHER = "ec200000-0000-0000-0000-00000000000a"


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


class Raising:
    """Raise what `make` makes, the first `left` times."""

    def __init__(self, make: Callable[[], Exception], left: int = 1) -> None:
        self.make = make
        self.left = left

    def __call__(self) -> None:
        if self.left > 0:
            self.left -= 1
            raise self.make()


def deadlock() -> Exception:
    return exc.OperationalError("COMMIT", None, Exception(1213, "Deadlock found"))


def lock_held() -> Exception:
    return exc.OperationalError("UPDATE", None, Exception(1205, "Lock wait timeout exceeded"))


def defect() -> Exception:
    return exc.IntegrityError("INSERT", None, Exception(1062, "Duplicate entry"))


class Absent(simulated.Simulated):
    """A hypervisor that does not answer before it is `there`."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path)
        self.asked = threading.Event()
        self.there = threading.Event()

    @override
    def connect(self) -> None:
        self.asked.set()
        if not self.there.is_set():
            raise errors.TryLater(reason="libvirtd does not answer")
        super().connect()


class Remembering(simulated.Simulated):
    """A hypervisor that remembers whose disks it was to keep."""

    def __init__(self, path: pathlib.Path) -> None:
        super().__init__(path)
        self.kept: dict[str, bool] = {}

    @override
    def destroy(self, id: str, *, keep_disk: bool = False) -> None:
        super().destroy(id, keep_disk=keep_disk)
        self.kept[id] = keep_disk


def compute(cloud: InProcessCloud, driver: simulated.Simulated) -> daemon.Life:
    """The compute daemon of h1 begins, with a hypervisor of the test's own."""
    life = daemon.Life(compute_manager.Manager(driver, wired=False), "h1", "nova")
    cloud.lives[life.id] = life
    cloud.hypervisors["h1"] = driver
    concurrency.start("begin", life.begin)
    return life


@transaction
def register(tx: Tx, daemon: str, machine_id: str) -> models.Host:
    facts = {"boot_id": "boot", "version": "1.0", "zone": "nova"}
    return hosts.register(tx, host="h1", daemon=daemon, machine_id=machine_id, **facts)[0]


@transaction
def change_hosts(tx: Tx, /, **values: object) -> None:
    tx.changed(sa.update(models.Host).values(**values))


# --- the database ---------------------------------------------------------------------------


def test_an_end_that_deadlocks_is_run_again_at_once(
    cloud: InProcessCloud, verbs: Verbs, at: Actions
) -> None:
    at["work._end.commit"] = fault = Raising(deadlock)
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    assert fault.left == 0
    built = [entry for entry in cloud.hypervisors["h1"].history if entry.what == "spawn"]
    assert len(built) == 1, "the END was left to the next sweep"


def test_an_upload_whose_last_step_deadlocks_is_active(
    caller: Callable[[], Context], at: Actions
) -> None:
    image = images.register(caller(), name="x", kind="machine")
    me = states.Daemon("objectstore@h1", "h1", register("objectstore", "machine").epoch)
    row = uploads.begin(image.id, me)
    at["objectstore.uploads.finish.commit"] = fault = Raising(deadlock)
    uploads.finish(caller(), row, size=1, sha256="0" * 64, format="raw", virtual_size=1)
    assert fault.left == 0
    assert uploads.get(image.id).state == "active"


@pytest.mark.parametrize("error", [lock_held, defect])
def test_errors_of_the_database_are_nobodys_failure(
    cloud: InProcessCloud,
    verbs: Verbs,
    options: Options,
    at: Actions,
    error: Callable[[], Exception],
) -> None:
    options("work", sweep_s=0.2, tries=2)
    at["work._end.commit"] = fault = Raising(error, 4)
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) in ("running", "error"))
    assert (verbs.state(id), instance(id).reason) == ("running", None)
    assert fault.left == 0


def test_waits_that_could_not_be_noted_are_nobodys_failure(
    bare_cloud: InProcessCloud, verbs: Verbs, options: Options, at: Actions
) -> None:
    options("work", sweep_s=0.2, tries=2)
    at["work._note_in.commit"] = fault = Raising(lock_held, 4)
    bare_cloud.compute("h1")
    bare_cloud.scheduler("h1")
    [id] = verbs.run()
    bare_cloud.wait(lambda: fault.left == 0 or verbs.state(id) == "error")
    bare_cloud.wait(lambda: instance(id).waits or verbs.state(id) == "error")
    assert (verbs.state(id), fault.left) == ("building", 0)
    assert instance(id).attempts <= 1
    bare_cloud.network("h1")
    bare_cloud.wait(lambda: verbs.state(id) == "running")


WAITING = {
    "mysql": "SELECT variable_value FROM information_schema.global_status"
    " WHERE variable_name = 'Innodb_row_lock_current_waits'",
    "postgresql": "SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT granted",
}


def waits_for_a_lock() -> bool:
    """Somebody does, on a server."""
    with session.engine().connect() as connection:
        return int(connection.exec_driver_sql(WAITING[connection.dialect.name]).scalar_one()) > 0


@transaction
def active_kernel(tx: Tx, project_id: str) -> str:
    id = ids.new()
    values = {"state": "active", "rest": "active", "request_id": "req-test", "file": "kernel"}
    tx.add(models.Image(id=id, project_id=project_id, name="k", kind="kernel", **values))
    return id


@pytest.mark.parametrize("database", SERVERS, indirect=True)  # SQLite's writers take turns
def test_a_kernel_that_an_image_is_about_to_name_cannot_be_deleted(
    caller: Callable[[], Context], at: Actions
) -> None:
    kernel = active_kernel(caller().project_id)
    registering, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        registering.set()
        go_on.wait(20)

    at["cloud.images._register.commit"] = hold
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        try:
            named = pool.submit(images.register, caller(), name="m", kind="machine", kernel=kernel)
            assert registering.wait(20)
            deleted = pool.submit(images.delete, caller(), kernel)
            InProcessCloud.wait(lambda: deleted.done() or waits_for_a_lock())
        finally:
            go_on.set()
        assert named.result(20).kernel_id == kernel
        assert isinstance(deleted.exception(20), errors.InUse)


@pytest.fixture(params=["sqlite", *SERVERS])
def unsynced(
    request: pytest.FixtureRequest, options: Options, tmp_path: pathlib.Path
) -> Iterator[None]:
    """A database in which nothing was made yet."""
    url = f"sqlite:///{tmp_path}/unsynced.sqlite"
    if request.param in SERVERS:
        url = another(request.getfixturevalue(request.param), "unsynced")
    options("database", connection=url)
    options("rpc", transport_url="fake://")
    yield
    rpc.forget_transport()
    session.forget_engines()


@pytest.fixture
def another_cloud(database: str) -> Iterator[None]:
    """The database becomes that of another cloud, as far as anybody can see."""
    own = clouds.identity()
    set_cloud(OTHER)
    yield
    set_cloud(own)  # the server keeps it for the tests that follow


@transaction
def set_cloud(tx: Tx, id: str) -> None:
    tx.changed(sa.update(models.Cloud).values(id=id))


def test_a_host_does_nothing_with_the_rows_of_another_cloud(
    bare_cloud: InProcessCloud,
    request: pytest.FixtureRequest,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = clouds.identity()
    bare_cloud.compute("h1")
    bare_cloud.stop("compute@h1")
    [before] = rows(models.Host)
    driver = simulated.Simulated(bare_cloud.path / "simulated" / "h1")
    driver._write(Domain(ORPHAN, "running", 1))
    request.getfixturevalue("another_cloud")
    life = compute(bare_cloud, driver)
    assert life.wait(20)
    assert life.failed.is_set()
    assert f"the database is that of cloud {OTHER}, but this host belongs to cloud {own}" in (
        caplog.text
    )
    assert "Traceback" not in caplog.text
    [after] = rows(models.Host)
    assert after.epoch == before.epoch, "the other cloud's daemon of that name would end"  # type: ignore[attr-defined]
    assert set(driver.domains()) == {ORPHAN}

    (bare_cloud.path / "run" / "cloud").unlink()  # as the error says
    bare_cloud.compute("h1")


@transaction
def pause_from_the_future(tx: Tx, id: str) -> None:
    """What the row holds after the clock was set back by an hour in the middle of a pause."""
    pause = {"not_before": models.now(3600), "attempts": 1}
    tx.changed(sa.update(models.Instance).where(models.Instance.id == id).values(**pause))


@pytest.mark.parametrize("state", ["scheduling", "building", "terminating"])
def test_a_row_that_pauses_while_the_clock_is_set_back_does_not_wait_for_it(
    bare_cloud: InProcessCloud, verbs: Verbs, state: str
) -> None:
    bare_cloud.network("h1")
    [id] = verbs.run()
    if state != "scheduling":
        bare_cloud.scheduler("h1")
        bare_cloud.compute("h1")
        bare_cloud.wait(lambda: verbs.state(id) == "running")
        bare_cloud.stop("compute@h1")
        set_state(id, state)
    pause_from_the_future(id)
    bare_cloud.compute("h1")
    if state == "scheduling":
        bare_cloud.scheduler("h1")
    end = "terminated" if state == "terminating" else "running"
    bare_cloud.wait(lambda: verbs.state(id) == end)


@transaction
def set_state(tx: Tx, id: str, state: str) -> None:
    tx.changed(sa.update(models.Instance).where(models.Instance.id == id).values(state=state))


@transaction
def beat_from_the_future(tx: Tx, id: str) -> None:
    tx.changed(
        sa.update(models.Host).where(models.Host.id == id).values(heartbeat=models.now(3600))
    )


def test_a_daemon_that_died_before_the_clock_was_set_back_is_down(
    bare_cloud: InProcessCloud, verbs: Verbs
) -> None:
    bare_cloud.network("h1")
    bare_cloud.scheduler("h1")
    for host in ("h1", "h2"):
        bare_cloud.compute(host)
    bare_cloud.stop("compute@h1")
    beat_from_the_future("compute@h1")
    accepted = verbs.run(4)
    bare_cloud.wait(lambda: {verbs.state(id) for id in accepted} == {"running"})
    assert {instance(id).host for id in accepted} == {"h2"}


@pytest.mark.usefixtures("unsynced")
def test_a_daemon_that_is_started_before_its_tables_are_made_waits_for_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    life = daemon.Life(scheduler_manager.Manager(), "h1", "nova")
    begin = concurrency.start("begin", life.begin)
    try:
        InProcessCloud.wait(lambda: "scheduler@h1 waits" in caplog.text or not begin.is_alive())
        assert not life.failed.is_set()
        migrate.sync()
        assert life.begun.wait(100)
    finally:
        life.end()
        begin.join(20)


DAMAGES = {
    "of something else": lambda file: file.write_bytes(b"no database" * 1000),
    "without its middle": lambda file: file.write_bytes(file.read_bytes()[:4096] + bytes(200_000)),
}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize("damage", sorted(DAMAGES))
def test_a_damaged_database_is_not_there_until_it_is_restored(
    bare_cloud: InProcessCloud, caller: Callable[[], Context], damage: str
) -> None:
    ctx = caller()
    session.forget_engines()  # the last connection writes all into the one file
    file = bare_cloud.path / "minicloud.sqlite"
    before = file.read_bytes()
    DAMAGES[damage](file)
    with pytest.raises(errors.Unavailable, match="does not answer"):
        images.register(ctx, name="x", kind="machine")
    session.forget_engines()
    file.write_bytes(before)
    assert images.register(caller(), name="x", kind="machine").name == "x"


@pytest.mark.usefixtures("unsynced")
def test_what_is_asked_of_a_database_without_tables_is_refused() -> None:
    ctx = Context("req-test", "user", "project")
    with pytest.raises(errors.Unavailable):
        images.register(ctx, name="x", kind="machine")
    with pytest.raises(errors.Unavailable):
        images.shown_to(ctx, ORPHAN)


# --- the host -------------------------------------------------------------------------------


def test_an_instance_waits_for_a_host_that_is_only_starting(
    bare_cloud: InProcessCloud, verbs: Verbs
) -> None:
    bare_cloud.network("h1")
    bare_cloud.scheduler("h1")
    driver = Absent(bare_cloud.path / "simulated" / "h1")
    compute(bare_cloud, driver)
    assert driver.asked.wait(20)  # its row is there now, and says nothing of its size
    [id] = verbs.run()
    bare_cloud.wait(lambda: instance(id).reason)
    assert verbs.state(id) == "scheduling"
    driver.there.set()
    bare_cloud.wait(lambda: verbs.state(id) == "running")


def test_a_daemon_whose_name_belongs_to_another_machine_ends(bare_cloud: InProcessCloud) -> None:
    register("compute", "another machine")
    driver = simulated.Simulated(bare_cloud.path / "simulated" / "h1")
    life = compute(bare_cloud, driver)
    assert life.wait(20), "its process would go on for ever without a daemon in it"
    assert life.failed.is_set()


def test_all_guests_run_again_after_their_host_booted(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    accepted = verbs.run(10)
    cloud.wait(lambda: all(verbs.state(id) == "running" for id in accepted))
    cloud.stop("compute@h1")
    for id in accepted:
        cloud.hypervisors["h1"].halt(id)
    change_hosts(boot_id="before")
    options("simulated", start_s=0.5)  # longer than all of them fit between two sweeps
    driver = cloud.compute("h1")
    cloud.wait(
        lambda: (
            {domain.state for domain in driver.domains().values()} == {"running"}
            and {verbs.state(id) for id in accepted} == {"running"}
        )
    )
    # what a guest does by itself after that is its own business again
    cloud.wait(lambda: not cloud.lives["compute@h1"].manager.host_booted)
    driver.halt(accepted[0])
    cloud.wait(lambda: verbs.state(accepted[0]) == "stopped")


def test_a_simulated_guest_is_off_after_its_hosts_boot_and_is_started_again(
    cloud: InProcessCloud,
    verbs: Verbs,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    cloud.stop("compute@h1")
    (tmp_path / "boot-id").write_text("another\n")
    monkeypatch.setattr(daemon, "BOOT_ID", str(tmp_path / "boot-id"))
    driver = cloud.compute("h1")
    cloud.wait(lambda: "started" in {entry.what for entry in driver.history if entry.id == id})
    cloud.wait(lambda: verbs.state(id) == "running")


def test_a_boot_is_remembered_by_the_daemon_after_the_one_that_died_of_it(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    cloud.stop("compute@h1")
    cloud.hypervisors["h1"].halt(id)
    change_hosts(boot_id="before")
    driver = Absent(cloud.path / "simulated" / "h1")
    life = compute(cloud, driver)
    assert driver.asked.wait(20)  # registered, but libvirtd is not up yet
    cloud.stop(life.id)
    again = cloud.compute("h1")
    cloud.wait(lambda: again.domains()[id].state == "running" and verbs.state(id) == "running")


def test_an_older_database_is_not_trusted_until_the_operator_says_so(
    bare_cloud: InProcessCloud,
) -> None:
    for _ in range(2):
        driver = bare_cloud.compute("h1")
        bare_cloud.stop("compute@h1")
    change_hosts(epoch=0)
    driver._write(Domain(ORPHAN, "running", 1))
    for _ in range(4):  # the restored epoch passes the one this host has seen
        driver = bare_cloud.compute("h1")
        manager = bare_cloud.lives["compute@h1"].manager
        manager.sweep()
        bare_cloud.wait(manager.work.idle)
        assert set(driver.domains()) == {ORPHAN}
        bare_cloud.stop("compute@h1")
    (bare_cloud.path / "run" / "compute@h1.distrusted").unlink()
    driver = bare_cloud.compute("h1")
    bare_cloud.wait(lambda: driver.domains() == {})


def test_a_process_that_was_replaced_while_it_began_distrusts_nothing(
    bare_cloud: InProcessCloud, at: Actions
) -> None:
    """It stood still between its registration and what it remembers of it."""

    def replaced() -> None:
        at.clear()
        bare_cloud.compute("h1")

    at["daemon._register.committed"] = replaced
    driver = simulated.Simulated(bare_cloud.path / "simulated" / "h1")
    late = daemon.Life(compute_manager.Manager(driver, wired=False), "h1", "nova")
    late.begin()
    assert late.fenced.is_set()
    assert not (bare_cloud.path / "run" / "compute@h1.distrusted").exists()


def test_two_hosts_that_share_a_state_path_do_not_distrust_each_other(
    bare_cloud: InProcessCloud,
) -> None:
    bare_cloud.compute("h1")
    bare_cloud.compute("h2")
    trusted = [life.manager.trusted for life in bare_cloud.lives.values()]
    assert trusted == [True, True]


# --- the hypervisor -------------------------------------------------------------------------


def test_a_guest_that_qemu_has_paused_counts_as_running(
    cloud: InProcessCloud, verbs: Verbs, options: Options
) -> None:
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    driver = cloud.hypervisors["h1"]
    driver._write(dataclasses.replace(driver.domains()[id], state="paused"))
    cloud.lives["compute@h1"].manager.sweep()
    assert (verbs.state(id), instance(id).reason) == ("running", None)
    options("simulated", failing=["reboot:Final"])
    verbs.reboot(id)
    cloud.wait(lambda: verbs.state(id) in states.INSTANCE.settled)
    assert (verbs.state(id), instance(id).reason) == ("running", "simulated failure of reboot")


@pytest.mark.parametrize("failing", ["destroy", "destroy:Final"])
def test_terminate_is_tried_until_it_succeeds_and_says_why_it_has_not(
    cloud: InProcessCloud, verbs: Verbs, options: Options, failing: str
) -> None:
    options("work", sweep_s=0.2, tries=2)
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    options("simulated", failing=[failing])
    verbs.terminate(id)
    cloud.wait(lambda: instance(id).attempts > work.CONF.tries or verbs.state(id) == "error")
    assert verbs.state(id) == "terminating"
    assert instance(id).reason == "simulated failure of destroy"
    [booking] = [row for row in rows(models.Address) if isinstance(row, models.Address)]
    assert booking.leaving is None, "given back while the guest may still use it"
    options("simulated", failing=[])
    cloud.wait(lambda: verbs.state(id) == "terminated")
    assert instance(id).reason is None
    assert cloud.hypervisors["h1"].domains() == {}
    cloud.wait(lambda: rows(models.Address) == [])


def test_the_disk_of_an_orphan_is_kept_and_that_of_a_terminated_instance_is_not(
    bare_cloud: InProcessCloud, verbs: Verbs
) -> None:
    bare_cloud.network("h1")
    bare_cloud.scheduler("h1")
    driver = Remembering(bare_cloud.path / "simulated" / "h1")
    compute(bare_cloud, driver)
    [id] = verbs.run()
    bare_cloud.wait(lambda: verbs.state(id) == "running")
    driver._write(Domain(ORPHAN, "running", 1))
    verbs.terminate(id)
    bare_cloud.wait(lambda: driver.domains() == {})
    bare_cloud.wait(lambda: len(driver.kept) == 2)
    assert driver.kept == {id: False, ORPHAN: True}
