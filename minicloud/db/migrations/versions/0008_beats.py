"""Heartbeats are counted, by which a host knows a database that was restored."""

from __future__ import annotations

import sqlalchemy as sa

from minicloud.db.migrate import add_column

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    add_column("hosts", sa.Column("beats", sa.BigInteger, nullable=False, server_default="0"))
