"""alembic's entry: runs the steps on the connection that `migrate.sync` opened."""

from __future__ import annotations

from alembic import context

from minicloud.db import models

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=models.Base.metadata, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
