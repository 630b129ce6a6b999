"""The Compute API, all its routes loaded."""

from __future__ import annotations

from minicloud import nouns, wsgi
from minicloud.api.openstack.compute.service import SERVICE

nouns.load("minicloud.api.openstack.compute")


def app() -> wsgi.Application:
    return SERVICE.app()
