"""The Image API as a service."""

from __future__ import annotations

from minicloud.api.openstack import wire

SERVICE = wire.Service("image", "/v2", wire.fault)
route = SERVICE.route
