"""Tags, on every engine."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import context, errors, ids, states
from minicloud.cloud import groups, images, instances, keypairs, projects, shown, tags
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import Tx, reading, transaction
from tests.databases import database  # noqa: F401

Caller = Callable[[], Context]


def run(ctx: Context, count: int = 1, **more: Any) -> list[str]:
    """EC2 ids of new instances."""
    views = instances.run(
        ctx, image="ami-tty", count_min=count, count_max=count, flavor="m1.nano", **more
    )
    return [shown.instance_id(view.row) for view in views]


def seen(caller: Caller, **filters: str) -> list[tuple[str, str, str]]:
    found = tags.find(caller(), filters={name: [value] for name, value in filters.items()})
    return sorted((tag.resource_ec2_id, tag.row.name, tag.row.value) for tag in found.items)


def named(caller: Caller, **filters: Any) -> list[str]:
    given = {name: [value] for name, value in filters["filters"].items()}
    return [shown.instance_id(view.row) for view in instances.find(caller(), filters=given).items]


@reading
def left(tx: Tx) -> int:
    return tx.scalars(sa.select(sa.func.count()).select_from(models.Tag)).one()


@transaction
def end(tx: Tx, ctx: Context, model: type[Any], machine: states.Machine, to: str) -> None:
    for row in tx.scalars(sa.select(model)):
        states.move(tx, machine, row, to, states.USER, ctx=ctx)


def test_a_tag_is_put_replaced_and_taken_away(caller: Caller) -> None:
    one, two = run(caller(), 2)
    tags.create(caller(), [one, two], {"Name": "web", "empty": ""})
    tags.create(caller(), [one], {"Name": "Web"})
    assert seen(caller, key="Name") == sorted([(one, "Name", "Web"), (two, "Name", "web")])
    tags.delete(caller(), [one, two], [("Name", "web"), ("empty", None), ("never", None)])
    assert seen(caller) == [(one, "Name", "Web")]
    tags.delete(caller(), [one, two], [])
    assert left() == 0


def test_names_differ_by_case_and_a_request_may_be_repeated(caller: Caller) -> None:
    [one] = run(caller())
    ctx = caller()
    for _ in range(2):
        tags.create(ctx, [one], {"name": "a", "Name": "b", "größe \U0001f600": "ż"})
    assert len(seen(caller)) == 3
    assert named(caller, filters={"tag:größe \U0001f600": "ż"}) == [one]


def test_things_are_made_with_their_tags_and_found_by_them(caller: Caller) -> None:
    one, two = run(caller(), 2, tags={"Name": "web-1", "env": "ci"})
    [other] = run(caller(), tags={"Name": "db", "env": "web-1"})
    both = sorted([one, two])
    assert sorted(named(caller, filters={"tag:Name": "web-*"})) == both
    assert sorted(named(caller, filters={"tag:Name": "web-?", "tag:env": "ci"})) == both
    assert named(caller, filters={"tag:Name": "web-1", "tag:env": "web-1"}) == []
    assert named(caller, filters={"tag:name": "web-1"}) == []
    assert len(named(caller, filters={"tag-key": "e*"})) == 3
    assert named(caller, filters={"tag-value": "db"}) == [other]
    assert named(caller, filters={"tag:\x00": "db"}) == []
    assert named(caller, filters={"instance-id": other[:10]}) == [other]
    assert [name for _, name, _ in seen(caller, **{"resource-id": other[:10]})] == ["Name", "env"]


def test_every_kind_has_tags_and_frees_them(caller: Caller) -> None:
    group = groups.create(caller(), "web", "d", tags={"a": "g"})
    pair, _ = keypairs.create(caller(), "mine", "ed25519", tags={"a": "k"})
    run(caller(), tags={"a": "i"})
    tags.create(caller(), ["ami-tty"], {"a": "m"})
    kinds = {tag.row.kind for tag in tags.find(caller()).items}
    assert kinds == {"instance", "image", "security-group", "key-pair"}
    assert [view.row.id for view in groups.find(caller(), filters={"tag:a": ["g"]}).items] == [
        group.id
    ]
    assert [row.id for row in keypairs.find(caller(), filters={"tag:a": ["k"]}).items] == [pair.id]
    assert [one.ec2_id for one in images.find(caller(), filters={"tag:a": ["m"]}).items] == [
        "ami-tty"
    ]
    assert seen(caller, **{"resource-id": "ami-tty"}) == [("ami-tty", "a", "m")]
    groups.delete(caller(), name="web")
    keypairs.delete(caller(), name="mine")
    end(caller(), models.Instance, states.INSTANCE, "terminated")
    assert left() == 1
    end(caller(), models.Image, states.IMAGE, "deleting")
    _image_is_gone()
    assert left() == 0


@transaction
def _image_is_gone(tx: Tx) -> None:
    """What the object store's daemon writes when the bytes are gone."""
    host = models.Host(id="objectstore@h", host="h", daemon="objectstore", machine_id="m")
    tx.add(host)
    tx.flush()
    who = states.Daemon("objectstore@h", "h", 1)
    states.move(tx, states.IMAGE, tx.scalars(sa.select(models.Image)).one(), "deleted", who)


