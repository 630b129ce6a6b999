"""The catalog: where each API is.  It lists only what answers."""

from __future__ import annotations

import uuid
from typing import Any

from minicloud import config, errors
from minicloud.api.openstack import endpoint, wire
from minicloud.api.openstack.identity.service import route
from minicloud.context import Context

# type, name, address; libcloud finds a service by both words
SERVICES = (
    ("identity", "keystone", endpoint.identity_url),
    ("compute", "nova", endpoint.compute_url),
    ("image", "glance", endpoint.image_url),
)
INTERFACES = ("public", "internal", "admin")
_IDS = uuid.UUID("5b1c5f3e-7d43-4f0e-8d5e-0c6f8c3f1a57")


def _id(*words: str) -> str:
    """The same for the same service in every process."""
    return uuid.uuid5(_IDS, " ".join(words)).hex


def entries() -> list[dict[str, Any]]:
    region = str(config.CONF.region)
    return [
        {
            "id": _id(kind),
            "type": kind,
            "name": name,
            "endpoints": [
                {
                    "id": _id(kind, interface),
                    "interface": interface,
                    "region": region,
                    "region_id": region,
                    "url": url(),
                }
                for interface in INTERFACES
            ],
        }
        for kind, name, url in SERVICES
    ]


@route("GET", "/auth/catalog")
def show_catalog(ctx: Context, req: wire.Request) -> dict[str, Any]:
    if not ctx.project_id:
        raise errors.Forbidden(reason="a token without a project has no catalog")
    return {"catalog": entries(), "links": _links(req, "/v3/auth/catalog")}


@route("GET", "/services")
def list_services(ctx: Context, req: wire.Request) -> dict[str, Any]:
    found = [
        one
        for one in _services()
        if all(req.query.get(name, one[name]) == one[name] for name in ("type", "name"))
    ]
    return {"services": found, "links": _links(req, "/v3/services")}


@route("GET", "/services/{id}")
def show_service(ctx: Context, req: wire.Request, id: str) -> dict[str, Any]:
    return {"service": _called(_services(), "service", id)}


@route("GET", "/endpoints")
def list_endpoints(ctx: Context, req: wire.Request) -> dict[str, Any]:
    words = ("interface", "service_id", "region_id")
    found = [
        one
        for one in _endpoints()
        if all(req.query.get(name, one[name]) == one[name] for name in words)
    ]
    return {"endpoints": found, "links": _links(req, "/v3/endpoints")}


@route("GET", "/endpoints/{id}")
def show_endpoint(ctx: Context, req: wire.Request, id: str) -> dict[str, Any]:
    return {"endpoint": _called(_endpoints(), "endpoint", id)}


@route("GET", "/regions")
def list_regions(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return {"regions": [_region()], "links": _links(req, "/v3/regions")}


@route("GET", "/regions/{id}")
def show_region(ctx: Context, req: wire.Request, id: str) -> dict[str, Any]:
    return {"region": _called([_region()], "region", id)}


def _services() -> list[dict[str, Any]]:
    return [
        {"id": _id(kind), "type": kind, "name": name, "enabled": True, "description": ""}
        for kind, name, _ in SERVICES
    ]


def _endpoints() -> list[dict[str, Any]]:
    return [
        {**one, "service_id": service["id"], "enabled": True}
        for service in entries()
        for one in service["endpoints"]
    ]


def _region() -> dict[str, Any]:
    return {"id": str(config.CONF.region), "description": "", "parent_region_id": None}


def _called(things: list[dict[str, Any]], kind: str, id: str) -> dict[str, Any]:
    for one in things:
        if one["id"] == id:
            return one
    raise errors.NotFound(kind=f"The {kind}", id=id)


def _links(req: wire.Request, path: str) -> dict[str, Any]:
    return {"self": req.base + path, "previous": None, "next": None}
