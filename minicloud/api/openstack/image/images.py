"""Images: make one, give it its data, look, fetch the data, delete."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from minicloud import errors, wsgi
from minicloud.api.openstack import wire
from minicloud.api.openstack.image import data
from minicloud.api.openstack.image.discovery import MEMBERS
from minicloud.api.openstack.image.service import route
from minicloud.cloud import image_bytes, images
from minicloud.cloud.images import Search
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import Image

BYTES = "application/octet-stream"

# disk_format → what it is to this cloud; the others are formats of a machine image
KINDS = {"aki": "kernel", "ari": "ramdisk"}
FORMATS = ("raw", "qcow2")
CREATE: wire.Schema = {
    "type": "object",
    "properties": {
        "name": wire.NAME,
        "disk_format": {"enum": ["raw", "qcow2", "ami", "aki", "ari", None]},
        "container_format": {"enum": ["bare", "ami", "aki", "ari", None]},
        "visibility": {"enum": ["public", "private", "shared"]},
        "kernel_id": wire.TEXT,
        "ramdisk_id": wire.TEXT,
        "architecture": wire.TEXT,
        # asked for below: what they may say is what is there anyway
        "min_disk": {"type": "integer", "minimum": 0},
        "min_ram": {"type": "integer", "minimum": 0},
        "protected": {"type": "boolean"},
        "os_hidden": {"type": "boolean"},
        "tags": {"type": "array", "items": wire.TEXT},
        "owner": wire.TEXT,
        "id": wire.TEXT,
    },
    "required": ["name"],
    "additionalProperties": {"type": "string", "maxLength": wire.LONGEST},
}
OWN = frozenset({*CREATE["properties"], *MEMBERS})  # not the maker's own properties

STATUSES = {
    "uploading": "saving",  # "queued" before its data begins
    "active": "active",
    "error": "killed",
    "deleting": "pending_delete",
    "deleted": "deleted",
}


# --- making ---------------------------------------------------------------------------------


@route("POST", "/images", schema=CREATE, status=201)
def create_image(ctx: Context, req: wire.Request) -> wsgi.Response:
    given = req.body
    _refuse_more(ctx, given)
    disk_format = given.get("disk_format")
    try:
        row = images.register(
            ctx,
            name=given["name"],
            kind=KINDS.get(disk_format, "machine"),
            kernel=given.get("kernel_id") or None,
            ramdisk=given.get("ramdisk_id") or None,
            public=given.get("visibility") == "public",
            architecture=given.get("architecture") or "x86_64",
            format=disk_format if disk_format in FORMATS else None,
            properties={name: given[name] for name in given if name not in OWN},
        )
    except errors.NotFound as error:  # its kernel or ramdisk
        raise errors.BadRequest(reason=str(error)) from error
    return wsgi.Response(json=_view(row), status=201, location=f"{req.base}/v2/images/{row.id}")


def _refuse_more(ctx: Context, given: dict[str, Any]) -> None:
    """NotBuilt for what this cloud does not do; what comes to the same is fine."""
    for name in ("min_disk", "min_ram", "protected", "os_hidden", "tags", "id"):
        if given.get(name):
            raise errors.NotBuilt(what=f"The member {name} of an image")
    if given.get("owner") not in (None, "", ctx.project_id):
        raise errors.Forbidden(reason="an image belongs to the project it is made in")


@route("PUT", "/images/{image_id}/file", status=204)
def upload_image(ctx: Context, req: wire.Request, image_id: str) -> None:
    """The body goes on to the object store as it comes."""
    kind = req.raw.headers.get("content-type", BYTES)
    if kind.partition(";")[0].strip() != BYTES:
        raise errors.BadRequest(reason=f"The data of an image is sent as {BYTES}")
    image_bytes.check_awaited(ctx, image_id)  # before any of the body takes room here
    with data.received(req.raw) as (size, chunks):
        image_bytes.send(image_id, chunks, size)


# --- looking --------------------------------------------------------------------------------


@route("GET", "/images")
def list_images(ctx: Context, req: wire.Request) -> dict[str, Any]:
    what = _search(req)
    if what is None:
        found, next = [], None
    else:
        marker = req.query.get("marker") or None
        page = images.search(ctx, what, order=_order(req), limit=req.limit(), marker=marker)
        found, next = [_view(row) for row in page.items], page.next
    answer: dict[str, Any] = {
        "images": found,
        "first": "/v2/images",
        "schema": "/v2/schemas/images",
    }
    if next is not None:
        answer["next"] = req.next_page("/v2/images", next).removeprefix(req.base)
    return answer


def _search(req: wire.Request) -> Search | None:
    """What the query asks for; None when nothing can fit."""
    query = req.query
    hidden = "os_hidden" in query and req.flag("os_hidden")
    member = query.get("visibility") in ("shared", "community") or query.get("tag")
    if hidden or member or ("protected" in query and req.flag("protected")):
        return None
    fields: dict[str, Any] = {
        "ids": _among(query.get("id")),
        "names": _among(query.get("name")),
        "owner": query.get("owner"),
        "size_min": req.number("size_min"),
        "size_max": req.number("size_max"),
    }
    if query.get("visibility") in ("public", "private"):
        fields["public"] = query["visibility"] == "public"
    wanted = _among(query.get("status"))
    if wanted is not None:
        begun = {"queued": False, "saving": True}
        fields["states"] = [
            state
            for state, status in STATUSES.items()
            if status in wanted or (state == "uploading" and "queued" in wanted)
        ]
        if len(wanted) == 1 and wanted[0] in begun:
            fields["begun"] = begun[wanted[0]]
    formats = _among(query.get("disk_format"))
    if formats is not None:
        fields["kinds"] = [KINDS.get(one, "machine") for one in formats]
        if not set(formats) & {*KINDS, "ami"}:
            fields["formats"] = formats
    return Search(**fields)


def _among(given: str | None) -> list[str] | None:
    """One value, or those of `in:a,b,"c,d"`."""
    if given is None or not given.startswith("in:"):
        return None if given is None else [given]
    return [one.strip().strip('"') for one in given[3:].split(",") if one.strip()]


def _order(req: wire.Request) -> list[tuple[str, bool]]:
    """What the list is ordered by, each with True for descending, as it is unless said."""
    given = req.query.get("sort") or ""
    if not given and "sort_key" in req.query:
        given = f"{req.query['sort_key']}:{req.query.get('sort_dir', '')}"
    found = []
    for part in [one for one in given.split(",") if one]:
        name, _, direction = part.partition(":")
        if name not in images.ORDERS or direction not in ("", "asc", "desc"):
            known = ", ".join(images.ORDERS)
            reason = f"'{part[:40]}' is none of {known}, with :asc or :desc"
            raise errors.InvalidBody(where="sort", reason=reason)
        found.append((name, direction != "asc"))
    if len(found) > len(images.ORDERS):
        raise errors.InvalidBody(where="sort", reason="a list has one order")
    return found


@route("GET", "/images/{image_id}")
def show_image(ctx: Context, req: wire.Request, image_id: str) -> dict[str, Any]:
    return _view(images.shown_to(ctx, image_id))


@route("GET", "/images/{image_id}/members")
def list_members(ctx: Context, req: wire.Request, image_id: str) -> dict[str, Any]:
    """An image is private or everybody's: there are no members."""
    images.shown_to(ctx, image_id)
    return {"members": [], "schema": "/v2/schemas/members"}


