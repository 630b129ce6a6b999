"""The auditor: what is right is not named, what is planted is, and is mended."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import auditing, context, findings, ids, rpc
from minicloud.cli import audit as command
from minicloud.cli import commands
from minicloud.cloud import audit, fencing, networks, quotas, volumes
from minicloud.compute.driver import Domain, Firewall
from minicloud.context import Context
from minicloud.db import models, session
from minicloud.db.session import Tx, transaction
from minicloud.findings import KINDS, Finding
from minicloud.objectstore import store
from tests.conftest import InProcessCloud, Unswept
from tests.databases import database
from tests.functional.conftest import Verbs, instance, rows
from tests.functional.test_volumes import volume

__all__ = ["database"]  # a fixture: each test runs on every engine

OF_THE_BROKER = {findings.DEAF, findings.DOUBLED}  # tests/integration/test_audit.py
LONG_AGO = dt.datetime(2020, 1, 1)
TAP = "mc-test-planted"
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)


@transaction
def add(tx: Tx, model: type[models.Base], **values: Any) -> str:
    """A row as nobody would write it; its id."""
    values = {"id": ids.new(), **values}
    tx.execute(sa.insert(model), [values])
    return str(values["id"])


@transaction
def change(tx: Tx, model: Any, id: str, **values: Any) -> None:
    tx.changed(sa.update(model).where(model.id == id).values(**values))


@transaction
def add_plain(tx: Tx, model: type[models.Base], **values: Any) -> None:
    """A row of a table without ids."""
    tx.execute(sa.insert(model), [values])


class World:
    """A cloud with four running guests, the first with a volume, and another volume; one host but
    for a second hypervisor."""

    def __init__(self, cloud: InProcessCloud, verbs: Verbs, caller: Callable[[], Context]) -> None:
        self.cloud, self.verbs, self.caller = cloud, verbs, caller
        self.guest, self.other, self.third, self.fourth = verbs.run(4)
        self.volume, self.spare = self.new_volume(), self.new_volume()
        cloud.wait(lambda: {row.state for row in rows(models.Instance)} == {"running"})
        self.attachment = volumes.attach(caller(), self.volume, self.guest, "/dev/vdb").id
        cloud.wait(lambda: {row.state for row in rows(models.Attachment)} == {"attached"})
        self.network = next(row for row in rows(models.Network))
        self.host = instance(self.guest).host
        self.driver = cloud.hypervisors[self.host]
        self.wires, self.store = cloud.wires["h1"], cloud.stores["h1"]
        self.nobody = ids.new()

    def new_volume(self) -> str:
        id = volumes.create(self.caller(), size_gib=1, zone="nova").row.id
        self.cloud.wait(lambda: volume(id).state == "available")
        return id

    @property
    def project(self) -> str:
        return self.caller().project_id

    @property
    def address(self) -> str:
        [found] = [one for one in rows(models.Address) if one.instance_id == self.guest]
        return found.address

    def domain(self, **values: Any) -> None:
        known = self.driver.domains()[self.guest]
        self.driver._write(dataclasses.replace(known, **values))

    def row(self, of: str, **values: Any) -> str:
        """A copy of an instance's row."""
        copied = {c.name: getattr(instance(of), c.name) for c in models.Instance.__table__.c}
        return add(models.Instance, **{**copied, "id": ids.new(), **values})

    def image(self, **values: Any) -> str:
        common = {"name": "planted", "kind": "machine", "request_id": "req-planted"}
        where = {"project_id": self.project, "host": "h1", "rest": "active", "size": 3}
        return add(models.Image, **{**common, **where, "file": f"image-{ids.new()}-0", **values})

    def object(self, **values: Any) -> str:
        common = {"bucket_id": ids.new(), "project_id": self.project, "key": b"k", "host": "h1"}
        file = f"object-{ids.new()}-0"
        return add(models.Object, **common, request_id="req-planted", file=file, **values)

    def attached(self, volume: str, instance: str, device: str, **values: Any) -> str:
        common = {"project_id": self.project, "user_id": "u", "request_id": "req-planted"}
        where = {"volume_id": volume, "instance_id": instance, "host": self.host}
        how = {"state": "attached", "rest": "attached", "device": device, "shown": device}
        held = {"holds_volume": volume, "holds_device": f"{instance}:{device}", "since": 1}
        secret = next(row for row in rows(models.Attachment)).secret
        row = {**common, **where, **how, **held, "secret": secret, **values}
        return add(models.Attachment, **row)

    def booking(self, last: int, **values: Any) -> str:
        mac = f"02:16:3e:ff:ff:{last:02x}"
        where = {"network_id": self.network.id, "number": 0x0A000000 + last, "mac": mac}
        names = {"address": f"10.0.0.{last}", "tap": f"tap{last}", "hostname": f"h{last}"}
        owner = ids.new()
        add(models.Address, **where, **names, instance_id=owner, since=1, **values)
        return owner


