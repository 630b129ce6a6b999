"""What is deleted for good, and what stays, on every engine."""

from __future__ import annotations

import concurrent.futures
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import context, errors, states
from minicloud.cloud import comparing, instances, purge
from minicloud.db import models
from minicloud.db.session import Tx, reading, transaction
from tests.databases import database
from tests.world import World, settle, world

__all__ = ["database", "world"]  # fixtures

LONG_AGO, RECENTLY = 40, 10  # days
WHEN = (
    *((machine.model, "created_at") for machine in states.MACHINES),
    *((machine.model, "updated_at") for machine in states.MACHINES),
    (models.Event, "at"),
    (models.Request, "created_at"),
)


@transaction
def age(tx: Tx, days: int) -> None:
    """All of it happened so long ago."""
    for model, column in WHEN:
        tx.changed(sa.update(model).values({column: models.now(-86400 * days)}))


@transaction
def change(tx: Tx, model: Any, **values: object) -> None:
    tx.changed(sa.update(model).values(**values))


@reading
def rows(tx: Tx) -> dict[str, int]:
    counted = {
        kind.name: tx.scalars(sa.select(sa.func.count()).select_from(kind.model)).one()
        for kind in purge.KINDS
    }
    return {name: count for name, count in counted.items() if count}


@reading
def there(tx: Tx, model: Any) -> set[str]:
    return set(tx.scalars(sa.select(model.id)))


@reading
def told(tx: Tx) -> set[str]:
    return set(tx.scalars(sa.select(models.Event.resource_id)))


@reading
def findings(tx: Tx) -> list[str]:
    """What the auditor says of the rows."""
    return sorted(one.what for one in comparing.look(tx))


def purged(days: int = 30, dry_run: bool = False) -> dict[str, int]:
    """Of which kinds how many rows."""
    counted = purge.purge(context.admin(), days, dry_run)
    return {name: count for name, count in counted.items() if count}


def end(world: World) -> None:
    """The project has no instance and no volume any more."""
    instances.terminate(world.caller(), sorted(there(models.Instance)))
    terminated()
    settle(models.Volume, sorted(there(models.Volume)), "deleted")
    forget_addresses()


@transaction
def terminated(tx: Tx) -> None:
    """The compute host has taken away what was to be terminated."""
    model = models.Instance
    rows = tx.scalars(sa.select(model).where(model.state == "terminating")).all()
    me = states.Daemon("compute@h1", "h1", 1)
    states.move_all(tx, states.INSTANCE, rows, "terminated", me)


@transaction
def forget_addresses(tx: Tx) -> None:
    """Every host has applied that they are gone."""
    for model in (models.Address, models.GroupLeaving):
        tx.changed(sa.delete(model))


def test_what_ended_long_ago_goes_and_what_is_there_stays(world: World) -> None:
    world.attached()
    end(world)
    image = world.image()
    settle(models.Image, [image], "deleted")
    world.put(world.bucket(), b"key")
    settle(models.Object, sorted(there(models.Object)), "deleted", live=None)
    had = (models.Instance, models.Volume, models.Attachment, models.Object)
    ended = {image}.union(*(there(model) for model in had))
    world.attached()
    age(LONG_AGO)
    before = findings()
    counted = purged(dry_run=True)
    assert purged() == counted
    assert counted.keys() >= {
        "instances",
        "volumes",
        "attachments",
        "images",
        "events",
        "requests",
    }
    kept = there(models.Instance) | there(models.Volume) | there(models.Attachment)
    assert len(kept) == 3
    assert not ended & (kept | there(models.Image) | told())
    assert kept <= told()  # how they came to be what they are is still known
    assert findings() == before
    assert purged() == {}


def test_what_ended_recently_stays(world: World) -> None:
    world.attached()
    end(world)
    age(RECENTLY)
    before = rows()
    assert purged() == {}
    assert rows() == before
    assert purged(days=5)


def test_a_dry_run_changes_nothing(world: World) -> None:
    world.attached()
    end(world)
    age(LONG_AGO)
    before = rows()
    assert purged(dry_run=True)
    assert rows() == before


def test_an_image_stays_while_an_instance_is_there_that_was_made_of_it(world: World) -> None:
    image, [instance] = world.image(), world.running(1)
    settle(models.Instance, [instance], "running", image_id=image)
    settle(models.Image, [image], "deleted")
    age(LONG_AGO)
    purged()
    assert image in there(models.Image)
    end(world)
    age(LONG_AGO)
    purged()
    assert image not in there(models.Image)


def test_a_kernel_stays_while_an_image_names_it(world: World) -> None:
    kernel, image = world.image(), world.image()
    settle(models.Image, [image], "active", kernel_id=kernel)
    settle(models.Image, [kernel], "deleted")
    age(LONG_AGO)
    purged()
    assert kernel in there(models.Image)


def test_an_instance_stays_while_its_address_is_not_free(world: World) -> None:
    [id] = world.running(1)
    instances.terminate(world.caller(), [id])
    terminated()
    age(LONG_AGO)
    purged()
    assert id in there(models.Instance)


def test_the_last_attachment_at_a_place_of_a_running_instance_stays(world: World) -> None:
    world.attached()
    [attachment] = there(models.Attachment)
    settle(models.Attachment, [attachment], "detached", holds_volume=None, holds_device=None)
    settle(models.Volume, sorted(there(models.Volume)), "deleted")
    age(LONG_AGO)
    purged()
    assert (there(models.Attachment), len(there(models.Volume))) == ({attachment}, 1)


def test_what_a_fenced_host_may_come_back_with_stays(world: World) -> None:
    world.attached()
    end(world)
    age(LONG_AGO)
    change(models.Host, fenced_at=models.now(-86400 * LONG_AGO + 1))
    purged()
    assert len(there(models.Instance)) == len(there(models.Volume)) == 1
    change(models.Host, fenced_at=None)
    purged()
    assert there(models.Instance) == there(models.Volume) == set()


class Killed(BaseException):
    pass


def test_a_purge_that_was_killed_is_finished_by_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge, "TOGETHER", 2)
    for _ in range(3):
        world.attached()
    end(world)
    age(LONG_AGO)
    expected = purged(dry_run=True)
    some, calls = purge._some, []

    def dying(kind: purge.Kind, *rest: Any) -> Any:
        calls.append(kind)
        if [one.name for one in calls].count("instances") == 2:
            raise Killed
        return some(kind, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(purge, "_some", dying)
        with pytest.raises(Killed):
            purged()
    assert purged() == {"instances": 1, "volumes": 3, "requests": expected["requests"]}


def test_two_at_a_time_purge_each_row_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "TOGETHER", 2)
    for _ in range(4):
        world.attached()
    end(world)
    age(LONG_AGO)
    expected = purged(dry_run=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(purged) for _ in range(2)]
        counted = [one.result(100) for one in asked]
    for name, count in expected.items():
        assert sum(one.get(name, 0) for one in counted) == count


@pytest.mark.parametrize("days", [0, -1, 10**9])
def test_days_that_are_none_are_refused(world: World, days: int) -> None:
    before = rows()
    with pytest.raises(errors.InvalidValue):
        purge.purge(context.admin(), days, False)
    assert rows() == before
