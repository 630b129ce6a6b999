"""The identity of this cloud: one row, made with the schema."""

from __future__ import annotations

import sqlalchemy as sa

from minicloud import errors
from minicloud.db import models
from minicloud.db.session import Tx, reading


def id_of(tx: Tx) -> str:
    """The uuid that every artefact of this cloud carries; TryLater while the schema is made."""
    found = tx.scalars(sa.select(models.Cloud.id)).one_or_none()
    if found is None:
        raise errors.TryLater(reason="the database holds no cloud yet")
    return found


@reading
def identity(tx: Tx) -> str:
    """The same, in a transaction of its own."""
    return id_of(tx)