def distrust(w: World) -> str:
    w.cloud.lives["compute@h2"].manager.trusted = False
    (w.cloud.path / "run" / "compute@h2.distrusted").touch()
    return "compute@h2"


def stick(w: World) -> str:
    session.send_with(lambda nudges: None)
    w.verbs.reboot(w.other)
    session.send_with(rpc.send)
    change(models.Instance, w.other, updated_at=LONG_AGO)
    return w.other


def spoil_attachments(w: World) -> str:
    gone = w.row(w.guest, state="terminated", host=w.host)
    dead = w.new_volume()
    change(models.Volume, dead, state="deleted")
    w.attached(dead, w.guest, "y")
    return w.attached(w.new_volume(), gone, "z")


def two_writers(w: World) -> str:
    w.attached(w.volume, w.other, "x", holds_volume=None)
    w.driver._write(dataclasses.replace(w.driver.domains()[w.other], volumes=("x",)))
    return w.volume


def unbook(w: World) -> str:
    change(models.Attachment, w.attachment, holds_device=None)
    return w.attachment


def hold_what_is_detached(w: World) -> str:
    return w.attached(w.spare, w.guest, "w", state="detached", holds_device=None)


def over_quota(w: World) -> str:
    quotas.change(context.admin(), "proj", "instances", 1)
    return w.project


def answer(w: World, **changed: str | None) -> str:
    """DHCP is told to answer for these too, or not to (None)."""
    number = w.network.number
    said = {**w.wires.served(number), **changed}
    w.wires._write(number, {address: mac for address, mac in said.items() if mac})
    return w.network.id


def unserved(w: World) -> str:
    answer(w, **{w.address: None})
    return w.guest


def take_network_away(w: World) -> str:
    row = networks.create(context.admin(), name="planted", cidr="10.9.0.0/24", host="h1")
    w.cloud.lives["network@h1"].sweep()
    file = w.wires._file(row.number)
    w.cloud.wait(file.exists)
    w.cloud.wait(w.cloud.lives["network@h1"].manager.work.idle)
    file.unlink()
    return row.id


def lose_bytes(w: World) -> str:
    w.store._volume(w.spare).unlink()
    return w.spare


def unexport(w: World) -> str:
    w.cloud.lives["volume@h1"].manager._served.clear()  # or the next heartbeat brings it back
    w.store._export(w.attachment).unlink()
    return w.attachment


def write(path: pathlib.Path, text: str = "") -> None:
    path.write_text(text)


def stray_file(w: World) -> str:
    name = f"object-{w.nobody}-0123abcd"
    write(store.directory() / name, "bytes")
    return name


def upload_of_nothing(w: World) -> str:
    id = add(models.Upload, bucket_id=ids.new(), key=b"k")
    return add(models.Part, upload_id=ids.new(), number=1, file=id, host="h2")


def stray(what: Callable[[World], object], id: Callable[[World], str]) -> Callable[[World], str]:
    def plant(w: World) -> str:
        what(w)
        return id(w)

    return plant


def nobody(w: World) -> str:
    return w.nobody


