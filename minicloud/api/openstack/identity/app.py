"""The Identity API, all its routes loaded."""

from __future__ import annotations

from minicloud import nouns, wsgi
from minicloud.api.openstack.identity.service import SERVICE

nouns.load("minicloud.api.openstack.identity")


def app() -> wsgi.Application:
    return SERVICE.app()
