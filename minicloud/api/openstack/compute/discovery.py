"""Which versions there are: asked without a token.  There are no microversions."""

from __future__ import annotations

from typing import Any

from minicloud.api.openstack import wire
from minicloud.api.openstack.compute.service import route
from minicloud.context import Context


def _version(base: str) -> dict[str, Any]:
    return {
        "id": "v2.1",
        "status": "CURRENT",
        "version": "",
        "min_version": "",
        "updated": "2013-07-23T11:33:21Z",
        "links": [wire.link(f"{base}/v2.1/")],
    }


@route("GET", "/", public=True)
def versions(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return {"versions": [_version(req.base)]}


@route("GET", "/v2.1", public=True)
def version(ctx: Context, req: wire.Request) -> dict[str, Any]:
    kind = "application/vnd.openstack.compute+json;version=2.1"
    return {"version": {**_version(req.base), "media-types": [{"base": wire.JSON, "type": kind}]}}


@route("GET", "/extensions")
def list_extensions(ctx: Context, req: wire.Request) -> dict[str, Any]:
    """What v2.1 has is in it; nothing comes as an extension."""
    return {"extensions": []}
