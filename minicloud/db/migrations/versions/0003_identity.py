"""Passwords and tokens of users, properties of images."""

from __future__ import annotations

import sqlalchemy as sa

from minicloud.db import models
from minicloud.db.migrate import add_column, create_table

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    add_column("users", sa.Column("password", models.ascii_text(200)))
    add_column("users", sa.Column("kept_password", models.Text))
    add_column("users", sa.Column("token_epoch", sa.Integer, nullable=False, server_default="1"))
    add_column("images", sa.Column("properties", models.Text))
    create_table(
        "revoked_tokens",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("expires_at", models.Time, nullable=False),
        sa.Index("ix_revoked_tokens_expires_at", "expires_at"),
    )
