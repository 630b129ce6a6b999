"""Which versions there are: asked without a token."""

from __future__ import annotations

from typing import Any

from minicloud import wsgi
from minicloud.api.openstack import wire
from minicloud.api.openstack.identity.service import route
from minicloud.context import Context


def _version(base: str) -> dict[str, Any]:
    return {
        "id": "v3.14",
        "status": "stable",
        "updated": "2020-04-07T00:00:00Z",
        "links": [wire.link(f"{base}/v3/")],
        "media-types": [{"base": wire.JSON, "type": "application/vnd.openstack.identity-v3+json"}],
    }


@route("GET", "/", public=True)
def versions(ctx: Context, req: wire.Request) -> wsgi.Response:
    """300, as Identity has always answered; clients read the body."""
    found = {"versions": {"values": [_version(req.base)]}}
    return wsgi.Response(json=found, status=300)


@route("GET", "/v3", public=True)
def version(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return {"version": _version(req.base)}
