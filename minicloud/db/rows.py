"""Inserting where a unique key decides between two that come at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc

from minicloud.db import models
from minicloud.db.session import RunAgain, Tx


def insert(tx: Tx, model: type[models.Base], rows: Sequence[dict[str, Any]]) -> None:
    """The rows are there.  When another transaction was quicker with a key of one of them, the
    whole body runs again, and then reads what the other wrote."""
    if not rows:
        return
    try:
        tx.execute(sa.insert(model), list(rows))
    except exc.IntegrityError:
        raise RunAgain from None