@route("GET", "/images/{image_id}/file")
def download_image(ctx: Context, req: wire.Request, image_id: str) -> wsgi.Response:
    if images.shown_to(ctx, image_id).state == "uploading":
        return wsgi.Response(status=204)
    row, chunks = image_bytes.download(ctx, image_id)
    return wsgi.Response(app_iter=chunks, content_type=BYTES, content_length=row.size or 0)


@route("DELETE", "/images/{image_id}", status=204)
def delete_image(ctx: Context, req: wire.Request, image_id: str) -> None:
    images.delete(ctx, images.shown_to(ctx, image_id).id)


# --- how an image looks ---------------------------------------------------------------------


def _view(row: Image) -> dict[str, Any]:
    """A flat object: the members of the API, and beside them the maker's own."""
    disk_format, container_format = _formats(row)
    status = STATUSES.get(row.state, "queued")
    if row.state == "uploading" and row.host is None:
        status = "queued"
    found = {
        **json.loads(row.properties or "{}"),
        "id": row.id,
        "name": row.name,
        "status": status,
        "visibility": "public" if row.is_public else "private",
        "owner": row.project_id,
        "disk_format": disk_format,
        "container_format": container_format,
        "size": row.size,
        "virtual_size": row.virtual_size,
        "checksum": None,
        "os_hash_algo": "sha256" if row.sha256 else None,
        "os_hash_value": row.sha256,
        "os_hidden": False,
        "protected": False,
        "min_disk": 0,
        "min_ram": 0,
        "tags": [],
        "architecture": row.architecture,
        "created_at": wire.time(row.created_at),
        "updated_at": wire.time(row.updated_at),
        "self": f"/v2/images/{row.id}",
        "file": f"/v2/images/{row.id}/file",
        "schema": "/v2/schemas/image",
    }
    for name in ("kernel_id", "ramdisk_id"):
        if getattr(row, name):
            found[name] = getattr(row, name)
    return found


def _formats(row: Image) -> tuple[str | None, str | None]:
    if row.kind != "machine":
        name = next(name for name, kind in KINDS.items() if kind == row.kind)
        return name, name
    return ("ami", "ami") if row.kernel_id else (row.format, "bare")
