"""Who may do what: one table, asked by every deciding function before it does anything.

Which rows somebody may see is not here but in `db.session.visible`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from minicloud import errors
from minicloud.context import Context

Rule = Callable[[Context], bool]


def member(ctx: Context) -> bool:
    """acting in a project"""
    return bool(ctx.project_id)


def admin(ctx: Context) -> bool:
    """the admin role"""
    return ctx.is_admin


def member_or_admin(ctx: Context) -> bool:
    """acting in a project, or the admin role"""
    return member(ctx) or admin(ctx)


def admin_in_project(ctx: Context) -> bool:
    """the admin role, acting in a project"""
    return member(ctx) and admin(ctx)


RULES: Mapping[str, Rule] = {
    "instances": member,
    "instances: all": admin,
    "volumes": member,
    "volumes: all": admin,
    "key pairs": member,
    "security groups": member,
    "tags": member,
    "images": member,
    "images: register": member,
    "images: change": member_or_admin,
    "images: publish": admin_in_project,
    "images: all": admin,
    "buckets": member,
    "networks": admin,
    "users": admin,
    "projects": admin,
    "quotas": admin,
    "quotas: own": member,
    "hosts": admin,
    "audit": admin,
    "database": admin,
}


def require(ctx: Context, rule: str) -> None:
    """Return when the asker fulfils the rule; Forbidden with what is missing otherwise."""
    if not RULES[rule](ctx):
        raise errors.Forbidden(reason=f"{rule} needs {RULES[rule].__doc__}")
