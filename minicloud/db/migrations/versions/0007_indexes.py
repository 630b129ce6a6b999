"""Indexes for what an object store asks about its files at each sweep."""

from __future__ import annotations

import sqlalchemy as sa

from minicloud.db.migrate import add_index

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    add_index("images", sa.Index("ix_images_file", "file"))
    add_index("parts", sa.Index("parts_host", "host", "number"))
