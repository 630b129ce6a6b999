"""Images as Compute showed them before clients asked the Image API: to look at only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minicloud.api.openstack import wire
from minicloud.api.openstack.compute.service import links, listed, route
from minicloud.cloud import images
from minicloud.cloud.images import Search
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Image

STATUSES = {"uploading": "SAVING", "active": "ACTIVE", "deleting": "DELETED", "error": "ERROR"}


@route("GET", "/images")
def list_images(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _list(ctx, req, "/images", detail=False)


@route("GET", "/images/detail")
def list_images_in_detail(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return _list(ctx, req, "/images/detail", detail=True)


def _list(ctx: Context, req: wire.Request, path: str, *, detail: bool) -> dict[str, Any]:
    what = Search(names=[req.query["name"]]) if req.query.get("name") else Search()
    page = images.search(ctx, what, limit=req.limit(), marker=req.query.get("marker") or None)
    view = _view if detail else _brief
    return listed(req, "images", [view(req, row) for row in page.items], page.next, path)


@route("GET", "/images/{image_id}")
def show_image(ctx: Context, req: wire.Request, image_id: str) -> dict[str, Any]:
    return {"image": _view(req, images.shown_to(ctx, image_id))}


def _brief(req: wire.Request, row: Image) -> dict[str, Any]:
    return {"id": row.id, "name": row.name, "links": links(req, f"/images/{row.id}")}


def _view(req: wire.Request, row: Image) -> dict[str, Any]:
    return {
        **_brief(req, row),
        "status": STATUSES.get(row.state, "UNKNOWN"),
        "progress": 100 if row.state == "active" else 0,
        "created": wire.time(row.created_at),
        "updated": wire.time(row.updated_at),
        "minDisk": 0,
        "minRam": 0,
        "metadata": {},
        "OS-EXT-IMG-SIZE:size": row.size,
    }
