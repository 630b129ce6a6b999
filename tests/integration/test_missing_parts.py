"""Parts that are not there while verbs run, or stand still: docs/missing-parts.md says what is
seen of each.  A verb is accepted when its transaction commits, whatever else is away; what cannot
be done is 503 in the protocol's own form, with a reason and in time; given back, all goes on by
itself."""

from __future__ import annotations

import concurrent.futures
import configparser
import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator

import kombu.messaging
import pytest

from minicloud import context, errors, interfaces, rpc
from minicloud.context import Context
from tests.integration.doors import (
    ACCEPTED,
    HOSTS_WORK,
    LOOKS,
    READS,
    STORED,
    WRITES,
    Doors,
    Refused,
)
from tests.integration.running import RunningCloud, is_stopped, state, wait

pytestmark = pytest.mark.timeout(600)

BUSY = "The cloud cannot do this now: the database does not answer or is too busy"


@pytest.fixture
def doors(cloud: RunningCloud) -> Iterator[Doors]:
    """The cloud's three APIs, with an instance that runs and an object that is stored."""
    made = Doors(cloud)
    yield made
    made.give_back()


@contextlib.contextmanager
def standing(cloud: RunningCloud, *parts: str) -> Iterator[None]:
    """These processes stand still: the kernel takes what is sent to them, and nobody answers."""
    pids = [cloud.pid(part) for part in parts]
    try:
        with cloud.held():  # none of them holds the database when it stops
            for pid in pids:
                os.kill(pid or 0, signal.SIGSTOP)
            wait(lambda: all(is_stopped(pid or 0) for pid in pids))
        yield
    finally:
        for pid in pids:
            os.kill(pid or 0, signal.SIGCONT)


def down(cloud: RunningCloud) -> set[str]:
    """The daemons that the operator is shown as down."""
    return {one["name"] for one in cloud.manage("service", "list") if one["state"] != "up"}


# --- the broker -----------------------------------------------------------------------------


def test_without_a_broker_all_is_accepted_and_done_but_what_a_host_is_asked(doors: Doors) -> None:
    cloud = doors.cloud
    cloud.stop("rabbitmq")
    assert doors.refused_of(ACCEPTED) == {}
    refused = doors.refused_of(HOSTS_WORK)
    assert refused == dict.fromkeys(
        HOSTS_WORK, Refused(503, "The cloud cannot do this now: the broker does not answer")
    )
    wait(doors.settled, what="sweeps have done what was accepted")
    assert down(cloud) == set()
    cloud.stop("volume")  # a daemon that cannot say goodbye ends all the same
    cloud.start("rabbitmq")
    cloud.start("volume")
    wait(lambda: doors.refused_of(HOSTS_WORK) == {}, what="hosts are asked again")


def test_a_broker_that_stands_still_is_waited_for_by_nobody_but_who_asks_a_host(
    doors: Doors,
) -> None:
    with standing(doors.cloud, "rabbitmq"):
        assert doors.refused_of(ACCEPTED) == {}
        assert {one.status for one in doors.refused_of(HOSTS_WORK).values()} == {503}
        wait(doors.settled, what="sweeps have done what was accepted")
    wait(lambda: doors.refused_of(HOSTS_WORK) == {}, what="hosts are asked again")


@pytest.fixture
def ping(cloud: RunningCloud, options: Callable[..., None]) -> Iterator[Callable[[], object]]:
    """Ask the cloud's compute daemon, as other daemons do, by a connection of this process."""
    conf = configparser.RawConfigParser(strict=False)
    conf.read(cloud.state / "minicloud.conf")
    options("DEFAULT", tag=conf["DEFAULT"]["tag"])
    options("rpc", transport_url=conf["rpc"]["transport_url"])
    rpc.forget_transport()
    host = conf["DEFAULT"]["host"]
    ctx = Context(context.new_request_id())
    yield lambda: rpc.ask_host(interfaces.Compute.ping, ctx, host)
    rpc.forget_transport()


