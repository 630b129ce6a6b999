"""The operator's verbs on the whole cloud, in the database."""

from __future__ import annotations

import dataclasses

import pytest
import sqlalchemy as sa

from minicloud import context, errors, ids, rpc, states
from minicloud.cloud import (
    buckets,
    groups,
    instances,
    keypairs,
    operator,
    projects,
    quotas,
    users,
    volumes,
)
from minicloud.context import Context
from minicloud.db import models, session
from minicloud.db.session import Tx, reading, transaction

# what is left of those that ended are their states
KEPT = {
    "alembic_version", "cloud", "events", "flavors", "hosts", "images", "instances", "objects",
    "requests", "volumes",
}  # fmt: skip
ME = states.Daemon("objectstore@h1", "h1", 1)
FACTS = buckets.Facts(1, "etag", {})


@reading
def counts(tx: Tx) -> dict[str, int]:
    found = {}
    for table in models.Base.metadata.sorted_tables:
        found[table.name] = tx.scalars(sa.select(sa.func.count()).select_from(table)).one()
    return found


@reading
def images(tx: Tx) -> list[models.Image]:
    return list(tx.scalars(sa.select(models.Image)))


@reading
def object_states(tx: Tx) -> list[str]:
    return list(tx.scalars(sa.select(models.Object.state).order_by(models.Object.id)))


@transaction
def object_store(tx: Tx) -> None:
    tx.add(models.Host(id=ME.id, host=ME.host, daemon="objectstore", machine_id="m", epoch=1))


@transaction
def place(tx: Tx, instance: str, volume: str) -> None:
    """Both have a host, as the scheduler and the daemons would have made it."""
    for model, id, state in (
        (models.Instance, instance, "running"),
        (models.Volume, volume, "available"),
    ):
        changed = sa.update(model).where(model.id == id)
        tx.changed(changed.values(state=state, rest=state, host="h1", zone="nova"))


@transaction
def end(tx: Tx, machine: states.Machine) -> None:
    """What is asked to end has ended, as its daemon would have made it."""
    me = states.Daemon("compute@h1", "h1", 1)
    if tx.get(models.Host, me.id) is None:
        tx.add(models.Host(id=me.id, host=me.host, daemon="compute", machine_id="m", epoch=1))
        tx.flush()
    for state, work in machine.work.items():
        if work.ending:
            row = machine.model
            rows = list(tx.scalars(sa.select(row).where(row.state == state)))
            states.move_all(tx, machine, rows, work.done, me)


def again(ctx: Context) -> Context:
    """The same asker's next request."""
    return dataclasses.replace(ctx, request_id=context.new_request_id())


def create_volume(ctx: Context) -> str:
    return volumes.create(again(ctx), size_gib=1, zone="nova").row.id


def put(ctx: Context, bucket: str, key: bytes, finish: bool = True) -> models.Object:
    row = buckets.begin(ctx, bucket, key, ME, id=ids.new(), public=False, headers={})
    if finish:
        buckets.finish(ctx, row, FACTS, lambda before: None)
    return row


def begin_upload(ctx: Context, bucket: str) -> None:
    id = buckets.begin_upload(
        ctx, bucket, b"big", public=False, headers={}, checksum=None, checksum_type=None
    )
    part = buckets.begin_part(ctx, bucket, b"big", id, ME, ids.new())
    buckets.finish_part(ctx, bucket, b"big", part, 1, FACTS)


def run(ctx: Context) -> str:
    [view] = instances.run(ctx, image="ami-tty", count_min=1, count_max=1, flavor="m1.nano")
    return view.row.id


def other_project() -> Context:
    user = users.create(context.admin(), "bob")
    project = projects.create(context.admin(), "bobs", "bob")
    return Context(context.new_request_id(), user.id, project.id, user.name, project.name)


def living(machine: states.Machine) -> set[str]:
    return {row.id for row in operator.living(context.admin(), machine)}


def test_all_projects_instances_and_volumes_are_asked_to_end(ctx):
    bob = other_project()
    mine, bobs = run(ctx), run(bob)
    disks = {create_volume(ctx), create_volume(bob)}
    assert living(states.INSTANCE) == {mine, bobs}
    assert living(states.VOLUME) == disks
    operator.terminate_all(context.admin())
    # no host has them: they are gone at once
    assert living(states.INSTANCE) == living(states.VOLUME) == set()
    operator.terminate_all(context.admin())


def test_an_attached_volume_ends_after_its_instance(ctx):
    guest, disk = run(ctx), create_volume(ctx)
    place(guest, disk)
    volumes.attach(again(ctx), disk, guest, None)
    operator.terminate_all(context.admin())
    [row] = operator.living(context.admin(), states.VOLUME)
    assert row.state == "available"
    end(states.INSTANCE)
    operator.terminate_all(context.admin())
    [row] = operator.living(context.admin(), states.VOLUME)
    assert row.state == "deleting"
    operator.terminate_all(context.admin())
    end(states.VOLUME)
    assert living(states.VOLUME) == set()