# what spoils the cloud, in an order in which none hides or mends another; the id to be named
PLANTED: dict[str, Callable[[World], str]] = {
    findings.NETWORK_LACKS: take_network_away,
    findings.VOLUME_DIFFERS: lose_bytes,
    findings.ATTACHMENT_ASTRAY: spoil_attachments,
    findings.DISTRUSTED: distrust,
    findings.STUCK: stick,
    findings.UNKNOWN_STATE: lambda w: w.image(state="dreaming"),
    findings.UNKNOWN_HOST: lambda w: w.image(state="error", host="nowhere"),
    findings.ADDRESS_WITHOUT_OWNER: lambda w: w.booking(200),
    findings.ADDRESS_NOT_FREED: lambda w: w.booking(201, leaving=1),
    findings.NO_ADDRESS: lambda w: w.row(w.guest, state="error", rest=None, host="h2"),
    findings.MEMBER_WITHOUT_INSTANCE: stray(
        lambda w: add_plain(
            models.GroupMember,
            group_id=next(row.id for row in rows(models.SecurityGroup)),
            instance_id=w.nobody,
        ),
        nobody,
    ),
    findings.ATTACHMENT_BOOKING: unbook,
    findings.TWO_OWNERS: two_writers,
    findings.TAG_WITHOUT_THING: stray(
        lambda w: add(
            models.Tag,
            project_id=w.project,
            kind="instance",
            resource_id=w.nobody,
            name="a",
            value="b",
        ),
        nobody,
    ),
    findings.APPLIED_OF_THE_GONE: stray(
        lambda w: add_plain(models.Applied, thing=w.nobody, host="compute@h1", applied=1), nobody
    ),
    findings.UPLOAD_WITHOUT_BUCKET: upload_of_nothing,
    findings.QUOTA: over_quota,
    findings.CAPACITY: stray(
        lambda w: w.row(w.guest, state="error", rest=None, host="h2", vcpus=1000),
        lambda w: "compute@h2",
    ),
    findings.GUEST_WITHOUT_ROW: stray(
        lambda w: w.driver._write(Domain(w.nobody, "running", 1)), nobody
    ),
    findings.GUEST_DIFFERS: stray(lambda w: w.driver.halt(w.third), lambda w: w.third),
    findings.ROOT_DISK_GONE: stray(
        lambda w: w.driver._file(w.fourth).unlink(), lambda w: w.fourth
    ),
    findings.DISK_GONE: lambda w: w.attached(w.new_volume(), w.guest, "v"),
    findings.DISK_WITHOUT_ROW: stray(lambda w: w.domain(volumes=("b", "q")), lambda w: w.guest),
    findings.TAP_WITHOUT_GUEST: stray(
        lambda w: write(w.driver.path / f"{TAP}.tap"), lambda w: TAP
    ),
    findings.FILTER_DIFFERS: stray(
        lambda w: w.driver.protect(Firewall([], {}, {}), True), lambda w: w.host
    ),
    findings.PART_LEFT: stray(
        lambda w: write(w.driver.path / "planted.part"), lambda w: "planted.part"
    ),
    findings.NETWORK_WITHOUT_ROW: stray(lambda w: w.wires._write(77, {}), lambda w: "77"),
    findings.ANSWER_WITHOUT_BOOKING: lambda w: answer(w, **{"10.0.0.99": "02:00:00:00:00:01"}),
    findings.BOOKING_NOT_ANSWERED: unserved,
    findings.VOLUME_WITHOUT_ROW: stray(lambda w: write(w.store._volume(w.nobody), "1"), nobody),
    findings.EXPORT_WITHOUT_ROW: stray(
        lambda w: write(w.store._export(w.nobody), w.volume), nobody
    ),
    findings.EXPORT_MISSING: unexport,
    findings.FILE_WITHOUT_ROW: stray_file,
    findings.IMAGE_DIFFERS: lambda w: w.image(state="active"),
    findings.OBJECT_LOST: lambda w: w.object(state="active", rest="active", size=3),
    findings.UPLOAD_CUT_OFF: lambda w: w.object(state="uploading"),
}


