"""Rows of a cloud whose daemons do nothing: things are in whatever state they are told."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import context, ids, states
from minicloud.cloud import (
    buckets,
    groups,
    images,
    instances,
    keypairs,
    networks,
    projects,
    quotas,
    rules,
    tags,
    users,
    volumes,
)
from minicloud.context import Context
from minicloud.db import hosts as daemons
from minicloud.db import models
from minicloud.db.session import Tx, transaction

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJiw1tWdrnzoJx0wHuwC6aQ5Q0jLtFYjI7DtpFyuRLJM"


class World:
    """A cloud whose daemons do nothing: rows get where they are told.  Each call is a request of
    the same user."""

    def __init__(self, caller: Callable[[], Context]) -> None:
        self.caller = caller
        self.names = itertools.count()
        host_is_there()
        for resource in quotas.RESOURCES:
            quotas.change(context.admin(), "proj", resource, -1)

    def name(self, prefix: str) -> str:
        return f"{prefix}{next(self.names)}"

    def run(self, count: int) -> list[str]:
        asked = {"image": "ami-tty", "flavor": "m1.nano", "count_min": count, "count_max": count}
        return [view.row.id for view in instances.run(self.caller(), **asked)]

    def running(self, count: int) -> list[str]:
        made = self.run(count)
        settle(models.Instance, made, "running", host="h1", zone="nova")
        return made

    def volume_asked(self) -> str:
        return volumes.create(self.caller(), size_gib=1, zone="nova").row.id

    def volume(self) -> str:
        made = self.volume_asked()
        settle(models.Volume, [made], "available", host="h1", zone="nova")
        return made

    def attached(self) -> str:
        """The volume of an attachment."""
        volume, [instance] = self.volume(), self.running(1)
        made = volumes.attach(self.caller(), volume, instance, "/dev/vdb").id
        settle(models.Attachment, [made], "attached")
        return volume

    def key_pair(self) -> str:
        return keypairs.import_(self.caller(), self.name("key"), KEY).name

    def group(self) -> str:
        return groups.create(self.caller(), self.name("group"), "for tests").name

    def authorize(self, group: str, count: int) -> list[rules.RuleSpec]:
        made = [rules.RuleSpec("tcp", port, port, "0.0.0.0/0") for port in range(1, count + 1)]
        groups.authorize(self.caller(), name=group, rules=made)
        return made

    def image(self) -> str:
        made = images.register(self.caller(), name=self.name("image"), kind="machine").id
        settle(models.Image, [made], "active", format="raw", size=1, virtual_size=1)
        return made

    def bucket(self) -> str:
        made = self.name("bucket")
        buckets.create(self.caller(), made, False)
        return made

    def put(self, bucket: str, key: bytes) -> bytes:
        me = states.Daemon("objectstore@h1", "h1", 1)
        made = buckets.begin(
            self.caller(), bucket, key, me, id=ids.new(), public=False, headers={}
        )
        facts = buckets.Facts(size=1, etag="e", checksums={})
        buckets.finish(self.caller(), made, facts, lambda before: None)
        return key

    def fill(self, count: int) -> None:
        """So many more of everything."""
        operator = context.admin
        bucket = self.bucket()
        labelled = self.running(count) if count else []
        for number in range(count):
            self.put(bucket, b"key-%d" % number)
            self.attached()
            self.image()
            self.bucket()
            self.authorize(self.group(), 2)
            self.key_pair()
            users.create(operator(), self.name("user"))
            project = projects.create(operator(), self.name("project"), "alice")
            networks.create(
                operator(),
                name=self.name("net"),
                cidr=f"10.1.{next(self.names)}.0/24",
                project=project.name,
            )
        if labelled:
            tags.create(self.caller(), shown(labelled), {"for": "tests"})


def shown(instance_ids: Sequence[str]) -> list[str]:
    return [ids.ec2("i", id) for id in instance_ids]


@transaction
def host_is_there(tx: Tx) -> None:
    for daemon in ("compute", "network", "volume", "objectstore"):
        facts = {"machine_id": "machine", "boot_id": "boot", "version": "1.0", "zone": "nova"}
        daemons.register(tx, host="h1", daemon=daemon, **facts)


@transaction
def settle(tx: Tx, model: Any, rows: Sequence[str], state: str, **values: object) -> None:
    """The rows are in that state, as if a daemon had brought them there."""
    at = {"state": state, "rest": state} | values
    tx.changed(sa.update(model).where(model.id.in_(rows)).values(**at))


@pytest.fixture
def world(caller: Callable[[], Context]) -> World:
    return World(caller)
