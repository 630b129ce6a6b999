"""Where the EC2 API is: what it listens on, and the address it tells its clients."""

from __future__ import annotations

from oslo_config import cfg

from minicloud import config

CONF = config.declare(
    "api",
    [
        cfg.StrOpt(
            "listen",
            default="$my_ip",
            help="Address the APIs listen on; with 0.0.0.0 every network can reach them.",
        ),
        cfg.PortOpt("ec2_port", default=8773, help="TCP port of the EC2 API."),
        cfg.StrOpt(
            "ec2_url",
            default="http://$my_ip:$ec2_port/services/Cloud",
            help="URL of the EC2 API as clients reach it; DescribeRegions tells it.",
        ),
        cfg.IntOpt(
            "ec2_body_limit",
            default=1 << 20,
            min=1 << 16,
            help="Bytes a request's body may have; a larger one is refused before it is read.",
        ),
    ],
)
PATHS = ("/services/Cloud", "/services/Cloud/", "/")


def url() -> str:
    """The URL that clients are told."""
    return str(CONF.ec2_url)
