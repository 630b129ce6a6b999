"""How many SQL statements each verb and each list takes: these, however much a cloud holds.

BEGIN and COMMIT are not counted.  A number that grew is a round trip to the database, for each
request: whoever changes one here has looked at it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import context
from minicloud.cloud import (
    buckets,
    flavors,
    groups,
    hosts,
    images,
    instances,
    keypairs,
    networks,
    projects,
    quotas,
    tags,
    users,
    volumes,
    zones,
)
from minicloud.context import Context
from minicloud.db import models, session
from tests.world import World, settle, shown, world

__all__ = ["world"]  # a fixture


def objects(ctx: Context) -> object:
    return buckets.listing(ctx, "bucket0", prefix=b"", delimiter=b"", after=b"", limit=1000)


# list → statements
LISTS: dict[str, tuple[Callable[[Context], Any], int]] = {
    "instances (EC2)": (instances.find, 5),
    "instances (OpenStack)": (lambda ctx: instances.search(ctx, instances.Search()), 5),
    "instances, ids only": (lambda ctx: instances.brief(ctx, instances.Search()), 1),
    "instance status": (lambda ctx: instances.health(ctx, every=True), 2),
    "volumes": (volumes.find, 2),
    "images (EC2)": (images.find, 1),
    "images (OpenStack)": (lambda ctx: images.search(ctx, images.Search()), 1),
    "key pairs": (keypairs.find, 1),
    "security groups": (groups.find, 2),
    "tags": (tags.find, 1),
    "buckets": (buckets.own, 1),
    "objects": (objects, 3),
    "flavors": (flavors.find, 1),
    "zones": (zones.find, 1),
    "own quotas": (quotas.own, 3),
    "own projects": (projects.mine, 1),
    "users": (lambda ctx: users.find(context.admin()), 1),
    "projects": (lambda ctx: projects.find(context.admin()), 1),
    "networks": (lambda ctx: networks.find(context.admin()), 1),
    "services": (lambda ctx: hosts.services(context.admin()), 2),
}

# verb → statements; for one, two and five things where it takes many
VERBS: dict[str, int | tuple[int, ...]] = {
    "run_instances": (21, 21, 21),
    "stop_instances": (6, 7, 7),
    "start_instances": (6, 7, 7),
    "reboot_instances": (6, 7, 7),
    "terminate_instances": (7, 8, 8),
    "create_volume": 10,
    "attach_volume": 14,
    "detach_volume": 9,
    "delete_volume": 7,
    "create_tags": (8, 8, 8),
    "delete_tags": (4, 4, 4),
    "import_key_pair": 7,
    "delete_key_pair": 5,
    "create_security_group": 6,
    "authorize_ingress": (10, 10, 10),
    "revoke_ingress": (8, 8, 8),
    "delete_security_group": 9,
    "register_image": 8,
    "deregister_image": 8,
    "create_bucket": 4,
    "put_object": 9,
    "replace_object": 11,
    "delete_objects": (5, 8, 17),
    "delete_bucket": 5,
}


def statements(call: Callable[[], object]) -> int:
    """How many a call makes."""
    seen: list[str] = []

    def listen(connection: object, cursor: object, statement: str, *rest: object) -> None:
        seen.append(statement)

    sa.event.listen(session.engine(), "before_cursor_execute", listen)
    call()
    sa.event.remove(session.engine(), "before_cursor_execute", listen)
    return sum(not statement.startswith("BEGIN") for statement in seen)


@pytest.mark.parametrize("rows", [2, 7])
def test_lists_take_these_however_long_they_are(world: World, rows: int) -> None:
    world.fill(rows)
    taken = {
        name: statements(functools.partial(call, world.caller()))
        for name, (call, _) in LISTS.items()
    }
    assert taken == {name: expected for name, (_, expected) in LISTS.items()}


class Asked:
    """Each verb as a user asks for it, of `count` things where it takes many; what it needs is
    made before it is counted."""

    def __init__(self, world: World) -> None:
        self.world = world

    def run_instances(self, count: int) -> Callable[[], object]:
        return lambda: self.world.run(count)

    def stop_instances(self, count: int) -> Callable[[], object]:
        made = self.world.running(count)
        return lambda: instances.stop(self.world.caller(), made)

    def start_instances(self, count: int) -> Callable[[], object]:
        made = self.world.running(count)
        settle(models.Instance, made, "stopped")
        return lambda: instances.start(self.world.caller(), made)

    def reboot_instances(self, count: int) -> Callable[[], object]:
        made = self.world.running(count)
        return lambda: instances.reboot(self.world.caller(), made)

    def terminate_instances(self, count: int) -> Callable[[], object]:
        made = self.world.running(count)
        return lambda: instances.terminate(self.world.caller(), made)

    def create_volume(self) -> Callable[[], object]:
        return self.world.volume_asked

    def attach_volume(self) -> Callable[[], object]:
        volume, [instance] = self.world.volume(), self.world.running(1)
        return lambda: volumes.attach(self.world.caller(), volume, instance, "/dev/vdb")

    def detach_volume(self) -> Callable[[], object]:
        volume = self.world.attached()
        return lambda: volumes.detach(self.world.caller(), volume)

    def delete_volume(self) -> Callable[[], object]:
        volume = self.world.volume()
        return lambda: volumes.delete(self.world.caller(), volume)

    def create_tags(self, count: int) -> Callable[[], object]:
        made = self.world.running(count)
        return lambda: tags.create(self.world.caller(), shown(made), {"a": "b"})

    def delete_tags(self, count: int) -> Callable[[], object]:
        made = self.world.running(count)
        tags.create(self.world.caller(), shown(made), {"a": "b"})
        return lambda: tags.delete(self.world.caller(), shown(made), [("a", None)])

    def import_key_pair(self) -> Callable[[], object]:
        return self.world.key_pair

    def delete_key_pair(self) -> Callable[[], object]:
        name = self.world.key_pair()
        return lambda: keypairs.delete(self.world.caller(), name=name)

    def create_security_group(self) -> Callable[[], object]:
        return self.world.group

    def authorize_ingress(self, count: int) -> Callable[[], object]:
        group = self.world.group()
        return lambda: self.world.authorize(group, count)

    def revoke_ingress(self, count: int) -> Callable[[], object]:
        group = self.world.group()
        made = self.world.authorize(group, count)
        return lambda: groups.revoke(self.world.caller(), name=group, rules=made)

    def delete_security_group(self) -> Callable[[], object]:
        group = self.world.group()
        return lambda: groups.delete(self.world.caller(), name=group)

    def register_image(self) -> Callable[[], object]:
        return lambda: images.register(self.world.caller(), name="image", kind="machine")

    def deregister_image(self) -> Callable[[], object]:
        id = self.world.image()
        return lambda: images.delete(self.world.caller(), id)

    def create_bucket(self) -> Callable[[], object]:
        return self.world.bucket

    def put_object(self) -> Callable[[], object]:
        bucket = self.world.bucket()
        return lambda: self.world.put(bucket, b"key")

    def replace_object(self) -> Callable[[], object]:
        bucket = self.world.bucket()
        self.world.put(bucket, b"key")
        return lambda: self.world.put(bucket, b"key")

    def delete_objects(self, count: int) -> Callable[[], object]:
        bucket = self.world.bucket()
        keys = [self.world.put(bucket, b"key-%d" % number) for number in range(count)]
        asked = [(key, lambda row: None) for key in keys]
        return lambda: buckets.delete(self.world.caller(), bucket, asked)

    def delete_bucket(self) -> Callable[[], object]:
        bucket = self.world.bucket()
        return lambda: buckets.remove(self.world.caller(), bucket)


@pytest.mark.parametrize("rows", [0, 7])
def test_verbs_take_these_however_much_there_is(world: World, rows: int) -> None:
    world.fill(rows)
    asked = Asked(world)
    taken: dict[str, int | tuple[int, ...]] = {}
    for name, expected in VERBS.items():
        prepare = getattr(asked, name)
        if isinstance(expected, int):
            taken[name] = statements(prepare())
        else:
            taken[name] = tuple(statements(prepare(count)) for count in (1, 2, 5))
    assert taken == VERBS
