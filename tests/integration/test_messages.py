"""Messages nobody should send, and ten thousand at once, on every daemon's queue at a real
broker: the daemons go on with what they were asked for, and nothing stays behind."""

from __future__ import annotations

import base64
import concurrent.futures
import configparser
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any
from urllib import parse

import amqp
import botocore.exceptions
import pytest

from minicloud import ids
from tests.integration.running import RunningCloud, no_instances, run, state, wait

pytestmark = pytest.mark.timeout(600)

# daemon → a nudge of its interface
NUDGES = {
    "scheduler": "place_instances",
    "compute": "build_instance",
    "network": "apply_network",
    "volume": "create_volume",
    "objectstore": "delete_image",
}
MANY = 10_000
LIMIT = 1_000  # of a queue, by the broker's policy
CLEAN = {"findings": [], "unseen": {}, "fenced": []}
GROWTH_KIB = 128 << 10  # of a daemon that was sent them all


class Broker:
    """The cloud's broker, entered with the daemons' own rights."""

    def __init__(self, cloud: RunningCloud) -> None:
        conf = configparser.RawConfigParser(strict=False)
        conf.read(cloud.state / "minicloud.conf")
        self._tag = conf["DEFAULT"]["tag"]
        self._host = conf["DEFAULT"]["host"]
        url = parse.urlsplit(conf["rpc"]["transport_url"])
        self._link = amqp.Connection(
            f"{url.hostname}:{url.port}",
            userid=url.username,
            password=parse.unquote(url.password or ""),
            virtual_host=url.path[1:],
        )
        self._link.connect()
        self._channel = self._link.channel()

    def close(self) -> None:
        self._link.close()

    def queues(self, daemon: str) -> tuple[str, str]:
        """That of the one daemon, and that of all of its kind."""
        topic = f"{self._tag}.{daemon}"
        return f"{topic}.{self._host}", topic

    def send(self, queue: str, body: str | bytes, **properties: str) -> None:
        given = {"content_type": "application/json", "content_encoding": "utf-8", **properties}
        self._channel.basic_publish(amqp.Message(body, **given), routing_key=queue)

    def waiting(self, queue: str) -> int:
        """Messages nobody has taken."""
        return int(self._channel.queue_declare(queue, passive=True).message_count)

    def get(self, queue: str) -> dict[str, Any] | None:
        """The first of them, as its sender's library wrapped it."""
        found = self._channel.basic_get(queue, no_ack=True)
        return json.loads(json.loads(found.body)["oslo.message"]) if found else None


@pytest.fixture
def broker(cloud: RunningCloud) -> Iterator[Broker]:
    made = Broker(cloud)
    yield made
    made.close()


def message(name: str, **changes: Any) -> str:
    """A nudge as oslo.messaging sends it, with `changes`."""
    inner = {
        "method": name,
        "args": {"id": ids.new()},
        "version": "1.0",
        "_context_request_id": "req-test",
        "_unique_id": ids.new(),
        **changes,
    }
    return json.dumps({"oslo.version": "2.0", "oslo.message": json.dumps(inner)})


def audited(cloud: RunningCloud) -> dict[str, Any]:
    """What the auditor says, also of daemons that do not answer yet."""
    found: dict[str, Any] = json.loads(
        cloud.command("manage", "audit", "--json", check=False).stdout
    )
    return found


def resident_kib(cloud: RunningCloud, daemon: str) -> int:
    text = pathlib.Path(f"/proc/{cloud.pid(daemon)}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", text)[0])


# --- ten thousand -----------------------------------------------------------------------------


def test_ten_thousand_nudges_for_nothing_do_not_keep_a_daemon_from_its_work(
    cloud: RunningCloud, broker: Broker
) -> None:
    ec2 = cloud.ec2()
    before = {daemon: resident_kib(cloud, daemon) for daemon in NUDGES}
    pids = {daemon: cloud.pid(daemon) for daemon in NUDGES}
    for daemon, method in NUDGES.items():
        for _ in range(MANY):
            broker.send(broker.queues(daemon)[0], message(method))
    id = run(ec2)
    volume = ec2.create_volume(Size=1, AvailabilityZone="nova")["VolumeId"]
    wait(lambda: state(ec2, id) == "running", 300)
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume])
    queues = [broker.queues(daemon)[0] for daemon in NUDGES]
    wait(lambda: not any(broker.waiting(queue) for queue in queues), 300)
    wait(lambda: audited(cloud) == CLEAN, 300, "every daemon answers")
    ec2.delete_volume(VolumeId=volume)
    no_instances(ec2)
    assert pids == {daemon: cloud.pid(daemon) for daemon in NUDGES}
    grown = {daemon: resident_kib(cloud, daemon) - before[daemon] for daemon in NUDGES}
    assert max(grown.values()) < GROWTH_KIB, grown


