"""One function per daemon: the only page that wires classes together.

eventlet is patched in before anything else is imported.
"""

# ruff: noqa: E402  (patching comes before the other imports)
from __future__ import annotations

from minicloud import concurrency

concurrency.patch()

import logging
import pathlib
import sys
from collections.abc import Callable
from typing import Any

from oslo_config import cfg

from minicloud import __version__, config, daemon, errors, log, rpc
from minicloud.db import session

LOG = logging.getLogger("minicloud")

PATIENCE_S = 5.0  # for HTTP requests under way when a daemon stops


def _begin(name: str) -> None:
    """Read the configuration, start the log, connect the nudges to the transactions."""
    program = f"minicloud-{name}"
    try:
        config.load(sys.argv[1:], program)
    except errors.BadRequest as error:
        raise SystemExit(f"error: {error}") from None
    log.set_up()
    LOG.info("%s %s, cloud %s, host %s", program, __version__, cfg.CONF.tag, cfg.CONF.host)
    log.options()
    session.send_with(rpc.send)


def _http(address: str, port: int, application: Any) -> Callable[[], Callable[[], None]]:
    def serve() -> Callable[[], None]:
        try:
            listener = concurrency.listen(address, port)
        except OSError as error:
            raise SystemExit(
                f"error: {address} port {port}: {error.strerror}; see who has it (ss -ltnp), or"
                " give this daemon another in minicloud.conf"
            ) from None
        LOG.info("listening on http://%s:%d", address, port)
        stop = concurrency.serve_wsgi(listener, application)
        return lambda: stop(PATIENCE_S)

    return serve


def _together(*doors: Callable[[], Callable[[], None]]) -> Callable[[], Callable[[], None]]:
    def serve() -> Callable[[], None]:
        stops = [door() for door in doors]

        def stop() -> None:
            for one in [concurrency.start("stop", end) for end in stops]:
                one.join()

        return stop

    return serve


def api() -> None:
    """minicloud-api: the EC2 and OpenStack front doors."""
    _begin("api")
    from minicloud.api.ec2 import app, endpoint
    from minicloud.api.openstack import endpoint as openstack
    from minicloud.api.openstack.compute import app as compute_app
    from minicloud.api.openstack.identity import app as identity_app
    from minicloud.api.openstack.image import app as image_app

    address, ports = endpoint.CONF.listen, openstack.CONF
    doors = (
        _http(address, endpoint.CONF.ec2_port, app.app()),
        _http(address, ports.identity_port, identity_app.app()),
        _http(address, ports.compute_port, compute_app.app()),
        _http(address, ports.image_port, image_app.app()),
    )
    daemon.run_front("api", _together(*doors))


def api_metadata() -> None:
    """minicloud-api-metadata: what guests ask at 169.254.169.254."""
    _begin("api-metadata")
    from minicloud.api import metadata
    from minicloud.cloud import metadata as facts

    def serve() -> Callable[[], None]:
        concurrency.start(
            "metadata",
            metadata.serve,
            str(pathlib.Path(cfg.CONF.state_path, "run", "metadata-sockets")),
            facts.guest,
        )
        return lambda: None  # guests' requests under way are asked again, of the next process

    daemon.run_front("api-metadata", serve)


def scheduler() -> None:
    """minicloud-scheduler: gives waiting instances a host."""
    _begin("scheduler")
    from minicloud.scheduler import manager

    daemon.run(manager.Manager())


def compute() -> None:
    """minicloud-compute: makes guests real on this host."""
    _begin("compute")
    from minicloud.compute import manager

    if manager.CONF.connection_type == "simulated":
        from minicloud.compute import simulated

        path = pathlib.Path(manager.CONF.instances_path, "simulated", cfg.CONF.host)
        daemon.run(manager.Manager(simulated.Simulated(path), wired=False))
        return
    from minicloud.compute.libvirt import driver
    from minicloud.db import clouds

    daemon.run(manager.Manager(driver.Libvirt.from_options(clouds.identity), wired=True))


def network() -> None:
    """minicloud-network: serves the networks of this host."""
    _begin("network")
    from minicloud.network import manager

    if manager.CONF.connection_type == "simulated":
        from minicloud.network import simulated

        path = pathlib.Path(cfg.CONF.state_path, "networks", "simulated", cfg.CONF.host)
        daemon.run(manager.Manager(simulated.Simulated(path)))
        return
    from minicloud.network import linux

    hook = pathlib.Path(sys.argv[0]).resolve().with_name("minicloud-dhcpbridge")
    wires = linux.Linux(cfg.CONF.tag, cfg.CONF.state_path, manager.CONF.interface, str(hook))
    daemon.run(manager.Manager(wires))


def volume() -> None:
    """minicloud-volume: keeps volumes and exports them."""
    _begin("volume")
    from minicloud.compute import manager as compute_manager
    from minicloud.volume import files, manager

    if compute_manager.CONF.connection_type == "simulated":
        from minicloud.volume import simulated

        path = pathlib.Path(files.CONF.path, "simulated", cfg.CONF.host)
        pretended = simulated.Simulated(path)
        daemon.run(manager.Manager(pretended, pretended))
        return
    from minicloud.volume import tgt

    store = files.Files(pathlib.Path(files.CONF.path))
    daemon.run(manager.Manager(store, tgt.Tgt.from_options(store.path)))


def objectstore() -> None:
    """minicloud-objectstore: S3, and the bytes of images."""
    _begin("objectstore")
    from minicloud.auth import internal
    from minicloud.objectstore import app, manager

    made = manager.Manager()
    daemon.run(made, _http(cfg.CONF.my_ip, internal.CONF.port, app.app(made)))
