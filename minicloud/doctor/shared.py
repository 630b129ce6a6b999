"""Checks of what all hosts of a cloud share: database, broker, daemons."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator
from typing import Any

from minicloud import __version__, context, errors, interfaces, rpc
from minicloud.cloud import hosts
from minicloud.db import health, migrate
from minicloud.doctor.check import AS_ROOT, Seen, check, failed, together, unseen, well
from minicloud.doctor.host import Host

SKEW_S = 5.0  # signatures bear minutes, but who reads two logs does not
ASKS_S = 20.0  # for the answers of all daemons
SET_CLOCK = "timedatectl set-ntp true (or: chronyc makestep)"

# engine → variable → the values with which a committed row survives a loss of power
DURABLE: dict[str, dict[str, tuple[str, ...]]] = {
    "sqlite": {"journal_mode": ("wal",), "synchronous": ("2", "3")},
    "mysql": {
        "innodb_flush_log_at_trx_commit": ("1",),
        "sync_binlog": ("1",),
        "innodb_doublewrite": ("ON", "DETECT_AND_RECOVER"),
    },
    "postgresql": {
        "fsync": ("on",),
        "synchronous_commit": ("on", "local", "remote_write", "remote_apply"),
        "full_page_writes": ("on",),
    },
}

PINGS = {rpc.topic_of(one.ping): one.ping for one in interfaces.Daemon.__subclasses__()}


# --- the database -------------------------------------------------------------------------------


@check("database")
def database(host: Host) -> Iterator[Seen]:
    """The database answers, and a transaction could be committed."""
    engine, place, file = health.engine(), health.place(), health.file()
    if file is not None:
        allowed = host.may(str(file))
        if allowed is None and host.may(str(file.parent)) is not False:
            yield failed(engine, f"there is no file {place}", host.managing("db sync"))
            return
        if not allowed:
            yield unseen(engine, f"this user may not open {place}", AS_ROOT)
            return
    try:
        said = health.answers()
        health.takes_writes()
        yield well(engine, f"{said}, {place}")
    except errors.Unavailable as error:
        mend = f"fuser -v {file}" if file else host.starting("mariadb")
        if engine == "postgresql":
            mend = "systemctl start postgresql"
        yield failed(engine, f"{health.cause(error)}: {place}", mend)


@check("schema")
def schema(host: Host) -> Iterator[Seen]:
    """The database's schema is the one of this release."""
    if _is_absent(host):
        return
    found, known = health.schema(), migrate.releases()
    if found == known[0]:
        yield well("version", found)
    elif found in known or found is None:
        text = f"{found or 'empty'}, this release's is {known[0]}"
        yield failed("version", text, host.managing("db sync"))
    else:
        text = f"{found} is newer than this release, which knows {known[0]}"
        yield failed("version", text, "upgrade minicloud on this host")


@check("durability")
def durability(host: Host) -> Iterator[Seen]:
    """The database keeps what it committed, also when the power fails."""
    if _is_absent(host):
        return
    engine = health.engine()
    wanted = DURABLE[engine]
    found = health.settings([*wanted, "log_bin"] if engine == "mysql" else list(wanted))
    yield from durable(engine, found)


def durable(engine: str, found: dict[str, str]) -> Iterator[Seen]:
    """What these settings of the engine mean for a committed row."""
    for name, good in DURABLE[engine].items():
        value = found.get(name)
        if name == "sync_binlog" and found.get("log_bin") != "ON":
            continue  # no second log to agree with
        if value is None:
            yield unseen(name, f"{engine} does not show it")
        elif value in good:
            yield well(name, value)
        else:
            text = f"{value}: what was committed can be lost or torn when the power fails"
            yield failed(name, text, _set(engine, name, good[0]))


def _set(engine: str, name: str, value: str) -> str:
    if engine == "sqlite":
        return "move the file to a file system that can share memory ([database] connection)"
    if engine == "postgresql":
        return f"ALTER SYSTEM SET {name} = {value}; SELECT pg_reload_conf();"
    if name == "innodb_doublewrite":
        return f"put {name} = {value} under [mysqld] in my.cnf and start the server anew"
    return f"SET GLOBAL {name} = {value}; and the same under [mysqld] in my.cnf"


@check("clock")
def clock(host: Host) -> Iterator[Seen]:
    """This host's clock is the database server's, by which hosts are up or down."""
    if health.engine() == "sqlite":
        return  # its clock is this host's
    before = dt.datetime.now(dt.UTC)
    there = health.clock()
    after = dt.datetime.now(dt.UTC)
    yield skewed("this host", (before - there).total_seconds(), (after - there).total_seconds())


