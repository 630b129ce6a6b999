"""The Identity API as a service, its domain and its roles: there is one domain, `Default`."""

from __future__ import annotations

import http
from typing import Any

from minicloud import errors
from minicloud.api.openstack import wire

DOMAIN_ID, DOMAIN_NAME = "default", "Default"
DOMAIN = {"id": DOMAIN_ID, "name": DOMAIN_NAME}
ROLES = {"admin": "admin", "member": "member"}  # name → id


def _faulty(status: int, error: errors.Error) -> dict[str, Any]:
    title = http.HTTPStatus(status).phrase
    return {"error": {"code": status, "title": title, "message": str(error)}}


SERVICE = wire.Service("identity", "/v3", _faulty)
route = SERVICE.route


def roles(is_admin: bool) -> list[dict[str, str]]:
    """An admin is also a member of what they look at."""
    names = ("admin", "member") if is_admin else ("member",)
    return [{"id": ROLES[name], "name": name} for name in names]
