"""The database's schema."""

from __future__ import annotations

from minicloud import context
from minicloud.cli import table
from minicloud.cli.commands import command


@command("db sync")
def db_sync() -> None:
    """Bring the database to this release's schema; repeating changes nothing."""
    from minicloud.db import migrate

    print(migrate.sync())


@command("db version")
def db_version() -> None:
    """Show the version of the database's schema."""
    from minicloud.db import migrate

    print(migrate.version())


@command("db purge")
def db_purge(older_than: int, dry_run: bool = False, json: bool = False) -> None:
    """Delete the rows of what ended more than OLDER_THAN days ago.

    Instances, volumes, images, attachments and objects that are gone; all events but the last of
    what is there; requests (an older client token is new again); tokens that expired.  What
    something else still refers to stays.  --dry-run only counts.
    """
    from minicloud.cloud import purge

    counted = purge.purge(context.admin(), older_than, dry_run)
    table.show(("rows", "purged"), list(counted.items()), json)
