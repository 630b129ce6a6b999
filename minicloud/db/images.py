"""Rows of images as the object store needs them: who writes which file."""

from __future__ import annotations

import re
import secrets
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from minicloud import errors
from minicloud.db import models
from minicloud.db.session import Tx, hold

FILE = re.compile(r"image-[0-9a-f-]{36}-[0-9a-f]{8}")
NEVER_BEGUN_S = 3600  # an image whose upload has not begun by then was given up by its maker


def fresh_file(id: str) -> str:
    """A name in the object store for the bytes of image `id` that was never used before."""
    return f"image-{id}-{secrets.token_hex(4)}"


def held(tx: Tx, id: str) -> models.Image:
    """The image's row, locked until the transaction ends; ImageNotFound."""
    rows = hold(tx, models.Image, [id])
    if not rows:
        raise errors.ImageNotFound(id=id)
    return rows[0]


def get(tx: Tx, id: str) -> models.Image:
    """The image's row; ImageNotFound."""
    row = tx.scalars(sa.select(models.Image).where(models.Image.id == id)).one_or_none()
    if row is None:
        raise errors.ImageNotFound(id=id)
    return row


def claim(tx: Tx, row: models.Image, host: str, epoch: int, alive: Any) -> bool:
    """Make the daemon of `host` the one that takes the upload; False when it was replaced.

    The row is held; `alive` is the SQL condition that the daemon was not replaced.  WrongState
    when the image waits for no upload, Conflict when another request is on it.
    """
    if row.state != "uploading":
        raise errors.WrongState(kind="image", id=row.id, state=row.state, to="uploading")
    if row.host is not None:
        raise errors.Conflict(reason=f"The image {row.id} is being uploaded by another request")
    claimed = sa.update(models.Image).where(models.Image.id == row.id, alive)
    if tx.changed(claimed.values(host=host, epoch=epoch)) != 1:
        return False
    tx.refresh(row)
    return True


def uploads(tx: Tx, host: str) -> list[models.Image]:
    """The images somebody uploads, or uploaded when it died, to the object store of `host`."""
    model = models.Image
    return list(tx.scalars(sa.select(model).where(model.state == "uploading", model.host == host)))


def whole(tx: Tx, host: str) -> list[models.Image]:
    """The images whose bytes the object store of `host` has, or had once."""
    model = models.Image
    here = sa.or_(model.state == "active", sa.and_(model.state == "error", model.rest == "active"))
    return list(tx.scalars(sa.select(model).where(model.host == host, here)))


def never_begun(tx: Tx) -> list[models.Image]:
    """Images nobody began to upload for so long that nobody will."""
    model = models.Image
    statement = sa.select(model).where(
        model.state == "uploading",
        model.host.is_(None),
        model.created_at < models.now(-NEVER_BEGUN_S),
    )
    return list(tx.scalars(statement))


def named(tx: Tx, files: Collection[str]) -> set[str]:
    """Those of `files` that are the bytes of an image which is not deleted."""
    model = models.Image
    statement = sa.select(model.file).where(model.file.in_(files), model.state != "deleted")
    return set(tx.scalars(statement))
