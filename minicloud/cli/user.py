"""Users: who may sign requests."""

from __future__ import annotations

from minicloud import context
from minicloud.cli import table
from minicloud.cli.commands import command


@command("user create")
def user_create(name: str, admin: bool = False) -> None:
    """Create a user with keys of its own and show its id; with --admin it has the admin role.

    `project environment` hands the keys out.
    """
    from minicloud.cloud import users

    print(users.create(context.admin(), name, is_admin=admin).id)


@command("user list")
def user_list(json: bool = False) -> None:
    """List all users."""
    from minicloud.cloud import users

    rows = [
        (user.id, user.name, user.is_admin, user.access_key, user.created_at)
        for user in users.find(context.admin())
    ]
    table.show(("id", "name", "admin", "access_key", "created_at"), rows, json)


@command("user delete")
def user_delete(name: str) -> None:
    """Delete a user: its keys sign nothing any more.

    Refused while the user manages a project.
    """
    from minicloud.cloud import users

    users.delete(context.admin(), name)
