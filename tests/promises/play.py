"""Plays a story once more for each place it comes by, and lets something happen there.

Afterwards nothing may be stuck, lost, leaked or done twice: what `truth.findings` says, and what
the story itself expects.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

from minicloud import rpc, states
from tests.promises import truth
from tests.promises.bed import DAEMONS, HOST, REPLACED, SWEEP_S, Cloud
from tests.promises.daemons import LIMIT_S, Late, wait

WAYS = ("kill", "stop", "double")


@dataclasses.dataclass(frozen=True, order=True)
class Place:
    """A checkpoint that a daemon passed; `booked`: within a transaction, with its locks."""

    daemon: str
    name: str
    booked: bool

    def __str__(self) -> str:
        return f"{self.daemon} at {self.name}"


class Missed(Exception):
    """The story did not come by this time: what it does there depends on the order of things."""


# --- settling ----------------------------------------


def settle(cloud: Cloud) -> float:
    """Nothing is wrong and nothing under way; the seconds it took."""
    began = time.monotonic()
    last: list[str] = []

    def fine() -> bool:
        last[:] = truth.findings(cloud)
        return not last

    try:
        wait(fine, "all is settled and true")
    except Late as late:
        raise Late(f"{late}: {last[:8]}") from None
    return time.monotonic() - began


def until_settled_rows(cloud: Cloud, table: str) -> None:
    """No row of the table is in a working state."""
    working = truth.WORKING.split(" UNION ALL ")
    query = next(one for one in working if f"FROM {table} " in one)
    wait(lambda: not cloud.rows(query), f"no row of {table} waits")


# --- one case ----------------------------------------


def profile(cloud: Cloud, tell: Any) -> set[Place]:
    """The places a story comes by when nothing happens to it, from the asking until all has
    settled."""
    story: Iterator[None] = tell(cloud)
    next(story)
    settle(cloud)
    cloud.forget_passed()
    next(story)
    settle(cloud)
    _listen(cloud)
    found = {
        Place(name, *_place(line)) for name in cloud.daemons for line in cloud.passed_lines(name)
    }
    _end(cloud, story, woken=False)
    return found


def _listen(cloud: Cloud) -> None:
    """What was nudged for has been done: not all of it is waited for by a row."""

    def quiet() -> bool:
        passed = [name for daemon in DAEMONS for name in cloud.passed(daemon)]
        numbers = collections.Counter(passed)
        asked = {name.partition(".")[0] for name in numbers if name.endswith(".sent")}
        came = all(numbers[f"{name}.nudged"] >= numbers[f"{name}.sent"] for name in asked)
        groups = numbers["apply_group.protected"] == numbers["apply_group.nudged"] == 0
        return came and (groups or numbers["compute.manager._store_groups.committed"] > 0)

    with contextlib.suppress(Late):
        wait(quiet, "all nudges were heard", 2 * SWEEP_S)


def _place(line: str) -> tuple[str, bool]:
    name, _, booked = line.partition(" ")
    return name, bool(booked)


def case(cloud: Cloud, tell: Any, place: Place, way: str) -> float:
    """The story with that happening at the place; the seconds it took to settle afterwards.

    AssertionError says what is wrong, Missed that it did not come by.
    """
    story: Iterator[None] = tell(cloud)
    next(story)
    settle(cloud)
    cloud.arm(place.daemon, place.name, {"double": "hold"}.get(way, way))
    with futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(next, story)
        try:
            _await(cloud, place, asking)
            HAPPENINGS[way](cloud, place, story, asking)
            asking.result(LIMIT_S)
        finally:
            cloud.disarm(place.daemon)
            for daemon in [*cloud.daemons.values(), *cloud.zombies]:
                daemon.signal(signal.SIGCONT)
    took = settle(cloud)
    _end(cloud, story, woken=way == "stop")
    return took


def _await(cloud: Cloud, place: Place, asking: futures.Future[Any]) -> None:
    """Return when the daemon is at the place; Missed when all is over and it was not."""

    def over() -> bool:
        return asking.done() and not truth.findings(cloud)

    wait(lambda: cloud.reached(place.daemon) or over(), f"{place} is reached")
    if not cloud.reached(place.daemon):
        try:
            wait(lambda: cloud.reached(place.daemon), "a sweep comes by", 3 * SWEEP_S)
        except Late:
            asking.result()
            raise Missed(str(place)) from None


def _end(cloud: Cloud, story: Iterator[None], *, woken: bool) -> None:
    """What the story expects is true; then the cloud is emptied, and nothing is left."""
    for _ in story:
        raise RuntimeError("a story has three parts")
    wrong = list(truth.logs(cloud, woken))
    assert not wrong, wrong[:8]
    clear(cloud)


# --- what happens ----------------------------------------


def kill(cloud: Cloud, place: Place, story: Any, asking: Any) -> None:
    """SIGKILL; the daemon is started again."""
    cloud.replace(place.daemon, cloud.reached(place.daemon))


def stop(cloud: Cloud, place: Place, story: Any, asking: Any) -> None:
    """SIGSTOP; all else goes on: another process takes its place, what was asked is finished,
    then ended, and addresses and volumes are given to others.  Then it wakes."""
    daemon = wait(lambda: cloud.at_its_place(place.daemon), f"{place.daemon} is there")
    wait(daemon.stopped, f"{place.daemon} is stopped")
    cloud.stopped = place.daemon
    if place.daemon in REPLACED:
        cloud.take_over(place.daemon)
        asking.result(LIMIT_S)
        settle(cloud)
        for _ in story:
            raise RuntimeError("a story has three parts")
        reuse(cloud)
        daemon.signal(signal.SIGCONT)
        wait(daemon.gone, f"the {place.daemon} that was replaced ends")
        cloud.zombies.remove(daemon)
        cloud.stopped = ""
        return
    if place.daemon == "api":
        asking.result(LIMIT_S)
        settle(cloud)
    daemon.signal(signal.SIGCONT)
    cloud.api_again()


def double(cloud: Cloud, place: Place, story: Any, asking: Any) -> None:
    """While the daemon is held there, every nudge that could be meant comes twice."""
    deaf = {name for name in DAEMONS if not cloud.daemons[name].hears()}
    cloud.nudge_twice([one[1:] for one in waiting(cloud) if one[0] not in deaf])
    cloud.disarm(place.daemon)


HAPPENINGS = {"kill": kill, "stop": stop, "double": double}


def waiting(cloud: Cloud) -> list[tuple[str, str, str, str | None]]:
    """The nudges (daemon, method, id, host) that somebody could send now: of each row in a working
    state and of each synced row."""
    found: list[tuple[str, str, str, str | None]] = []
    for machine in states.MACHINES:
        table = machine.model.__tablename__
        for state, work in machine.work.items():
            host = work.host or "NULL"
            rows = cloud.rows(f"SELECT id, {host} FROM {table} WHERE state = :state", state=state)
            found += [(work.topic, work.name, id, where) for id, where in rows]
    for model, method in states.SYNCED.items():
        hosts = "host" if hasattr(model, "host") else f"'{HOST}'"
        rows = cloud.rows(f"SELECT id, {hosts} FROM {model.__tablename__}")
        topic, name = rpc.topic_of(method), method.__name__
        found += [(topic, name, id, where) for id, where in rows if where]
    return found


def end(cloud: Cloud, name: str) -> None:
    """The daemon is dead, by SIGKILL."""
    daemon = cloud.daemons[name]
    daemon.signal(signal.SIGKILL)
    wait(daemon.gone, f"{name} is dead")


# --- between cases ----------------------------------------


def reuse(cloud: Cloud) -> None:
    """Every instance is ended, and new ones have every address and every volume there is."""
    _end_instances(cloud)
    cloud.ask(
        *("ec2", "run_instances"),
        ImageId="ami-tty",
        InstanceType="m1.nano",
        ClientToken=cloud.token(),
        MinCount=5,
        MaxCount=5,
    )
    settle(cloud)
    [(id, *_), *_] = cloud.rows("SELECT id FROM instances WHERE state = 'running'")
    query = "SELECT id FROM volumes WHERE state = 'available'"
    for letter, (volume,) in zip("fgh", cloud.rows(query), strict=False):
        where = {"InstanceId": _ec2("i", id), "Device": f"/dev/vd{letter}"}
        cloud.ask("ec2", "attach_volume", VolumeId=_ec2("vol", volume), **where)
    settle(cloud)


def _ec2(prefix: str, id: str) -> str:
    return f"{prefix}-{id.replace('-', '')[3:20]}"


def _end_instances(cloud: Cloud) -> None:
    rows = cloud.rows("SELECT id FROM instances WHERE state <> 'terminated'")
    if rows:
        ids = [_ec2("i", id) for (id,) in rows]
        cloud.ask("ec2", "terminate_instances", GONE, InstanceIds=ids)
        settle(cloud)


GONE = "InvalidInstanceID.NotFound"


def clear(cloud: Cloud) -> None:
    """The cloud is as it was before the story, by its own API; and so are its hosts."""
    _end_instances(cloud)
    rows = cloud.rows("SELECT id FROM volumes WHERE state <> 'deleted'")
    for (id,) in rows:
        cloud.ask("ec2", "delete_volume", "InvalidVolume.NotFound", VolumeId=_ec2("vol", id))
    for (id,) in cloud.rows(
        "SELECT id FROM images WHERE state <> 'deleted' AND (word <> 'tty' OR word IS NULL)"
    ):
        cloud.openstack("DELETE", "image", f"/v2/images/{id}", already="404")
    _empty_buckets(cloud)
    for (name,) in cloud.rows("SELECT name FROM key_pairs"):
        cloud.ask("ec2", "delete_key_pair", KeyName=name)
    for (name,) in cloud.rows("SELECT name FROM security_groups WHERE name <> 'default'"):
        cloud.ask("ec2", "delete_security_group", "InvalidGroup.NotFound", GroupName=name)
    for (name,) in cloud.rows("SELECT name FROM projects WHERE name <> 'admin'"):
        cloud.manage("project", "delete", name)
    for (name,) in cloud.rows("SELECT name FROM users WHERE name <> 'admin'"):
        cloud.manage("user", "delete", name)
    settle(cloud)
    left = [table for table in EMPTY if cloud.rows(f"SELECT count(*) FROM {table}") != [(0,)]]
    assert not left, f"left in the database: {left}"
    cloud.begin_anew()


# what has rows only while something of a user's is there
EMPTY = (
    *("addresses", "attachments WHERE holds_volume IS NOT NULL", "buckets", "group_members"),
    *("key_pairs", "objects WHERE live IS NOT NULL", "parts", "quotas", "tags"),
    "rules WHERE group_id NOT IN (SELECT id FROM security_groups WHERE name = 'default')",
    *("uploads", "volumes WHERE state <> 'deleted'", "instances WHERE state <> 'terminated'"),
)


def _empty_buckets(cloud: Cloud) -> None:
    for (name,) in cloud.rows("SELECT name FROM buckets"):
        keys = cloud.rows("SELECT live FROM objects WHERE live IS NOT NULL")
        for (key,) in keys:
            cloud.ask("s3", "delete_object", Bucket=name, Key=bytes(key).decode())
        cloud.ask("s3", "delete_bucket", "NoSuchBucket", Bucket=name)
