"""RegisterImage from an object and from a manifest, DeregisterImage."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import errors
from minicloud.auth import database
from minicloud.cloud import images
from minicloud.context import Context, new_request_id
from minicloud.db import models
from minicloud.db.session import Tx, reading
from minicloud.objectstore import registering
from tests.conftest import InProcessCloud
from tests.functional.s3.conftest import Store

RAW = b"\xeb\x63" + bytes(510) + b"disk" * 100_000


@pytest.fixture
def bob(store: Store) -> Callable[[], Context]:
    """Make contexts of `bob`, each a new request."""
    found = database.by_access_key(store.bob.access_key, None)
    assert found is not None
    return lambda: Context(
        new_request_id(), found.user_id, found.project_id, found.user, found.project
    )


@reading
def newest(tx: Tx) -> models.Image:
    statement = sa.select(models.Image).order_by(models.Image.created_at.desc())
    return tx.scalars(statement.limit(1)).one()


def registered(ctx: Context, location: str) -> models.Image:
    images.register_object(ctx, location=location, name="disk")
    InProcessCloud.wait(lambda: newest().state != "registering")
    return newest()


def test_an_image_is_what_the_object_was(
    store: Store, s3: Any, bob: Callable[[], Context]
) -> None:
    s3.put_object(Bucket="box", Key="a/disk.img", Body=RAW)
    row = registered(bob(), "box/a/disk.img")
    s3.delete_object(Bucket="box", Key="a/disk.img")
    assert (row.state, row.format, row.size) == ("active", "raw", len(RAW))
    assert row.sha256 == hashlib.sha256(RAW).hexdigest()
    assert (store.files / row.file).read_bytes() == RAW
    [view] = [one for one in images.find(bob()).items if one.row.id == row.id]
    assert (view.row.location, view.owner) == ("box/a/disk.img", bob().project_id)
    images.delete(bob(), view.ec2_id)
    InProcessCloud.wait(lambda: store.settled(0))


def manifest(*parts: tuple[str, bytes], more: str = "") -> bytes:
    named = "".join(
        f'<part index="{i}"><filename>{name}</filename>'
        f'<digest algorithm="SHA1">{hashlib.sha1(body).hexdigest()}</digest></part>'
        for i, (name, body) in enumerate(parts)
    )
    return (
        f"<manifest><image><name>disk</name><type>machine</type>{more}"
        f'<parts count="{len(parts)}">{named}</parts></image></manifest>'
    ).encode()


def test_a_manifest_names_the_parts(s3: Any, bob: Callable[[], Context]) -> None:
    parts = [("disk.part.0", RAW[:100_000]), ("disk.part.1", RAW[100_000:])]
    for name, body in parts:
        s3.put_object(Bucket="box", Key=f"a/{name}", Body=body)
    s3.put_object(Bucket="box", Key="a/disk.manifest.xml", Body=manifest(*parts))
    row = registered(bob(), "box/a/disk.manifest.xml")
    assert (row.state, row.sha256) == ("active", hashlib.sha256(RAW).hexdigest())


@pytest.mark.parametrize("sizes", [[3], [2, 1], [3, 0]])
def test_every_part_is_compared_with_its_digest(
    store: Store, s3: Any, bob: Callable[[], Context], sizes: list[int]
) -> None:
    parts = [(f"disk.part.{at}", b"x" * size) for at, size in enumerate(sizes)]
    for name, body in parts:
        s3.put_object(Bucket="box", Key=name, Body=body)
    wrong = [*parts[:-1], (parts[-1][0], b"other")]
    s3.put_object(Bucket="box", Key="disk.manifest.xml", Body=manifest(*wrong))
    row = registered(bob(), "box/disk.manifest.xml")
    assert row.state == "error"
    assert f"{parts[-1][0]} has another SHA-1" in (row.reason or "")
    assert store.settled(len(parts) + 1)


QCOW2_WITH_BACKING = struct.pack(">4sIQI", b"QFI\xfb", 3, 600, 10) + bytes(4096)


@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        ("disk", QCOW2_WITH_BACKING, "not safe"),
        ("disk", b"", "empty"),
        ("x.manifest.xml", manifest(("p", b"x")), "p is not there"),
        ("x.manifest.xml", manifest(), "no part"),
        ("x.manifest.xml", manifest(("../p", b"x")), "XML"),
        ("x.manifest.xml", b"<!DOCTYPE x>", "XML"),
        ("x.manifest.xml", b" " * (registering.MANIFEST_BYTES + 1), "too large"),
        ("x.manifest.xml", manifest(*[("p", b"x")] * (registering.PARTS + 1)), "more than 10000"),
        (
            "x.manifest.xml",
            manifest(("p", b"x"), more="<ec2_encrypted_key>0</ec2_encrypted_key>"),
            "ec2_encrypted_key",
        ),
    ],
)
def test_what_no_guest_may_have_is_refused_with_the_reason(
    store: Store, s3: Any, bob: Callable[[], Context], key: str, body: bytes, reason: str
) -> None:
    s3.put_object(Bucket="box", Key=key, Body=body)
    row = registered(bob(), f"box/{key}")
    assert row.state == "error"
    assert reason in (row.reason or "")
    assert store.settled(1)


def test_only_what_may_be_read_is_registered(
    store: Store, s3: Any, bob: Callable[[], Context], ctx: Context
) -> None:
    s3.put_object(Bucket="box", Key="disk", Body=RAW)
    for who, location in ((bob(), "box/none"), (bob(), "none/x"), (ctx, "box/disk")):
        with pytest.raises(errors.InvalidValue, match="ImageLocation"):
            images.register_object(who, location=location, name="disk")
    assert newest().name == "tty"
