"""Fenced hosts, exports that are made anew, and members that leave security groups."""

from __future__ import annotations

import sqlalchemy as sa

from minicloud.db import models
from minicloud.db.migrate import add_column, create_table

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    add_column("hosts", sa.Column("fenced_at", models.Time))
    add_column("hosts", sa.Column("former_machine_id", models.Id))
    add_column("attachments", sa.Column("export", models.Id))
    create_table(
        "group_leavings",
        sa.Column("group_id", models.Id, primary_key=True),
        sa.Column("instance_id", models.Id, primary_key=True),
        sa.Column("since", sa.Integer, nullable=False),
        sa.Index("ix_group_leavings_instance_id", "instance_id"),
    )
