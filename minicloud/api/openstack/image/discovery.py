"""Which versions there are (asked without a token), and what an image is made of."""

from __future__ import annotations

from typing import Any

from minicloud import wsgi
from minicloud.api.openstack import wire
from minicloud.api.openstack.image.service import route
from minicloud.context import Context

VERSIONS = ("v2.2", "v2.1", "v2.0")

_TEXT = {"type": ["null", "string"]}
_NUMBER = {"type": ["null", "integer"]}
MEMBERS: dict[str, wire.Schema] = {
    **dict.fromkeys(
        ("id", "name", "owner", "self", "file", "schema", "created_at", "updated_at"), _TEXT
    ),
    **dict.fromkeys(("checksum", "os_hash_algo", "os_hash_value", "direct_url"), _TEXT),
    **dict.fromkeys(("size", "virtual_size", "min_disk", "min_ram"), _NUMBER),
    "status": {
        "type": "string",
        "enum": ["queued", "saving", "active", "killed", "pending_delete", "deleted"],
    },
    "visibility": {"type": "string", "enum": ["public", "private"]},
    "container_format": {"type": ["null", "string"], "enum": [None, "bare", "ami", "aki", "ari"]},
    "disk_format": {
        "type": ["null", "string"],
        "enum": [None, "raw", "qcow2", "ami", "aki", "ari"],
    },
    "protected": {"type": "boolean"},
    "os_hidden": {"type": "boolean"},
    "tags": {"type": "array", "items": {"type": "string"}},
}


@route("GET", "/", public=True)
def versions(ctx: Context, req: wire.Request) -> wsgi.Response:
    """300, as the Image API has always answered; clients read the body."""
    found = [
        {
            "id": id,
            "status": "CURRENT" if id == VERSIONS[0] else "SUPPORTED",
            "links": [wire.link(f"{req.base}/v2/")],
        }
        for id in VERSIONS
    ]
    return wsgi.Response(json={"versions": found}, status=300)


@route("GET", "/schemas/image")
def show_schema(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return {
        "name": "image",
        "properties": MEMBERS,
        "additionalProperties": {"type": "string"},
        "links": [
            {"rel": "self", "href": "{self}"},
            {"rel": "enclosure", "href": "{file}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }


@route("GET", "/schemas/images")
def show_schema_of_lists(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return {
        "name": "images",
        "properties": {
            "images": {"type": "array", "items": show_schema(ctx, req)},
            "first": {"type": "string"},
            "next": {"type": "string"},
            "schema": {"type": "string"},
        },
        "links": [
            {"rel": "first", "href": "{first}"},
            {"rel": "next", "href": "{next}"},
            {"rel": "describedby", "href": "{schema}"},
        ],
    }
