"""From a made cloud to a running one: servants, rows, daemons, and the first instance."""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from launcher import (
    configuration,
    files,
    guest_image,
    host,
    mariadb,
    ports,
    rabbitmq,
    rack,
    rows,
    services,
    state,
    tagged,
    venv,
    ways,
)
from launcher.report import Failure, say
from launcher.services import Service
from launcher.state import Cloud, State
from launcher.variables import Variables
from minicloud import processes
from minicloud.servants import libvirtd, tgtd

ANSWER_LIMIT_S = 30.0
API_PORTS = ("api", "identity-api", "compute-api", "image-api")  # of the daemon `api`


def services_of(cloud: Cloud) -> list[Service]:
    """What this cloud consists of, in the order of minicloud/processes.py."""
    servants = [rabbitmq.service(cloud)]
    if cloud.variables.use_mysql:
        servants.append(mariadb.service(cloud))
    if cloud.variables.real:
        servants += [_libvirt(cloud, name) for name in ("virtlogd", "libvirtd")]
        servants.append(_tgtd(cloud))
    if cloud.variables.lab:
        return servants + rack.services_of(cloud)
    return servants + [services.daemon(cloud, process) for process in processes.DAEMONS]


def without_recorder(cloud: Cloud, chosen: Sequence[Service]) -> list[Service]:
    """All but what guests need while they run: what virtlogd does not record of their consoles
    is lost, and without tgtd they wait for their volumes."""
    running = tagged.guests(cloud) if cloud.variables.real else 0
    goes_on = [
        name for name in ("virtlogd", "tgtd") if running and services.pid(cloud, name) is not None
    ]
    for name in goes_on:
        does = "records the consoles" if name == "virtlogd" else "serves the volumes"
        say(f"{name} goes on: it {does} of {running} guests")
    return [service for service in chosen if service.name not in goes_on]


def check_ports(where: State, cloud: Cloud | None, values: Variables) -> None:
    """Refused with the owner's name when a port of something that is down is taken."""
    local = "127.0.0.1"
    wanted = [
        *(("api", values.host_ip, port) for port in API_PORTS),
        ("objectstore", values.host_ip, "objectstore"),
        ("rabbitmq", local, "rabbitmq"),
        ("rabbitmq", local, "rabbitmq-distribution"),
    ]
    if cloud is None:  # later it may be our own, which outlives a node that was killed
        wanted.append(("rabbitmq", local, "rabbitmq-epmd"))
    if values.use_mysql:
        wanted.append(("mariadb", local, "mariadb"))
    if values.real:
        wanted.append(("tgtd", values.host_ip, "tgtd"))
    for name, address, port in wanted:
        if cloud is None or services.pid(cloud, name) is None:
            ports.require_free(address, values.port(port), name)


def configured(where: State, values: Variables, virt_type: str) -> Cloud:
    """minicloud.conf is there: the cloud is made."""
    if not where.conf.exists():
        taken = " ".join(os.listdir("/run/netns")) if Path("/run/netns").is_dir() else ""
        configuration.write(where, state.draw_tag(taken), values, virt_type)
    made = state.cloud(where, {})
    assert made is not None
    return made


def everything(cloud: Cloud) -> None:
    """Every process is up, the rows of a new cloud are there, every endpoint answers."""
    state.lay_out(cloud.state, cloud.variables)
    ways.open_(cloud)
    _prepare_host(cloud)
    serving, served = services.split(services_of(cloud))
    if not cloud.variables.use_mysql:
        _own_database(cloud)
    starting = services.begin(cloud, serving)
    try:
        if cloud.variables.use_mysql:  # the rows are made while the others are starting
            services.wait(cloud, [one for one in starting if one.service.name == "mariadb"])
            starting = [one for one in starting if one.service.name != "mariadb"]
        with rows.manage(cloud) as session:
            rows.basic(cloud, session)
            paths = guest_image.paths(cloud) if rows.missing_images(session) else {}
            services.wait(cloud, starting)
            starting = services.begin(cloud, served)
            if paths:
                _endpoint(cloud, "objectstore", "objectstore")
                rows.images(session, paths)
    except BaseException:
        services.forget(cloud, starting)
        raise
    services.wait(cloud, starting)
    for port in API_PORTS:
        _endpoint(cloud, "api", port)
    _endpoint(cloud, "objectstore", "objectstore")


def start(cloud: Cloud, chosen: Sequence[Service]) -> None:
    """Those services are up, with what they need of the host."""
    _prepare_host(cloud)
    services.start(cloud, chosen)


def _prepare_host(cloud: Cloud) -> None:
    if cloud.variables.real:
        host.prepare(cloud)
    if cloud.variables.lab:
        rack.wire(cloud)


def first_instance(cloud: Cloud, *, renew: bool) -> None:
    """The first instance runs, and where guests are real, was entered by ssh."""
    script = '. "$1" && shift && exec "$@"'  # the novarc is what users have, too
    argv = [str(venv.python()), "-B", "-m", "launcher.first_instance", str(cloud.state.path)]
    argv += ["--renew"] if renew else []
    argv += ["--prove"] if cloud.variables.real else []
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", str(cloud.state.novarc), *argv],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": f"{venv.CHECKOUT}/tools:{venv.CHECKOUT}"},
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(1)  # it has said why


def _libvirt(cloud: Cloud, name: str) -> Service:
    instances = Path(cloud.variables.instances_path)
    return Service(
        processes.named(name),
        libvirtd.command(cloud.state.path, cloud.tag, name),
        prepare=lambda: libvirtd.prepare(cloud.state.path, instances, processes.USER),
    )


def _tgtd(cloud: Cloud) -> Service:
    address, port = cloud.variables.host_ip, cloud.variables.port("tgtd")
    return Service(
        processes.named("tgtd"),
        tgtd.command(cloud.state.path, processes.USER, f"{address}:{port}"),
        ports=[(address, port)],
        prepare=lambda: tgtd.prepare(cloud.state.path, processes.USER),
        polite_s=tgtd.POLITE_S,
    )


def _own_database(cloud: Cloud) -> None:
    """An empty file of the daemons': SQLite gives what it puts beside it the same owner."""
    uid, gid = files.owner()
    if not cloud.state.database.exists():
        files.write(cloud.state.database, "", 0o640, uid=uid, gid=gid)


def _endpoint(cloud: Cloud, name: str, port_name: str) -> None:
    """That daemon gives some HTTP answer on that port."""
    until = time.monotonic() + ANSWER_LIMIT_S
    address, port = cloud.variables.host_ip, cloud.variables.port(port_name)
    while not _answers(address, port):
        if time.monotonic() > until:
            raise Failure(
                f"{name} does not answer on {address} port {port}",
                f"{cloud.state.log(name)} may say why",
            )
        time.sleep(0.1)


def _answers(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
