"""The Image API, all its routes loaded."""

from __future__ import annotations

from minicloud import nouns, wsgi
from minicloud.api.openstack.image.service import SERVICE

nouns.load("minicloud.api.openstack.image")


def app() -> wsgi.Application:
    return SERVICE.app()
