"""Tags."""

from __future__ import annotations

import sqlalchemy as sa

from minicloud.db import models
from minicloud.db.migrate import create_table

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    create_table(
        "tags",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("kind", models.ascii_text(20), nullable=False),
        sa.Column("resource_id", models.Id, nullable=False),
        sa.Column("name", models.Name, nullable=False),
        sa.Column("value", models.Text, nullable=False),
        sa.UniqueConstraint("resource_id", "name"),
        sa.Index("tags_project", "project_id", "id"),
    )