def test_only_the_operator_may(ctx):
    for verb in (
        lambda ctx: operator.living(ctx, states.INSTANCE),
        lambda ctx: operator.living(ctx, states.VOLUME),
        operator.terminate_all,
        operator.forget,
    ):
        with pytest.raises(errors.Forbidden):
            verb(ctx)


@transaction
def register(tx: Tx) -> None:
    for image in tx.scalars(sa.select(models.Image)):
        image.state = "registering"


@pytest.mark.parametrize("what", ["i-", "vol-", "ami-"])
def test_nothing_is_forgotten_while_something_lives(ctx, what):
    object_store()
    buckets.create(ctx, "photos", False)
    put(ctx, "photos", b"a")
    if what == "ami-":
        register()
    else:
        {"i-": run, "vol-": create_volume}[what](ctx)
    before = counts()
    with pytest.raises(errors.InUse, match=what):
        operator.forget(context.admin())
    assert counts() == before
    assert object_states() == ["active"]


def everything() -> None:
    """A project that has a row in every table."""
    object_store()
    bob = other_project()
    groups.create(bob, "web", "web servers")
    groups.authorize(
        again(bob),
        name="web",
        rules=[groups.RuleSpec("tcp", 22, 22, "10.0.0.0/8", None, None)],
    )
    keypairs.create(again(bob), "bobs", tags={"a": "b"})
    quotas.change(context.admin(), "bobs", "cores", 7)
    give_back(bob)
    leave_a_group()
    buckets.create(bob, "photos", False)
    for key in (b"a", b"b", b"a"):
        put(bob, "photos", key)
    begin_upload(bob, "photos")
    guest, disk = run(again(bob)), create_volume(bob)
    place(guest, disk)
    volumes.attach(again(bob), disk, guest, None)


@transaction
def leave_a_group(tx: Tx) -> None:
    """A packet filter may still know an instance that is gone."""
    tx.add(models.GroupLeaving(group_id="group", instance_id="instance", since=2))


@transaction
def give_back(tx: Tx, ctx: Context) -> None:
    """A token of theirs is revoked."""
    tx.add(models.RevokedToken(id="token", expires_at=models.now(3600)))


def terminate_everything() -> None:
    for machine in (states.INSTANCE, states.VOLUME):
        operator.terminate_all(context.admin())
        end(machine)


def test_tenants_are_forgotten_with_all_they_have_but_images(ctx):
    everything()
    terminate_everything()
    before = counts()
    operator.forget(context.admin())
    after = counts()
    assert {name for name, count in after.items() if count} == KEPT & before.keys()
    assert all(after[name] >= before[name] for name in KEPT & before.keys())
    operator.forget(context.admin())


def test_no_table_is_missing_where_all_are_forgotten(ctx):
    everything()
    assert [name for name, count in counts().items() if not count] == ["applied"]


def test_the_bytes_of_what_was_forgotten_are_the_object_stores_to_remove(ctx, monkeypatch):
    object_store()
    buckets.create(ctx, "photos", False)
    for number in range(5):
        put(ctx, "photos", b"%d" % number)
    late = put(ctx, "photos", b"late", finish=False)
    monkeypatch.setattr(operator, "TOGETHER", 2)
    told: list[rpc.Nudge] = []
    session.send_with(told.extend)
    operator.forget(context.admin())
    session.send_with(lambda nudges: None)
    assert sorted(object_states()) == ["deleting"] * 5 + ["uploading"]
    assert [nudge.method.__name__ for nudge in told] == ["delete_object"] * 5
    with pytest.raises(errors.NoSuchBucket):
        buckets.finish(again(ctx), late, FACTS, lambda before: None)


@pytest.mark.parametrize("step", ["_empty_buckets", "_forget_tenants"])
@pytest.mark.parametrize("when", ["commit", "committed"])
def test_a_forgetting_that_died_is_finished_by_the_next(ctx, monkeypatch, step, when):
    everything()
    terminate_everything()

    def die(name: str) -> None:
        if name == f"cloud.operator.{step}.{when}":
            raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(session, "checkpoint", die)
        with pytest.raises(SystemExit):
            operator.forget(context.admin())
    assert set(object_states()) <= {"active", "deleting"}
    operator.forget(context.admin())
    assert set(object_states()) == {"deleting"}
    assert {name for name, count in counts().items() if count} <= KEPT


def test_images_of_nobody_are_adopted_and_those_of_others_are_not(ctx):
    [image] = images()
    bob = other_project()
    operator.adopt_images(context.admin(), "bobs")
    assert [one.project_id for one in images()] == [image.project_id]
    operator.forget(context.admin())
    users.create(context.admin(), "admin", is_admin=True)
    project = projects.create(context.admin(), "admin", "admin")
    operator.adopt_images(context.admin(), "admin")
    assert [one.project_id for one in images()] == [project.id]
    assert project.id != bob.project_id
    with pytest.raises(errors.ProjectNotFound):
        operator.adopt_images(context.admin(), "none")
