"""What a project may have: its own for everybody, each project's for admins.  `minicloud-manage
project quota` changes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from minicloud import errors
from minicloud.api.openstack import wire
from minicloud.api.openstack.compute.service import route
from minicloud.cloud import projects, quotas
from minicloud.context import Context

# the same for every project
FIXED = ("key_pairs", "security_groups", "security_group_rules")
# none of these is built, so none may be had
NONE = (
    *("metadata_items", "injected_files", "injected_file_content_bytes"),
    *("injected_file_path_bytes", "server_groups", "server_group_members", "floating_ips"),
)


@route("GET", "/os-quota-sets/{project_id}")
def show_quotas(ctx: Context, req: wire.Request, project_id: str) -> dict[str, Any]:
    return _view(project_id, {one.resource: one.limit for one in _of(ctx, project_id)})


@route("GET", "/os-quota-sets/{project_id}/defaults")
def show_default_quotas(ctx: Context, req: wire.Request, project_id: str) -> dict[str, Any]:
    return _view(project_id, {name: getattr(quotas.CONF, name) for name in quotas.OF_INSTANCES})


def _of(ctx: Context, project_id: str) -> list[quotas.Limit]:
    """Forbidden for another project's, unless an admin asks."""
    if project_id == ctx.project_id:
        return quotas.own(ctx)
    for row in projects.find(ctx):
        if row.id == project_id:
            return quotas.find(ctx, row.name)
    raise errors.ProjectNotFound(id=project_id)


def _view(project_id: str, limits: Mapping[str, int]) -> dict[str, Any]:
    """Of volumes the block storage API would tell."""
    found = {name: limits[name] for name in quotas.OF_INSTANCES}
    found |= {name: getattr(quotas.CONF, name) for name in FIXED}
    return {"quota_set": {"id": project_id, **found, **dict.fromkeys(NONE, 0)}}