def test_a_connection_on_which_messages_have_failed_is_opened_anew(
    ping: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ping()

    def late(*args: object, **kwargs: object) -> None:
        raise TimeoutError("timed out")  # as of a broker that stands still

    with monkeypatch.context() as patched:
        patched.setattr(kombu.messaging.Producer, "publish", late)
        for _ in range(2):
            with pytest.raises(errors.Unavailable, match="does not answer"):
                ping()
    assert ping()


# --- the database ---------------------------------------------------------------------------


def test_while_the_database_is_held_what_only_looks_is_answered_and_the_rest_refused(
    doors: Doors,
) -> None:
    with doors.cloud.held():
        refused = doors.refused_of(WRITES)
        assert doors.refused_of(READS) == {}
    assert refused == dict.fromkeys(WRITES, Refused(503, BUSY))
    wait(lambda: doors.refused_of(WRITES) == {}, what="all is accepted again")
    wait(doors.settled)


# --- the other daemons ----------------------------------------------------------------------


def test_what_waits_for_a_daemon_that_is_away_is_done_when_it_is_back(doors: Doors) -> None:
    cloud = doors.cloud
    for name in ("scheduler", "network", "volume", "compute"):
        cloud.stop(name)
        refused = doors.refused_of([*ACCEPTED, *LOOKS])
        if name == "compute":
            assert {one.status for one in doors.refused_of(HOSTS_WORK).values()} == {503}
        assert refused == {}, name
        assert down(cloud) == {name}
        assert not doors.settled(), name
        cloud.start(name)
        wait(doors.settled, what=f"{name} has done what waited for it")


def test_an_instance_says_for_which_daemon_it_waits(doors: Doors) -> None:
    cloud = doors.cloud
    cloud.stop("network")
    id = doors.run()

    def reasons() -> list[str]:
        return [str(one["reason"]) for one in cloud.manage("instance", "list") if one["id"] == id]

    wait(lambda: "the network daemon of host" in reasons()[0], what="it says so")
    assert state(doors.ec2, id) == "pending"
    cloud.start("network")
    wait(lambda: state(doors.ec2, id) == "running")


def test_without_an_object_store_images_wait_and_their_bytes_are_503(doors: Doors) -> None:
    cloud = doors.cloud
    cloud.stop("objectstore")
    assert doors.refused_of(ACCEPTED) == {}
    refused = doors.refused_of(STORED)
    silent = "The cloud cannot do this now: the object store does not answer, or broke off"
    assert refused == dict.fromkeys(STORED, Refused(503, silent))
    cloud.start("objectstore")
    wait(lambda: doors.refused_of(STORED) == {}, what="bytes are taken and given")
    wait(doors.settled, what="the image is there")


def test_a_daemon_that_stands_still_keeps_nobody_waiting(doors: Doors) -> None:
    with standing(doors.cloud, "compute", "scheduler", "volume", "network"):
        assert doors.refused_of([*ACCEPTED, *LOOKS]) == {}
        refused = doors.refused_of(HOSTS_WORK)
        assert {one.status for one in refused.values()} == {503}
        assert all(re.search("does not answer|is down", one.text) for one in refused.values())
    wait(doors.settled)
    wait(lambda: doors.refused_of(HOSTS_WORK) == {})


def test_requests_at_once_are_all_answered_while_everything_is_away(doors: Doors) -> None:
    """Nobody waits for ever for a connection that others have."""
    cloud = doors.cloud
    for name in ("scheduler", "compute", "network", "volume", "rabbitmq"):
        cloud.kill(name)
    with cloud.held(), concurrent.futures.ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(doors.ask, name) for name in WRITES * 4]
        refused = [one.result(120) for one in asked]
    assert {one.status for one in refused if one} == {503}
    assert None not in refused
    cloud.command("start")
    wait(lambda: doors.refused_of([*ACCEPTED, *HOSTS_WORK]) == {}, what="all is as it was")
    wait(doors.settled)
