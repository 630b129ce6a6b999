"""Key pairs: one made here shows its private half once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minicloud import errors
from minicloud.api.openstack import wire
from minicloud.api.openstack.compute.service import listed, route
from minicloud.cloud import keypairs
from minicloud.context import Context

if TYPE_CHECKING:
    from minicloud.db.models import KeyPair

CREATE = wire.wrapped(
    "keypair",
    wire.obj(
        {
            "name": wire.NAME,
            "public_key": {"type": ["string", "null"]},
            "type": {"enum": ["ssh"]},
            "user_id": wire.TEXT,
        },
        ("name",),
    ),
)


@route("GET", "/os-keypairs")
def list_keypairs(ctx: Context, req: wire.Request) -> dict[str, Any]:
    page = keypairs.find(ctx)
    return listed(req, "keypairs", [{"keypair": _brief(row)} for row in page.items], None, "")


@route("POST", "/os-keypairs", schema=CREATE)
def create_keypair(ctx: Context, req: wire.Request) -> dict[str, Any]:
    given = req.body["keypair"]
    if given.get("user_id") not in (None, ctx.user_id):
        raise errors.NotBuilt(what="A key pair of another user")
    if given.get("public_key"):
        row, private = keypairs.import_(ctx, given["name"], given["public_key"]), None
    else:
        row, private = keypairs.create(ctx, given["name"])
    found = {**_brief(row), "user_id": row.user_id}
    return {"keypair": found | ({"private_key": private} if private else {})}


@route("GET", "/os-keypairs/{name}")
def show_keypair(ctx: Context, req: wire.Request, name: str) -> dict[str, Any]:
    [row] = keypairs.find(ctx, names=[name]).items
    return {
        "keypair": {
            **_brief(row),
            "user_id": row.user_id,
            "created_at": wire.time(row.created_at),
            "deleted": False,
            "deleted_at": None,
            "updated_at": None,
        }
    }


@route("DELETE", "/os-keypairs/{name}", status=202)
def delete_keypair(ctx: Context, req: wire.Request, name: str) -> None:
    if keypairs.delete(ctx, name=name) is None:
        raise errors.KeyPairNotFound(id=name)


def _brief(row: KeyPair) -> dict[str, Any]:
    return {"name": row.name, "public_key": row.public_key, "fingerprint": row.fingerprint}
