"""Where the OpenStack APIs are: what they listen on, and the addresses the catalog tells."""

from __future__ import annotations

from oslo_config import cfg

from minicloud import config

CONF = config.declare(
    "openstack",
    [
        cfg.PortOpt("identity_port", default=5000, help="TCP port of the Identity API."),
        cfg.PortOpt("compute_port", default=8774, help="TCP port of the Compute API."),
        cfg.PortOpt("image_port", default=9292, help="TCP port of the Image API."),
        cfg.StrOpt(
            "identity_url",
            default="http://$my_ip:$identity_port/v3",
            help="URL of the Identity API as clients reach it; the catalog and novarc tell it.",
        ),
        cfg.StrOpt(
            "compute_url",
            default="http://$my_ip:$compute_port/v2.1",
            help="URL of the Compute API as clients reach it; the catalog tells it.",
        ),
        cfg.StrOpt(
            "image_url",
            default="http://$my_ip:$image_port",
            help="URL of the Image API as clients reach it; the catalog tells it.",
        ),
        cfg.IntOpt(
            "body_limit",
            default=1 << 20,
            min=1 << 16,
            help="Bytes a request's body may have, but for the data of an image; a larger one is"
            " refused before it is read.",
        ),
    ],
)


def identity_url() -> str:
    return str(CONF.identity_url)


def compute_url() -> str:
    return str(CONF.compute_url)


def image_url() -> str:
    return str(CONF.image_url)
