"""Tokens given back before their time; how they are made and opened is in `auth/tokens.py`."""

from __future__ import annotations

import datetime

import sqlalchemy as sa

from minicloud import errors
from minicloud.auth import tokens
from minicloud.context import Context
from minicloud.db import models, rows
from minicloud.db.session import Tx, transaction


@transaction
def revoke(tx: Tx, ctx: Context, token: tokens.Token) -> None:
    """The token is good for nothing from now on; repeating it changes nothing.

    Forbidden for another user's, unless an admin asks.  What has expired anyway is forgotten.
    """
    if token.user_id != ctx.user_id and not ctx.is_admin:
        raise errors.Forbidden(reason="only its user or an admin revokes a token")
    model = models.RevokedToken
    tx.changed(sa.delete(model).where(model.expires_at < models.now(-60)))
    if tx.get(model, token.id) is None:
        until = datetime.datetime.fromtimestamp(token.expires_at, datetime.UTC)
        rows.insert(tx, model, [{"id": token.id, "expires_at": until.replace(tzinfo=None)}])