def test_of_ten_thousand_nudges_for_a_daemon_that_is_down_the_last_thousand_wait(
    cloud: RunningCloud, broker: Broker
) -> None:
    ec2 = cloud.ec2()
    cloud.stop("compute")
    queue = broker.queues("compute")[0]
    for _ in range(MANY):
        broker.send(queue, message("build_instance"))
    assert 0 < broker.waiting(queue) <= LIMIT  # it is asked after them, by the same channel
    id = run(ec2)
    cloud.start("compute")
    wait(lambda: state(ec2, id) == "running", 120)
    wait(lambda: broker.waiting(queue) == 0)


# --- poisoned -----------------------------------------------------------------------------------

POISON: dict[str, tuple[str | bytes, dict[str, str]]] = {
    "not JSON": ("{{{", {}),
    "no text": (b"\x00\xff\xfe", {"content_type": "application/octet-stream"}),
    "a pickle": (b"cos\nsystem\n", {"content_type": "application/x-python-serialize"}),
    "not packed as it says": (b"no gzip", {"content_encoding": "gzip"}),
    "a list": ("[1, 2]", {}),
    "a text": ('"text"', {}),
    "an envelope of another version": (
        json.dumps({"oslo.version": "9", "oslo.message": "{}"}),
        {},
    ),
    "an envelope around no JSON": (json.dumps({"oslo.version": "2.0", "oslo.message": "{{"}), {}),
    "an envelope around a list": (json.dumps({"oslo.version": "2.0", "oslo.message": "[1]"}), {}),
}


def worse(method: str) -> dict[str, str]:
    """Well-formed messages to a daemon that mean nothing."""
    return {
        "an object": "{}",
        "no method": message(method, method=None),
        "an unknown method": message("no_such_method"),
        "a method that is not declared": message("__init__"),
        "another argument": message(method, args={"other": 1}),
        "arguments in a list": message(method, args=[1]),
        "a number for an id": message(method, args={"id": 0}),
        "an object for an id": message(method, args={"id": {"id": 1}}),
        "a path for an id": message(method, args={"id": "../../etc/passwd"}),
        "a giant": message(method, args={"id": "x" * (4 << 20)}),
        "a version to come": message(method, version="9.9"),
        "a version that is none": message(method, version=[]),
        "a context without a request": message(method, _context_request_id=None, _context_roles=7),
    }


# what oslo.messaging and we say of such a message
DROPPED = re.compile(
    r" ERROR .*(Failed to process message|Exception during message handling| is no id$)"
)


def errors_in(cloud: RunningCloud, daemon: str) -> list[str]:
    return [line for line in cloud.log(daemon).splitlines() if DROPPED.search(line)]


def test_a_message_that_means_nothing_is_dropped_with_a_line_in_the_log(
    cloud: RunningCloud, broker: Broker
) -> None:
    ec2 = cloud.ec2()
    pids = {daemon: cloud.pid(daemon) for daemon in NUDGES}
    for daemon, method in NUDGES.items():
        for queue in broker.queues(daemon):
            said = len(errors_in(cloud, daemon))
            for text, properties in POISON.values():
                broker.send(queue, text, **properties)
            for text in worse(method).values():
                broker.send(queue, text)
            count = said + len(POISON) + len(worse(method))
            wait(lambda d=daemon, n=count: len(errors_in(cloud, d)) >= n, what=f"{queue}: {count}")
            assert len(errors_in(cloud, daemon)) == count
            assert broker.waiting(queue) == 0
    id = run(ec2)
    wait(lambda: state(ec2, id) == "running")
    assert cloud.manage("audit") == CLEAN  # every daemon answers
    assert pids == {daemon: cloud.pid(daemon) for daemon in NUDGES}


def test_an_ask_whose_asker_is_gone_keeps_nobody_else_waiting(
    cloud: RunningCloud, broker: Broker
) -> None:
    for daemon in NUDGES:
        for _ in range(20):
            lost = {"args": {"arguments": {}}, "_msg_id": ids.new(), "_reply_q": "reply_nowhere"}
            broker.send(broker.queues(daemon)[0], message("ping", **lost))
    assert cloud.manage("audit") == CLEAN


def test_poison_in_the_answers_harms_no_later_ask(cloud: RunningCloud, broker: Broker) -> None:
    ec2 = cloud.ec2()
    id = run(ec2)
    wait(lambda: state(ec2, id) == "running")
    queue = broker.queues("compute")[0]
    cloud.kill("compute")  # of one that was stopped nothing is asked
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ec2.get_console_output, InstanceId=id)
        answers = wait(lambda: broker.get(queue))["_reply_q"]
        with pytest.raises(botocore.exceptions.ClientError, match="Unavailable"):
            asked.result()
    said = len(errors_in(cloud, "api"))
    for text, properties in POISON.values():
        broker.send(answers, text, **properties)
    broker.send(answers, message("ping", result="nobody asked"))
    broker.send(answers, "{}")
    wait(lambda: len(errors_in(cloud, "api")) == said + len(POISON))
    cloud.start("compute")
    told = wait(lambda: ec2.get_console_output(InstanceId=id)["Output"])
    assert "simulated domain" in (told if "simulated" in told else base64.b64decode(told).decode())
    assert broker.waiting(answers) == 0