@pytest.fixture
def world(
    bare_cloud: InProcessCloud,
    verbs: Verbs,
    caller: Callable[[], Context],
    options: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> World:
    monkeypatch.setattr(auditing, "AGAIN_S", 0.1)
    options("quota", instances=20)
    options("rpc", ask_timeout_s=60)
    options("work", sweep_s=60.0)  # what takes a busy machine seconds is not stuck
    bare_cloud.life = Unswept
    bare_cloud.network("h1")
    bare_cloud.volume("h1")
    bare_cloud.objectstore("h1")
    bare_cloud.scheduler("h1")
    bare_cloud.compute("h1")
    made = World(bare_cloud, verbs, caller)
    bare_cloud.compute("h2")
    for life in bare_cloud.lives.values():
        life.sweep()  # networks are adopted by it
    return made


def look() -> audit.Report:
    return audit.look(context.admin())


def kinds(report: audit.Report) -> set[str]:
    return {one.kind for one in report.found}


def test_every_kind_is_planted_here_or_where_there_is_a_broker() -> None:
    assert set(PLANTED) | OF_THE_BROKER == set(KINDS)


def test_a_cloud_at_work_has_nothing_wrong(world: World, verbs: Verbs) -> None:
    assert look() == audit.Report([], {})
    more = verbs.run(5)
    verbs.terminate(world.other)
    verbs.stop(world.guest)
    passing = {findings.FILTER_DIFFERS}  # two looks a moment apart: a busy machine has long ones
    assert kinds(look()) <= passing
    verbs.terminate(*more)
    while {verbs.state(id) for id in more} != {"terminated"}:
        assert kinds(look()) <= passing
    world.cloud.wait(lambda: look() == audit.Report([], {}), 300)


def test_whatever_is_planted_is_named_and_what_can_be_is_mended(world: World) -> None:
    planted = [(kind, plant(world)) for kind, plant in PLANTED.items()]
    report = look()
    assert report.unseen == {}
    named = {(one.kind, one.id) for one in report.found}
    assert [one for one in planted if one not in named] == []
    left = audit.mend(context.admin(), report)
    assert left.unseen == {}
    assert kinds(left) == {name for name, kind in KINDS.items() if not kind.mended} - OF_THE_BROKER
    assert kinds(look()) == kinds(left)


@on_sqlite
def test_detached_is_detached_and_holds_nothing(world: World, caller: Callable[[], Context]):
    id = hold_what_is_detached(world)
    report = look()
    assert [(one.kind, one.id) for one in report.found] == [(findings.ATTACHMENT_BOOKING, id)]
    assert audit.mend(context.admin(), report).found == []
    volumes.attach(caller(), world.spare, world.guest, "/dev/vdw")


@on_sqlite
def test_a_finding_tells_since_when_and_which_request(world: World, verbs: Verbs) -> None:
    stick(world)
    report = look()
    assert kinds(report) == {findings.STUCK}
    [found] = report.found
    event = max(
        (row for row in rows(models.Event) if row.resource_id == world.other),
        key=lambda row: row.id,
    )
    assert found.request_id == event.request_id
    assert found.since == findings.stamp(event.at)
    assert found.what == f"instance {world.other} is still rebooting"


@on_sqlite
def test_a_deleted_group_that_holds_an_address_back_is_not_forgotten(world: World) -> None:
    add_plain(models.GroupLeaving, group_id=world.nobody, instance_id=ids.new(), since=2)
    add_plain(models.Applied, thing=world.nobody, host="compute@h1", applied=1)
    assert look().found == []


@on_sqlite
def test_an_address_that_is_mended_waits_for_the_filters_that_list_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MENDING_S", 0.0)
    owner = world.booking(202)
    [group] = rows(models.SecurityGroup)
    add_plain(models.GroupMember, group_id=group.id, instance_id=owner)
    world.cloud.stop(f"compute@{world.host}")  # its filter stays as it is
    for _ in range(2):
        audit.mend(context.admin(), look())
        world.cloud.wait(world.cloud.lives["network@h1"].manager.work.idle)
    assert kinds(look()) == set()
    assert owner in {row.instance_id for row in rows(models.Address)}
    assert owner not in {row.instance_id for row in rows(models.GroupMember)}
    world.cloud.compute(world.host)
    world.cloud.lives[f"compute@{world.host}"].sweep()
    world.cloud.wait(lambda: owner not in {row.instance_id for row in rows(models.Address)})


@on_sqlite
def test_what_takes_long_or_waits_its_turn_is_not_stuck(
    world: World, verbs: Verbs, options: Callable[..., None]
) -> None:
    options("simulated", start_s=100.0)
    options("daemon", stop_s=0.1)
    for host in ("h1", "h2"):
        fencing.enable(context.admin(), host, False)
    verbs.reboot(world.other)
    queue = world.cloud.lives[f"compute@{world.host}"].manager.work
    world.cloud.wait(lambda: world.other in queue.claimed)
    [waiting] = verbs.run()
    world.cloud.wait(lambda: instance(waiting).waits)
    for id in (world.other, waiting):
        change(models.Instance, id, updated_at=LONG_AGO)
    assert look().found == []
    world.cloud.stop("scheduler@h1")  # which would only have it wait again
    change(models.Instance, waiting, not_before=LONG_AGO)
    assert [(one.kind, one.id) for one in look().found] == [(findings.STUCK, waiting)]


@on_sqlite
def test_only_a_few_guests_are_removed_at_once(
    world: World, options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "MENDING_S", 0.0)
    for _ in range(5):
        world.driver._write(Domain(ids.new(), "running", 1))
    left = audit.mend(context.admin(), look())
    world.cloud.wait(world.cloud.lives[f"compute@{world.host}"].manager.work.idle)
    assert len([one for one in look().found if one.kind == findings.GUEST_WITHOUT_ROW]) == 2
    assert len(left.found) >= 2


@on_sqlite
def test_a_host_that_is_down_is_said_to_be_not_looked_at(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.cloud.stop("compute@h2")
    assert command.audit() == command.UNSEEN
    assert "not looked at: compute@h2: it is stopped" in capsys.readouterr().out


@on_sqlite
def test_a_fenced_host_is_named_and_hides_nothing(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.cloud.lives.pop("compute@h2").rest(0)
    fencing.fence(context.admin(), "h2", force=True)
    assert look() == audit.Report([], {}, ("compute@h2",))
    assert command.audit() == command.CLEAN
    assert "fenced: compute@h2" in capsys.readouterr().out


@on_sqlite
def test_a_daemon_that_this_release_does_not_know_does_not_end_the_audit(world: World) -> None:
    unknown = {"host": "h2", "daemon": "baker", "machine_id": "a machine"}
    add(models.Host, id="baker@h2", **unknown, epoch=1)
    change(models.Host, "baker@h2", heartbeat=models.now())
    assert look().unseen == {"baker@h2 host": "this release knows no daemon baker"}
    assert audit.mend(context.admin(), look()).found == []


@on_sqlite
def test_the_database_is_trusted_again_only_when_the_operator_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    distrust(world)
    assert command.audit(fix=True) == command.LEFT
    assert kinds(look()) == {findings.DISTRUSTED}
    with pytest.raises(commands.WrongUsage):
        command.audit(trust=True)
    assert command.audit(fix=True, trust=True) == command.CLEAN
    assert look().found == []


@on_sqlite
def test_what_was_at_a_host_that_went_away_is_not_said_to_be_mended(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    PLANTED[findings.GUEST_WITHOUT_ROW](world)

    def go_away(ctx: Context, report: audit.Report, *, trust: bool) -> audit.Report:
        world.cloud.stop(f"compute@{world.host}")
        return look()

    monkeypatch.setattr(audit, "mend", go_away)
    assert command.audit(fix=True, json=True) == command.UNSEEN
    [told] = json.loads(capsys.readouterr().out)["findings"]
    assert told["mended"] is None


@on_sqlite
def test_a_driver_that_fails_is_said_to_be_not_looked_at(
    world: World, options: Callable[..., None]
) -> None:
    world.driver.path.rename(world.driver.path.with_name("away"))
    assert set(look().unseen) == {f"compute@{world.host} guests"}
    world.driver.path.with_name("away").rename(world.driver.path)


@on_sqlite
def test_the_command_shows_findings_to_people_and_to_programs(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.audit() == command.CLEAN
    assert capsys.readouterr().out == "0 findings, 0 mended, 0 parts not looked at\n"
    PLANTED[findings.GUEST_WITHOUT_ROW](world)
    PLANTED[findings.NO_ADDRESS](world)
    assert command.audit(json=True) == command.LEFT
    told = {one["kind"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert set(told) == {findings.GUEST_WITHOUT_ROW, findings.NO_ADDRESS}
    assert told[findings.NO_ADDRESS]["by_hand"] is True
    assert told[findings.GUEST_WITHOUT_ROW]["where"] == f"compute@{world.host}"
    assert command.audit(fix=True) == command.LEFT
    out = capsys.readouterr().out
    assert "2 findings, 1 mended, 0 parts not looked at" in out
    assert KINDS[findings.NO_ADDRESS].fix in out
    assert world.nobody not in world.driver.domains()


def test_a_daemon_of_another_release_may_tell_more() -> None:
    told = Finding("new-kind", "id", "what").to_dict() | {"colour": "red"}
    assert Finding.from_dict(told) == Finding("new-kind", "id", "what")
