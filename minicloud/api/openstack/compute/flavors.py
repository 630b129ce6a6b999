"""Flavors: the sizes an instance can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from minicloud import errors
from minicloud.api.openstack import wire
from minicloud.api.openstack.compute.service import links, listed, route
from minicloud.cloud import flavors
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Flavor


@route("GET", "/flavors")
def list_flavors(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _list(ctx, req, _brief, "/flavors")


@route("GET", "/flavors/detail")
def list_flavors_in_detail(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _list(ctx, req, _view, "/flavors/detail")


def _list(
    ctx: Context,
    req: wire.Request,
    view: Callable[[wire.Request, Flavor], dict[str, Any]],
    path: str,
) -> dict[str, Any]:
    """All flavors are public."""
    page = flavors.find(ctx, limit=req.limit(), after=_marker(ctx, req))
    least = (req.number("minRam") or 0, req.number("minDisk") or 0)
    shown = [
        view(req, row)
        for row in page.items
        if row.memory_mib >= least[0] and row.disk_gib >= least[1]
    ]
    if req.query.get("is_public", "").lower() == "false":
        shown = []
    return listed(req, "flavors", shown, page.next, path)


def _marker(ctx: Context, req: wire.Request) -> str | None:
    marker = req.query.get("marker")
    if marker is not None and marker not in {row.id for row in flavors.find(ctx).items}:
        raise errors.InvalidMarker(marker=marker[:80])
    return marker


@route("GET", "/flavors/{flavor_id}")
def show_flavor(ctx: Context, req: wire.Request, flavor_id: str) -> dict[str, Any]:
    return {"flavor": _view(req, called(ctx, flavor_id))}


@route("GET", "/flavors/{flavor_id}/os-extra_specs")
def show_extra_specs(ctx: Context, req: wire.Request, flavor_id: str) -> dict[str, Any]:
    called(ctx, flavor_id)
    return {"extra_specs": {}}


def called(ctx: Context, id: str) -> Flavor:
    """The flavor of that id; NotFound."""
    for row in flavors.find(ctx).items:
        if row.id == id:
            return row
    raise errors.NotFound(kind="The flavor", id=id)


def _brief(req: wire.Request, row: Flavor) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "links": links(req, f"/flavors/{row.id}")}


def _view(req: wire.Request, row: Flavor) -> dict[str, Any]:
    return {
        **_brief(req, row),
        "ram": row.memory_mib,
        "disk": row.disk_gib,
        "vcpus": row.vcpus,
        "swap": "",
        "rxtx_factor": 1.0,
        "OS-FLV-EXT-DATA:ephemeral": 0,
        "OS-FLV-DISABLED:disabled": False,
        "os-flavor-access:is_public": True,
    }
