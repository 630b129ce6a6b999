"""S3: buckets, objects, multipart uploads and their parts; where an image came from."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from minicloud.db import models
from minicloud.db.migrate import create_table

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    columns = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("images")}
    if "location" not in columns:
        op.add_column("images", sa.Column("location", models.Text))
    create_table(
        "buckets",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("name", models.ascii_text(63), nullable=False),
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("created_at", models.Time, nullable=False),
        sa.UniqueConstraint("name"),
        sa.Index("ix_buckets_project_id", "project_id"),
    )
    create_table(
        "objects",
        sa.Column("bucket_id", models.Id, nullable=False),
        sa.Column("project_id", models.Id, nullable=False),
        sa.Column("key", models.Key, nullable=False),
        sa.Column("live", models.Key),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("headers", models.Text, nullable=False),
        sa.Column("checksums", models.Text, nullable=False),
        sa.Column("size", sa.BigInteger),
        sa.Column("etag", models.ascii_text(40)),
        sa.Column("upload_id", models.Id),
        sa.Column("file", models.ascii_text(80), nullable=False),
        sa.Column("host", models.Id, nullable=False),
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
        sa.UniqueConstraint("bucket_id", "live"),
        sa.Index("objects_state", "state", "host"),
        sa.Index("ix_objects_upload_id", "upload_id"),
        sa.Index("ix_objects_file", "file"),
    )
    create_table(
        "uploads",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("bucket_id", models.Id, nullable=False),
        sa.Column("key", models.Key, nullable=False),
        sa.Column("is_public", sa.Boolean, nullable=False),
        sa.Column("headers", models.Text, nullable=False),
        sa.Column("checksum", models.ascii_text(20)),
        sa.Column("checksum_type", models.ascii_text(20)),
        sa.Column("created_at", models.Time, nullable=False),
        sa.Index("uploads_bucket", "bucket_id", "id"),
    )
    create_table(
        "parts",
        sa.Column("id", models.Id, primary_key=True),
        sa.Column("upload_id", models.Id, nullable=False),
        sa.Column("number", sa.Integer),
        sa.Column("size", sa.BigInteger),
        sa.Column("etag", models.ascii_text(40)),
        sa.Column("checksums", models.Text, nullable=False),
        sa.Column("file", models.ascii_text(80), nullable=False),
        sa.Column("host", models.Id, nullable=False),
        sa.Column("created_at", models.Time, nullable=False),
        sa.UniqueConstraint("upload_id", "number"),
        sa.Index("ix_parts_file", "file"),
    )
