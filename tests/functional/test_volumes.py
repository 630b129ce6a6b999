"""Volumes: what is said of them is so, whatever dies, is lost, is doubled or comes late."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from minicloud import errors, interfaces, rpc, work
from minicloud.cloud import quotas, volumes
from minicloud.context import Context, admin
from minicloud.db import models, session
from minicloud.db.session import Tx, reading, transaction
from tests.conftest import InProcessCloud
from tests.databases import database
from tests.functional.conftest import Verbs

__all__ = ["database"]  # a fixture: each test runs on every engine

Options = Callable[..., None]


@reading
def volume(tx: Tx, id: str) -> models.Volume:
    return tx.scalars(sa.select(models.Volume).where(models.Volume.id == id)).one()


@reading
def attachments(tx: Tx) -> list[models.Attachment]:
    model = models.Attachment
    return list(tx.scalars(sa.select(model).order_by(model.created_at, model.id)))


@reading
def remembered(tx: Tx) -> set[str]:
    """What daemons say to have applied."""
    return set(tx.scalars(sa.select(models.Applied.thing)))


@transaction
def restore_from_before(tx: Tx, attachment: str, wanted: int) -> None:
    """The database is one of before the attachment, and so of before many heartbeats."""
    volumes_ = sa.select(models.Volume.id)
    tx.changed(sa.delete(models.Applied).where(models.Applied.thing.in_(volumes_)))
    tx.changed(sa.delete(models.Attachment).where(models.Attachment.id == attachment))
    tx.changed(sa.update(models.Volume).values(state="available", wanted=wanted))
    tx.changed(sa.update(models.Host).values(beats=0))


class Storage:
    """Each call is a new request of the same user."""

    def __init__(self, cloud: InProcessCloud, caller: Callable[[], Context]) -> None:
        self.cloud = cloud
        self.caller = caller

    def create(self, size_gib: int = 1) -> str:
        return volumes.create(self.caller(), size_gib=size_gib, zone="nova").row.id

    def created(self, size_gib: int = 1) -> str:
        id = self.create(size_gib)
        self.cloud.wait(lambda: self.state(id) == "available")
        return id

    def attach(self, volume: str, instance: str, device: str | None = "/dev/vdb") -> str:
        return volumes.attach(self.caller(), volume, instance, device).id

    def attached(self, volume: str, instance: str, device: str | None = "/dev/vdb") -> str:
        id = self.attach(volume, instance, device)
        self.cloud.wait(lambda: self.attachment(id).state == "attached")
        return id

    def detach(self, volume: str) -> None:
        volumes.detach(self.caller(), volume)

    def delete(self, volume: str) -> None:
        volumes.delete(self.caller(), volume)

    @staticmethod
    def state(id: str) -> str:
        return volume(id).state

    @staticmethod
    def attachment(id: str) -> models.Attachment:
        return next(one for one in attachments() if one.id == id)

    def letters(self, instance: str) -> tuple[str, ...]:
        return self.cloud.hypervisors["h1"].domains()[instance].volumes

    def exports(self) -> dict[str, str]:
        return self.cloud.stores["h1"].present()


@pytest.fixture
def storage(cloud: InProcessCloud, caller: Callable[[], Context]) -> Storage:
    cloud.volume("h1")
    return Storage(cloud, caller)


@pytest.fixture
def guest(cloud: InProcessCloud, verbs: Verbs) -> str:
    """A running instance."""
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    return id


def test_a_volume_is_made_attached_detached_and_deleted_and_leaves_nothing(
    cloud: InProcessCloud, storage: Storage, guest: str
) -> None:
    id = storage.created()
    assert cloud.stores["h1"].volumes() == {id}
    held = storage.attached(id, guest)
    assert storage.letters(guest) == ("b",)
    assert storage.exports() == {held: id}
    storage.detach(id)
    cloud.wait(lambda: storage.attachment(held).state == "detached")
    assert storage.letters(guest) == ()
    cloud.wait(lambda: storage.exports() == {})
    storage.delete(id)
    cloud.wait(lambda: storage.state(id) == "deleted")
    assert cloud.stores["h1"].volumes() == set()


def test_it_is_exported_before_it_is_attached_and_until_it_is_detached(
    cloud: InProcessCloud, storage: Storage, guest: str
) -> None:
    id = storage.created()
    held = storage.attached(id, guest)
    storage.detach(id)
    cloud.wait(lambda: storage.exports() == {} and storage.attachment(held).state == "detached")
    store, hypervisor = cloud.stores["h1"].history, cloud.hypervisors["h1"].history
    cloud.wait(lambda: any(e.what == "withdraw" for e in store))  # written after it is done
    done = [(e.at, e.what) for e in [*store, *hypervisor] if e.id == held]
    order = [what for _, what in sorted(done)]
    assert order[:4] == ["serve", "attached", "detached", "withdraw"]


def test_lost_nudges_only_cost_time(cloud: InProcessCloud, storage: Storage, guest: str) -> None:
    session.send_with(lambda nudges: None)
    id = storage.created()
    held = storage.attached(id, guest)
    storage.detach(id)
    cloud.wait(lambda: storage.attachment(held).state == "detached")
    cloud.wait(lambda: storage.exports() == {})
    storage.delete(id)
    cloud.wait(lambda: storage.state(id) == "deleted")


def test_nudges_that_come_ten_times_attach_once(
    cloud: InProcessCloud, storage: Storage, guest: str
) -> None:
    id = storage.created()
    held = storage.attach(id, guest)
    for _ in range(10):
        rpc.send([rpc.Nudge(interfaces.Compute.attach_volume, held, "h1")])
        rpc.send([rpc.Nudge(interfaces.Volume.create_volume, id, "h1")])
    cloud.wait(lambda: storage.attachment(held).state == "attached")
    history = cloud.hypervisors["h1"].history
    assert [e.what for e in history if e.id == held] == ["attached"]
    assert cloud.hypervisors["h1"].overlaps == []


def test_volumes_survive_reboot_and_stop_and_start(
    cloud: InProcessCloud, storage: Storage, verbs: Verbs, guest: str
) -> None:
    id = storage.created()
    storage.attached(id, guest)
    verbs.reboot(guest)
    cloud.wait(lambda: verbs.state(guest) == "running")
    assert storage.letters(guest) == ("b",)
    verbs.stop(guest)
    cloud.wait(lambda: verbs.state(guest) == "stopped")
    storage.attached(storage.created(), guest, "/dev/sdd")
    verbs.start(guest)
    cloud.wait(lambda: verbs.state(guest) == "running")
    assert storage.letters(guest) == ("b", "d")


def test_a_volume_of_a_stopped_guest_is_detached(
    cloud: InProcessCloud, storage: Storage, verbs: Verbs, guest: str
) -> None:
    id = storage.created()
    held = storage.attached(id, guest)
    verbs.stop(guest)
    cloud.wait(lambda: verbs.state(guest) == "stopped")
    storage.detach(id)
    cloud.wait(lambda: storage.attachment(held).state == "detached")
    verbs.start(guest)
    cloud.wait(lambda: verbs.state(guest) == "running")
    assert storage.letters(guest) == ()


def test_a_server_that_forgot_its_exports_gets_them_back(
    cloud: InProcessCloud, storage: Storage, guest: str
) -> None:
    id = storage.created()
    held = storage.attached(id, guest)
    cloud.stores["h1"].forget_exports()
    cloud.wait(lambda: storage.exports() == {held: id})


def test_terminating_detaches_after_the_domain_is_gone(
    cloud: InProcessCloud, storage: Storage, verbs: Verbs, guest: str
) -> None:
    id = storage.created()
    held = storage.attached(id, guest)
    verbs.terminate(guest)
    cloud.wait(lambda: verbs.state(guest) == "terminated")
    assert storage.attachment(held).state == "detached"
    cloud.wait(lambda: storage.exports() == {})
    history = cloud.stores["h1"].history
    cloud.wait(lambda: any(e.what == "withdraw" for e in history))  # written after it is done
    [destroyed] = [e.at for e in cloud.hypervisors["h1"].history if e.what == "destroy"]
    [withdrawn] = [e.at for e in history if e.what == "withdraw"]
    assert destroyed < withdrawn
    again = verbs.run()[0]
    cloud.wait(lambda: verbs.state(again) == "running")
    storage.attached(id, again)


def test_terminating_overtakes_an_attach_and_a_detach(
    cloud: InProcessCloud, storage: Storage, verbs: Verbs, options: Options
) -> None:
    guests = verbs.run(2)
    cloud.wait(lambda: all(verbs.state(id) == "running" for id in guests))
    first, second = storage.created(), storage.created()
    held = storage.attached(second, guests[1])
    options("simulated", failing=["attach", "detach"])
    storage.attach(first, guests[0])
    storage.detach(second)
    verbs.terminate(*guests)
    cloud.wait(lambda: all(verbs.state(id) == "terminated" for id in guests))
    assert {one.state for one in attachments()} == {"detached"}
    assert storage.attachment(held).holds_volume is None
    cloud.wait(lambda: storage.exports() == {})


def test_an_attach_that_fails_ends_detached_with_its_reason_and_holds_nothing(
    cloud: InProcessCloud, storage: Storage, guest: str, options: Options
) -> None:
    id = storage.created()
    options("simulated", failing=["attach:Final"])
    held = storage.attach(id, guest)
    cloud.wait(lambda: storage.attachment(held).state == "detached")
    assert storage.attachment(held).reason == "simulated failure of attach"
    options("simulated", failing=[])
    storage.attached(id, guest)


def test_a_detach_that_fails_says_what_the_host_shows(
    cloud: InProcessCloud, storage: Storage, guest: str, options: Options
) -> None:
    id = storage.created()
    held = storage.attached(id, guest)
    options("simulated", failing=["detach:Final"])
    storage.detach(id)
    cloud.wait(lambda: storage.attachment(held).state == "attached")
    assert storage.attachment(held).reason == "simulated failure of detach"
    assert storage.exports() == {held: id}


def test_a_disk_that_the_guest_lost_is_not_said_to_be_attached(
    cloud: InProcessCloud, storage: Storage, guest: str
) -> None:
    held = storage.attached(storage.created(), guest)
    cloud.hypervisors["h1"].detach(guest, "b", held, lambda: None)
    cloud.wait(lambda: storage.attachment(held).state == "detached")
    assert storage.attachment(held).reason == "the guest lost the disk"


def test_an_attach_waits_while_the_volumes_host_is_down(
    cloud: InProcessCloud, storage: Storage, guest: str
) -> None:
    id = storage.created()
    cloud.stop("volume@h1")
    held = storage.attach(id, guest)
    cloud.wait(lambda: storage.attachment(held).waits >= 1)
    assert storage.attachment(held).state == "attaching"
    cloud.volume("h1")
    cloud.wait(lambda: storage.attachment(held).state == "attached")


def test_of_two_attaches_at_once_one_wins(
    cloud: InProcessCloud, storage: Storage, verbs: Verbs
) -> None:
    guests = verbs.run(2)
    cloud.wait(lambda: all(verbs.state(id) == "running" for id in guests))
    id = storage.created()
    told: list[str] = []
    both = threading.Barrier(2)

    def attach(instance: str) -> None:
        both.wait(20)
        try:
            storage.attach(id, instance)
            told.append("accepted")
        except errors.VolumeInUse:
            told.append("refused")

    threads = [threading.Thread(target=attach, args=(one,)) for one in guests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(told) == ["accepted", "refused"]
    cloud.wait(lambda: [one.state for one in attachments()] == ["attached"])


def test_wrong_states_are_refused(
    cloud: InProcessCloud, storage: Storage, verbs: Verbs, guest: str
) -> None:
    id = storage.created()
    with pytest.raises(errors.WrongVolumeState):
        storage.detach(id)
    held = storage.attached(id, guest)
    with pytest.raises(errors.VolumeInUse):
        storage.delete(id)
    with pytest.raises(errors.VolumeInUse):
        storage.attach(id, guest, "/dev/vdc")
    with pytest.raises(errors.InvalidValue):
        storage.attach(storage.created(), guest, "/dev/xvdb")
    with pytest.raises(errors.AttachmentNotFound):
        volumes.detach(storage.caller(), id, device="/dev/vdc")
    assert storage.attachment(held).state == "attached"
    verbs.terminate(guest)
    cloud.wait(lambda: verbs.state(guest) == "terminated")
    with pytest.raises(errors.Conflict):
        storage.attach(id, guest)


def test_a_volume_waits_for_a_host_and_is_refused_by_one_that_is_too_small(
    cloud: InProcessCloud, caller: Callable[[], Context], options: Options
) -> None:
    storage = Storage(cloud, caller)
    early = storage.create()
    cloud.wait(lambda: volume(early).waits >= 1)
    options("simulated_volume", total_gib=5)
    cloud.volume("h1")
    cloud.wait(lambda: storage.state(early) == "available")
    large = storage.create(6)
    cloud.wait(lambda: storage.state(large) == "error")
    assert "h1: 6 GiB wanted, 4 of 5 free" in str(volume(large).reason)
    storage.delete(large)
    assert storage.state(large) == "deleted"


def test_quotas_of_volumes_and_gigabytes(storage: Storage, caller: Callable[[], Context]) -> None:
    project = caller().project
    quotas.change(admin(), project, "volumes", 2)
    quotas.change(admin(), project, "gigabytes", 10)
    first = storage.created(8)
    with pytest.raises(errors.VolumeLimitExceeded):
        storage.create(3)
    storage.create(2)
    with pytest.raises(errors.VolumeLimitExceeded):
        storage.create(1)
    storage.delete(first)
    storage.cloud.wait(lambda: storage.state(first) == "deleted")
    storage.create(8)


def test_a_creation_that_fails_again_and_again_is_an_error_and_can_be_deleted(
    cloud: InProcessCloud, storage: Storage, options: Options
) -> None:
    options("simulated_volume", failing=["create"])
    id = storage.create()
    cloud.wait(lambda: storage.state(id) == "error")
    assert volume(id).reason == "simulated failure of create"
    assert volume(id).attempts <= work.CONF.tries
    options("simulated_volume", failing=[])
    storage.delete(id)
    cloud.wait(lambda: storage.state(id) == "deleted")


def test_a_nudge_that_comes_after_the_end_of_its_volume_leaves_nothing(
    cloud: InProcessCloud, storage: Storage
) -> None:
    id = storage.created()
    storage.delete(id)
    cloud.wait(lambda: storage.state(id) == "deleted")
    manager = cloud.lives["volume@h1"].manager
    manager.apply_exports(Context("late"), id)
    cloud.wait(manager.work.idle)
    assert id not in remembered()


def test_a_database_from_before_an_attachment_cuts_no_guest_off(
    cloud: InProcessCloud, storage: Storage, guest: str
) -> None:
    id = storage.created()
    before = volume(id)
    held = storage.attached(id, guest)
    cloud.wait(lambda: all(life._beats > 0 for life in cloud.lives.values()))
    restore_from_before(held, before.wanted)
    served = cloud.stores["h1"].history
    cloud.lives["volume@h1"].sweep()
    cloud.lives["compute@h1"].sweep()
    cloud.wait(lambda: not any(life.manager.trusted for life in cloud.lives.values()))
    assert storage.exports() == {held: id}
    assert storage.letters(guest) == ("b",)
    second = storage.attach(id, guest)  # a change is made whole, as far as this volume goes
    cloud.wait(lambda: storage.exports() == {second: id})
    cloud.wait(lambda: [e.what for e in served if e.id == held] == ["serve", "withdraw"])


def test_what_no_row_has_is_put_away(cloud: InProcessCloud, storage: Storage) -> None:
    kept = storage.created()
    store = cloud.stores["h1"]
    store.create("ec200000-0000-0000-0000-000000000000", 1)
    cloud.wait(lambda: store.volumes() == {kept})


def test_secrets_are_stored_encrypted_and_named_by_nothing(
    cloud: InProcessCloud, storage: Storage, guest: str, caplog: pytest.LogCaptureFixture
) -> None:
    from minicloud.auth import secrets

    caplog.set_level("DEBUG")
    held = storage.attached(storage.created(), guest)
    stored = storage.attachment(held).secret
    password = secrets.decrypt(stored)
    assert password not in stored
    assert password not in caplog.text
