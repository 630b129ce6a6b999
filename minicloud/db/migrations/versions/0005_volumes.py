"""Volumes and their attachments."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from minicloud.db import models
from minicloud.db.migrate import create_table

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    create_table(
        "volumes",
        *_state(),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("user_id", models.Id, nullable=False),
        sa.Column("size_gib", sa.Integer, nullable=False),
        sa.Column("kind", models.ascii_text(20), nullable=False),
        sa.Column("client_token", models.Name),
        sa.Column("wanted_zone", models.Name, nullable=False),
        sa.Column("host", models.Id),
        sa.Column("zone", models.Name),
        sa.Column("portal", models.ascii_text(60)),
        sa.Index("volumes_project", "project_id", "state", "id"),
        sa.Index("volumes_host", "host", "state"),
        sa.Index("volumes_state", "state", "host"),
    )
    create_table(
        "attachments",
        *_state(),
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("user_id", models.Id, nullable=False),
        sa.Column("volume_id", models.Id, sa.ForeignKey("volumes.id"), nullable=False),
        sa.Column("instance_id", models.Id, sa.ForeignKey("instances.id"), nullable=False),
        sa.Column("host", models.Id, nullable=False),
        sa.Column("device", models.ascii_text(1), nullable=False),
        sa.Column("shown", models.ascii_text(40), nullable=False),
        sa.Column("secret", models.Text, nullable=False),
        sa.Column("since", sa.Integer, nullable=False),
        sa.Column("holds_volume", models.Id),
        sa.Column("holds_device", models.Id),
        sa.Column("attached_at", models.Time),
        sa.UniqueConstraint("holds_volume"),
        sa.UniqueConstraint("holds_device"),
        sa.Index("attachments_volume", "volume_id", "state"),
        sa.Index("attachments_instance", "instance_id", "state"),
        sa.Index("attachments_state", "state", "host"),
    )


def _state() -> list[sa.Column[Any]]:
    """The columns of `models.State`."""
    return [
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("state", models.ascii_text(20), nullable=False),
        sa.Column("rest", models.ascii_text(20)),
        sa.Column("generation", sa.Integer, nullable=False),
        sa.Column("request_id", models.Id, nullable=False),
        sa.Column("reason", models.Text),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("waits", sa.Integer, nullable=False),
        sa.Column("not_before", models.Time),
        sa.Column("created_at", models.Time, nullable=False),
        sa.Column("updated_at", models.Time, nullable=False),
    ]