def skewed(about: str, before_s: float, after_s: float) -> Seen:
    """What it means that the other clock was asked between these two times, relative to it."""
    skew = max(before_s, 0.0) + min(after_s, 0.0)
    if abs(skew) > SKEW_S:
        side = "ahead" if skew > 0 else "behind"
        return failed(about, f"its clock is {abs(skew):.0f} s {side}", SET_CLOCK)
    return well(about, f"within {max(abs(before_s), abs(after_s)):.1f} s")


def _is_absent(host: Host) -> bool:
    """Whether SQLite's file is not there: opening it would make one; `database` says so."""
    file = health.file()
    return file is not None and not host.may(str(file))


# --- broker and daemons -------------------------------------------------------------------------


@check("broker")
def broker(host: Host) -> Iterator[Seen]:
    """The broker lets us in, with our user and virtual host."""
    try:
        place = rpc.broker()
    except errors.Unavailable as error:
        yield failed("rabbitmq", error.facts["reason"], _mend_broker(host, str(error)))
        return
    if place:
        yield well("rabbitmq", place)


def _mend_broker(host: Host, said: str) -> str:
    if "ACCESS_REFUSED" in said or "NOT_ALLOWED" in said:
        return "give user and virtual host of [rpc] transport_url the right: rabbitmqctl(8)"
    return host.starting("rabbitmq" if host.launched() else "rabbitmq-server")


@check("daemons")
def daemons(host: Host) -> Iterator[Seen]:
    """Every daemon of the cloud, on every host, has a young heartbeat, answers through the broker
    as the one its row names, is of this release, and its clock is this host's."""
    if _is_absent(host):
        yield unseen("", "there is no database to ask for them")
        return
    living = []
    for service in hosts.services(context.admin()):
        if service.alive:
            living.append(service)
        elif service.state == "fenced":
            yield well(service.row.id, "fenced: the operator has said that its host is down")
        elif not service.row.disabled:
            yield failed(service.row.id, _silence(service), _anew(host, service, "start"))
    if host.embedded:
        yield from (well(service.row.id, "has a heartbeat") for service in living)
        return
    rpc.broker()
    for service, answer in together(_ping, living, ASKS_S):
        if answer is None or isinstance(answer[0], errors.Error):
            text = "it has a heartbeat, and does not answer through the broker"
            yield failed(service.row.id, text, _anew(host, service, "restart"))
        else:
            yield _judged(host, service, *answer[0])


def _silence(service: hosts.Service) -> str:
    if service.age_s is None:
        return "it was stopped, or has only just begun"
    if service.age_s < 0:
        return f"its heartbeat is {-service.age_s:.0f} s in the future: {SET_CLOCK}"
    return f"no heartbeat for {service.age_s:.0f} s"


def _ping(service: hosts.Service) -> tuple[dict[str, Any], float, float] | errors.Error:
    """The daemon's answer, and when it was asked and had answered."""
    method = PINGS.get(service.row.daemon)
    if method is None:
        return errors.Unavailable(reason=f"this release knows no daemon {service.row.daemon}")
    if not rpc.serves(service.row.version, method):
        return {"release": "an older release"}, 0.0, 0.0
    asked = time.time()
    try:
        answer = rpc.ask_host(method, context.admin(), service.row.host)
    except errors.Error as error:
        return error
    return answer, asked, time.time()


def _judged(
    host: Host, service: hosts.Service, answer: dict[str, Any], asked: float, answered: float
) -> Seen:
    about, anew = service.row.id, _anew(host, service, "restart")
    if answer["release"] != __version__:
        return failed(about, f"it runs {answer['release']}, this is {__version__}", anew)
    if answer["epoch"] != service.row.epoch:
        text = f"who answers is of epoch {answer['epoch']}, its row of {service.row.epoch}"
        return failed(about, text, anew)
    clock = skewed(about, answer["clock"] - answered, answer["clock"] - asked)
    if clock.mend:
        return failed(about, clock.text, f"on {service.row.host}: {clock.mend}")
    return well(about, f"answered in {(answered - asked) * 1000:.0f} ms, epoch {answer['epoch']}")


def _anew(host: Host, service: hosts.Service, verb: str) -> str:
    return host.starting_on(service.row.host, service.row.daemon, verb)
