"""minicloud-all: from a command line to a cloud that answers, and to its end."""

from __future__ import annotations

import argparse
import contextlib
import logging
import pathlib
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from oslo_config import cfg

from minicloud import __version__, concurrency, config, daemon, errors, log, rpc, supervised
from minicloud.api.ec2 import app as ec2
from minicloud.api.openstack.compute import app as servers
from minicloud.api.openstack.identity import app as identity
from minicloud.api.openstack.image import app as pictures
from minicloud.compute import manager as compute
from minicloud.compute import simulated as hypervisor
from minicloud.daemon import Life
from minicloud.db import migrate, session
from minicloud.embedded import first_rows, home, lives
from minicloud.network import manager as network
from minicloud.network import simulated as wires
from minicloud.objectstore import app as s3
from minicloud.objectstore import manager as objectstore
from minicloud.scheduler import manager as scheduler
from minicloud.volume import files
from minicloud.volume import manager as volume
from minicloud.volume import simulated as pretended

LOG = logging.getLogger(__name__)

MOST_HOSTS = 10000
PATIENCE_S = 2.0  # for HTTP requests under way at the end
LOOK_S = 0.1  # between two looks for a signal


def main(arguments: list[str]) -> int:
    """A cloud until SIGTERM or SIGINT; 0 after a clean stop, 1 when something stands in the way,
    2 for wrong usage."""
    stop = daemon.asked_to_stop()
    given = _parsed(arguments)
    began = time.monotonic()
    where = home.Home(given.state.expanduser().absolute())
    with contextlib.ExitStack() as ends:
        try:
            home.claim(where)
            ends.enter_context(daemon.hold_lock("minicloud-all", str(where.run)))
            doors = _doors(given.port_offset)
            count = max(given.hosts, home.hosts(where))  # or instances could not be ended
            home.write(where, given.port_offset, count)
            _configure(where)
        except (OSError, ValueError, errors.Error) as error:
            return _refuse(str(error))
        try:
            cloud = _begin(where, count, doors, ends)
        except (OSError, errors.Error) as error:
            LOG.critical("cannot begin", exc_info=True)
            return _refuse(f"{error} (more in {where.log})")
        LOG.info("ready after %.1f s", time.monotonic() - began)
        print(f"ready\n. {shlex.quote(str(where.novarc))}", flush=True)
        supervised.tell("READY=1")
        while not stop() and not cloud.over.wait(LOOK_S):
            pass
        supervised.tell("STOPPING=1")
        LOG.info("stopping")
        return 1 if cloud.over.is_set() else 0


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "minicloud-all",
        description="A whole cloud in one process, in the foreground: simulated hosts, no root.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--state",
        type=pathlib.Path,
        default=home.default(),
        metavar="DIR",
        help="where all of it is kept; the next start there goes on (%(default)s)",
    )
    parser.add_argument(
        "--port-offset",
        type=_number(0, home.HIGHEST_OFFSET),
        default=0,
        metavar="N",
        help="added to every port: EC2 8773, S3 3333 (%(default)s)",
    )
    parser.add_argument(
        "--hosts",
        type=_number(1, MOST_HOSTS),
        default=1,
        metavar="N",
        help="simulated hosts; a cloud that has more keeps them (%(default)s)",
    )
    parser.add_argument("--version", action="version", version=f"minicloud {__version__}")
    return parser.parse_args(arguments)


def _number(least: int, most: int) -> Callable[[str], int]:
    def check(word: str) -> int:
        if not (word.isascii() and word.isdecimal() and least <= int(word) <= most):
            raise argparse.ArgumentTypeError(f"{word} is no number from {least} to {most}")
        return int(word)

    return check


def _refuse(cause: str) -> int:
    print("error:", cause, file=sys.stderr)
    return 1


def _doors(offset: int) -> dict[tuple[str, str], Any]:
    """The listening sockets, by their option; OSError names the port that is taken.

    They are opened first: nothing was changed when one cannot be.
    """
    doors = {}
    for option, port in home.PORTS.items():
        try:
            doors[option] = concurrency.listen(home.ADDRESS, port + offset)
        except OSError as error:
            where = f"{home.ADDRESS} port {port + offset}"
            raise OSError(f"{where}: {error.strerror} (--port-offset gives others)") from error
    return doors


def _configure(where: home.Home) -> None:
    files = [where.conf, *([where.local] if where.local.exists() else [])]
    config.load([word for file in files for word in ("--config-file", str(file))], "minicloud-all")
    log.set_up(where.log.open("a"))
    LOG.info("minicloud-all %s, cloud %s", __version__, cfg.CONF.tag)
    log.options()
    config.check()
    session.send_with(rpc.send)


def _begin(
    where: home.Home, count: int, doors: dict[tuple[str, str], Any], ends: contextlib.ExitStack
) -> lives.Lives:
    """Everything runs and answers; what ends it is on `ends`."""
    migrate.sync()
    first_rows.basic()
    store = objectstore.Manager()
    cloud = lives.Lives(list(_lives(where, store, count)))
    cloud.begin()
    ends.callback(cloud.end)
    fronts = {
        ("api", "ec2_port"): ec2.app(),
        ("objectstore", "port"): s3.app(store),
        ("openstack", "identity_port"): identity.app(),
        ("openstack", "compute_port"): servers.app(),
        ("openstack", "image_port"): pictures.app(),
    }
    for option, application in fronts.items():
        ends.callback(concurrency.serve_wsgi(doors[option], application), PATIENCE_S)
    first_rows.pictures()
    first_rows.credentials(where)
    return cloud


def _lives(where: home.Home, store: objectstore.Manager, count: int) -> Iterator[Life]:
    """One of each daemon, and as many compute hosts as are wanted."""
    first, zone = cfg.CONF.host, cfg.CONF.zone
    volumes = pretended.Simulated(pathlib.Path(files.CONF.path, "simulated", first))
    networks = wires.Simulated(pathlib.Path(cfg.CONF.state_path, "networks", "simulated", first))
    for manager in (
        network.Manager(networks),
        store,
        volume.Manager(volumes, volumes),
        scheduler.Manager(),
    ):
        yield Life(manager, first, zone)
    for number in range(1, count + 1):
        host = f"host{number}"
        driver = hypervisor.Simulated(where.instances / "simulated" / host)
        yield Life(compute.Manager(driver, wired=False), host, zone)