def test_a_project_takes_its_tags_along(caller: Caller) -> None:
    ctx = caller()
    keypairs.create(ctx, "mine", "ed25519", tags={"a": "k"})
    end(caller(), models.Image, states.IMAGE, "deleting")
    _image_is_gone()
    projects.delete(context.admin(), ctx.project)
    assert left() == 0


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"": "x"}, errors.InvalidValue),
        ({"a" * 128: "x"}, errors.InvalidValue),
        ({"a": "x" * 256}, errors.InvalidValue),
        ({"aws:a": "x"}, errors.InvalidValue),
        ({"AWS:a": "x"}, errors.InvalidValue),
        ({"a\n": "x"}, errors.InvalidValue),
        ({"a": "\x00"}, errors.InvalidValue),
        ({"a": "\ud800"}, errors.InvalidValue),
        ({" a": "x"}, errors.InvalidValue),
        ({str(number): "" for number in range(51)}, errors.TagLimitExceeded),
    ],
)
def test_what_is_no_tag_is_refused_wherever_it_comes(
    caller: Caller, given: dict[str, str], error: type[errors.Error]
) -> None:
    [one] = run(caller())
    for ask in (
        lambda: tags.create(caller(), [one], given),
        lambda: run(caller(), tags=given),
        lambda: groups.create(caller(), "web", "d", tags=given),
        lambda: keypairs.create(caller(), "mine", "ed25519", tags=given),
    ):
        with pytest.raises(error):
            ask()
    assert left() == 0


def test_fifty_tags_are_the_most_also_one_after_the_other(caller: Caller) -> None:
    [one] = run(caller())
    tags.create(caller(), [one], {str(number): "" for number in range(50)})
    tags.create(caller(), [one], {"7": "new"})
    with pytest.raises(errors.TagLimitExceeded):
        tags.create(caller(), [one], {"50": ""})
    assert left() == 50


@pytest.mark.parametrize(
    ("id", "error"),
    [
        ("", errors.ThingNotFound),
        ("snap-12345678", errors.ThingNotFound),
        ("x-12345678", errors.ThingNotFound),
        ("i-0", errors.InvalidInstanceIdMalformed),
        ("i-12345678", errors.InstanceNotFound),
        ("vol", errors.InvalidVolumeIdMalformed),
        ("vol-12345678", errors.VolumeNotFound),
        ("sg-12345678", errors.GroupNotFound),
        ("key-12345678", errors.KeyPairNotFound),
        ("ami-none", errors.ImageNotFound),
    ],
)
def test_what_is_not_there_cannot_be_tagged_and_nothing_else_is(
    caller: Caller, id: str, error: type[errors.Error]
) -> None:
    [one] = run(caller())
    with pytest.raises(error):
        tags.create(caller(), [one, id], {"a": "b"})
    with pytest.raises(error):
        tags.delete(caller(), [one, id], [])
    assert left() == 0


def test_a_terminated_instance_takes_no_tag(caller: Caller) -> None:
    [one] = run(caller())
    instances.terminate(caller(), [one])
    with pytest.raises(errors.InstanceNotFound):
        tags.create(caller(), [one], {"a": "b"})
    tags.delete(caller(), [one], [])


def test_nobody_sees_or_changes_the_tags_of_another_project(caller: Caller) -> None:
    [one] = run(caller(), tags={"a": "b"})
    tags.create(caller(), ["ami-tty"], {"secret": "x"})
    projects.create(context.admin(), "other", "alice")
    its = projects.get(context.admin(), "other")
    bob = lambda: Context(context.new_request_id(), "ec2-b", its.id, "bob", "other")  # noqa: E731
    assert tags.find(bob()).items == []
    assert images.find(bob(), filters={"image-id": ["ami-tty"]}).items != []
    assert images.find(bob(), filters={"tag-key": ["secret"]}).items == []
    assert images.find(bob(), filters={"tag:secret": ["*"]}).items == []
    for verb in (
        lambda: tags.create(bob(), [one], {"a": "c"}),
        lambda: tags.delete(bob(), [one], []),
    ):
        with pytest.raises(errors.InstanceNotFound):
            verb()
    with pytest.raises(errors.Forbidden):
        tags.create(bob(), ["ami-tty"], {"a": "c"})
    assert left() == 2


def test_tags_are_read_by_pages(caller: Caller) -> None:
    run(caller(), 3, tags={"a": "1", "b": "2"})
    found, after = [], None
    while True:
        page = tags.find(caller(), limit=4, after=after)
        found += [tag.row.id for tag in page.items]
        after = page.next
        if after is None:
            break
    assert len(found) == len(set(found)) == 6


@pytest.mark.parametrize("attempt", range(3))
def test_whoever_tags_while_it_ends_leaves_nothing_behind(caller: Caller, attempt: int) -> None:
    [one] = run(caller())
    pair, _ = keypairs.create(caller(), "mine", "ed25519")
    key = ids.ec2("key", pair.id)
    asked: list[Callable[[], object]] = [
        lambda: instances.terminate(caller(), [one]),
        lambda: keypairs.delete(caller(), name="mine"),
        *(functools.partial(_try, caller, id, number) for id in (one, key) for number in range(4)),
    ]
    threads = [threading.Thread(target=ask) for ask in asked[attempt:] + asked[:attempt]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert left() == 0


def _try(caller: Caller, id: str, number: int) -> None:
    with contextlib.suppress(errors.InstanceNotFound, errors.KeyPairNotFound):
        tags.create(caller(), [id], {"a": str(number), str(number): ""})
