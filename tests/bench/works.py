"""What is measured, each by one function that yields its figures."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from minicloud import config, context
from minicloud.auth import database, signature
from tests.bench import guests, limits
from tests.bench.clouds import Measured
from tests.bench.figures import Figure
from tests.bench.http import Door
from tests.bench.meters import Used, cpu_s, pss_mib
from tests.embedded import Embedded
from tests.integration.running import free_offset, wait

AT_A_TIME = 10
LIMIT_S = 600
HOSTS = 10_000
IDLE_S = 30
S3_MIB = 256  # MINICLOUD_BENCH_MIB=1024 for the gigabyte that docs/performance.md tells of

Figures = Iterator[Figure]


class Tenant:
    """Asks one cloud for servers, by several threads."""

    def __init__(self, cloud: Measured) -> None:
        self.cloud = cloud
        self.first = cloud.door()
        self._local = threading.local()
        images = json.loads(self.call("image", "GET", "/v2/images"))["images"]
        flavors = json.loads(self.call("compute", "GET", "/v2.1/flavors"))["flavors"]
        self.server = {
            "name": "bench",
            "imageRef": next(one["id"] for one in images if one["name"].startswith("ami")),
            "flavorRef": next(one["id"] for one in flavors if one["name"] == "m1.nano"),
        }

    def call(self, service: str, method: str, path: str, body: Any = None) -> bytes:
        door: Door | None = getattr(self._local, "door", None)
        if door is None:
            door = self._local.door = self.cloud.door(self.first.token)
        return door.call(service, method, path, body)

    def launch(self, count: int = 1) -> None:
        more = {"min_count": count, "max_count": count} if count > 1 else {}
        self.call("compute", "POST", "/v2.1/servers", {"server": {**self.server, **more}})

    def servers(self, count: int) -> list[str]:
        """The ids of so many."""
        answer = self.call("compute", "GET", f"/v2.1/servers?limit={count}")
        return [one["id"] for one in json.loads(answer)["servers"]]

    def have(self, count: int) -> None:
        """There are so many at least."""
        missing = count - self.cloud.active()
        if missing > 0:
            self.launch(missing)
            wait(lambda: self.cloud.active() >= count, LIMIT_S, "all run")


def _at_once(work: Callable[[Any], object], things: list[Any]) -> None:
    with futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        for _ in pool.map(work, things):
            pass


def launch(cloud: Measured) -> Figures:
    """100 requests for a server each, ten at a time."""
    tenant, meters = Tenant(cloud), cloud.meters
    tenant.launch()
    wait(lambda: cloud.active() > 0, LIMIT_S)
    base, before = cloud.active(), meters.read()
    _at_once(lambda _: tenant.launch(), list(range(100)))
    wait(lambda: cloud.active() == base + 100, LIMIT_S, "100 more run")
    used = meters.read() - before
    yield from _each("launch 100", used, 100, "<= 20")
    yield Figure("launch 100", "statements each", used.statements / 100, "", "<= 24")
    yield Figure("launch 100", "messages each", used.messages / 100, "", "<= 4")
    yield Figure("launch 100", "active", 100 / used.wall_s, "/s", ">= 50")


def _each(work: str, used: Used, count: int, reach: str) -> Figures:
    yield Figure(work, "CPU each, all together", used.cpu_ms / count, "ms", reach)
    for name, spent in used.cpu_s.items():
        if 1000 * spent / count >= 0.5:
            yield Figure(work, f"… of {name}", 1000 * spent / count, "ms")


def launch_many(cloud: Measured) -> Figures:
    """One request for 1000 servers."""
    tenant, meters = Tenant(cloud), cloud.meters
    base, before = cloud.active(), meters.read()
    began = time.monotonic()
    tenant.launch(1000)
    answered = time.monotonic() - began
    wait(lambda: cloud.active() == base + 1000, LIMIT_S, "1000 more run")
    used = meters.read() - before
    yield Figure("launch 1000", "answer", answered, "s", "<= 1")
    yield Figure("launch 1000", "active", 1000 / used.wall_s, "/s", ">= 100")
    yield from _each("launch 1000", used, 1000, "<= 8")
    yield Figure("launch 1000", "statements each", used.statements / 1000, "")


def delete(cloud: Measured) -> Figures:
    """100 servers are deleted, ten at a time."""
    tenant, meters = Tenant(cloud), cloud.meters
    tenant.have(100)
    chosen = tenant.servers(100)
    base, before = cloud.alive(), meters.read()
    _at_once(lambda one: tenant.call("compute", "DELETE", f"/v2.1/servers/{one}"), chosen)
    wait(lambda: cloud.alive() == base - 100, LIMIT_S, "100 are gone")
    used = meters.read() - before
    yield from _each("delete 100", used, 100, "<= 15")
    yield Figure("delete 100", "statements each", used.statements / 100, "")


def lists(cloud: Measured) -> Figures:
    """Lists of 1000 servers, and one of them."""
    tenant = Tenant(cloud)
    tenant.have(1000)
    [one, *_] = tenant.servers(1)
    for name, path, times, reach in (
        ("list of 1000 with details", "/v2.1/servers/detail?limit=1000", 5, "<= 80"),
        ("list of 1000, ids only", "/v2.1/servers?limit=1000", 10, "<= 25"),
        ("show one", f"/v2.1/servers/{one}", 200, "<= 2"),
    ):
        text = tenant.call("compute", "GET", path)
        spent = _cpu_of(cloud, lambda path=path: tenant.call("compute", "GET", path), times)  # type: ignore[misc]
        floor = limits.dump_ms(text) if times <= 10 else limits.wsgi_cpu_ms()
        yield Figure("lists", name, spent, "ms CPU", reach, floor)
    ec2 = cloud.ec2()
    ec2.describe_instances(MaxResults=1000)
    spent = _cpu_of(cloud, lambda: ec2.describe_instances(MaxResults=1000), 5)
    yield Figure("lists", "DescribeInstances of 1000", spent, "ms CPU", "<= 120")


def _cpu_of(cloud: Measured, work: Callable[[], object], times: int) -> float:
    before = cloud.meters.read()
    for _ in range(times):
        work()
    return (cloud.meters.read() - before).cpu_ms / times


def keys(cloud: Measured) -> Figures:
    """Password to token, and what a token or a signature costs in every request."""
    tenant, times = Tenant(cloud), 20
    salt = os.urandom(16)
    scrypt = limits.cpu_ms(
        lambda: hashlib.scrypt(b"x" * 20, salt=salt, n=1 << 14, r=8, p=1, maxmem=1 << 26), 10
    )
    spent = _cpu_of(cloud, tenant.first.login, times)
    yield Figure("keys", "password to token without its scrypt", spent - scrypt, "ms CPU", "<= 8")
    config.load(["--config-file", str(cloud.made.state.conf)], "bench")
    asked = _signed(cloud)
    nobody = context.Context("req-bench")
    checks: dict[str, Callable[[], object]] = {
        "check of a token": lambda: database.by_token(tenant.first.token),
        "check of a signature": lambda: signature.verify(
            asked, "ec2", nobody, database.by_access_key
        ),
    }
    for name, check in checks.items():
        check()
        before = cloud.meters.read()
        mine = limits.cpu_ms(check, 500)
        of_database = 1000 * (cloud.meters.read() - before).cpu_s["mariadb"] / 500
        yield Figure("keys", name, mine, "ms CPU", "<= 0.3")
        yield Figure("keys", "… of mariadb", of_database, "ms CPU")


def _signed(cloud: Measured) -> signature.Received:
    """A DescribeInstances as boto3 signs it."""
    rc = cloud.environment
    credentials = Credentials(rc["AWS_ACCESS_KEY_ID"], rc["AWS_SECRET_ACCESS_KEY"])
    body = b"Action=DescribeInstances&Version=2016-11-15"
    request = AWSRequest("POST", rc["AWS_ENDPOINT_URL_EC2"], {"X-Amz-Content-SHA256": ""}, body)
    del request.headers["X-Amz-Content-SHA256"]
    request.headers["Host"] = urllib.parse.urlsplit(request.url).netloc
    SigV4Auth(credentials, "ec2", rc["AWS_DEFAULT_REGION"]).add_auth(request)
    headers = {name.lower(): value for name, value in request.headers.items()}
    path = urllib.parse.urlsplit(request.url).path
    return signature.Received("POST", path, "", headers, body)


def memory(cloud: Measured) -> Figures:
    """What the daemons and the broker hold for themselves (PSS)."""
    held = cloud.meters.pss_mib()
    six = sum(size for name, size in held.items() if name != "mariadb")
    yield Figure("memory", "daemons and broker", six, "MiB PSS", "<= 600")
    for name, size in held.items():
        yield Figure("memory", f"… of {name}", size, "MiB PSS")


def s3(cloud: Measured) -> Figures:
    """An object is put and got, and small ones."""
    mib = int(os.environ.get("MINICLOUD_BENCH_MIB", S3_MIB))
    client = cloud.s3()
    client.create_bucket(Bucket="bench")
    body = os.urandom(1 << 20)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    try:
        disk = limits.disk_mib_per_s(directory, mib)
        file = directory / "object"
        file.write_bytes(body * mib)
        began = time.monotonic()
        with file.open("rb") as source:
            client.put_object(Bucket="bench", Key="large", Body=source)
        yield Figure("S3", f"put {mib} MiB", mib / (time.monotonic() - began), "MiB/s", "", disk)
        began = time.monotonic()
        size = sum(
            len(chunk)
            for chunk in client.get_object(Bucket="bench", Key="large")["Body"].iter_chunks(
                1 << 20
            )
        )
        assert size == mib << 20
        yield Figure("S3", f"get {mib} MiB", mib / (time.monotonic() - began), "MiB/s", "", disk)
    finally:
        shutil.rmtree(directory)
    began, count = time.monotonic(), 200
    for number in range(count):
        client.put_object(Bucket="bench", Key=f"small-{number}", Body=body[:4096])
    yield Figure("S3", "put of 4 KiB", count / (time.monotonic() - began), "/s")
    keys = [{"Key": "large"}, *({"Key": f"small-{number}"} for number in range(count))]
    client.delete_objects(Bucket="bench", Delete={"Objects": keys})


def embedded(cloud: Measured) -> Figures:
    """The cloud in one process: from its start to its first answer, and what it holds."""
    with _all_in_one() as (one, took):
        yield Figure("embedded", "start to ready", took, "s", "<= 2")
        yield Figure("embedded", "memory", pss_mib(one.process.pid), "MiB PSS", "<= 120")


def fleet(cloud: Measured) -> Figures:
    """10 000 simulated hosts in one process: what they cost while nothing happens, and placing."""
    with _all_in_one("--hosts", str(HOSTS)) as (one, took):
        yield Figure("fleet", f"start of {HOSTS} hosts", took, "s")
        yield Figure("fleet", "memory", pss_mib(one.process.pid), "MiB PSS")
        before, began = cpu_s(one.process.pid), time.monotonic()
        time.sleep(IDLE_S)
        spent = (cpu_s(one.process.pid) - before) / (time.monotonic() - began)
        yield Figure("fleet", "CPU of the idle fleet", 100 * spent, "% of a core")
    yield from _placing(cloud)


def _placing(cloud: Measured) -> Figures:
    """1000 servers are placed on as many hosts, of which only the rows are there: they are never
    built."""
    tenant, meters = Tenant(cloud), cloud.meters
    [(here,)] = meters.rows("SELECT host FROM hosts WHERE daemon = 'compute'")
    cloud.command("manage", "host", "disable", str(here))
    meters.rows(
        "INSERT INTO hosts (id, host, daemon, epoch, machine_id, boot_id, version, zone, disabled,"
        " vcpus, memory_mib, disk_gib, hypervisor, heartbeat, created_at)"
        " SELECT concat('compute@far', seq), concat('far', seq), 'compute', 1, 'far', '', '1.0',"
        " 'nova', 0, 16, 16384, 1000, 'simulated', utc_timestamp(6), utc_timestamp(6)"
        f" FROM seq_1_to_{HOSTS}"
    )
    before = meters.read()
    tenant.launch(1000)
    began = time.monotonic()
    waiting = "SELECT count(*) FROM instances WHERE state = 'scheduling'"
    wait(lambda: meters.rows(waiting) == [(0,)], LIMIT_S, "all are placed")
    took = time.monotonic() - began
    used = meters.read() - before
    yield Figure("fleet", f"placements among {HOSTS} hosts", 1000 / took, "/s", ">= 1000")
    for name in ("scheduler", "mariadb"):
        yield Figure("fleet", f"… CPU each of {name}", used.cpu_s[name], "ms CPU")


@contextlib.contextmanager
def _all_in_one(*words: str) -> Iterator[tuple[Embedded, float]]:
    """minicloud-all, and the seconds until it was ready."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    began = time.monotonic()
    one = Embedded(path, free_offset(), *words)
    try:
        yield one, time.monotonic() - began
    finally:
        one.end()
        shutil.rmtree(path, ignore_errors=True)


def guest(cloud: Measured) -> Figures:
    """Real guests, by a cloud of their own and by libvirt alone, in turn; needs root."""
    yield from guests.compared()


def base(cloud: Measured) -> Figures:
    """What the machine can do at best."""
    yield Figure("limits", "bare WSGI request", limits.wsgi_cpu_ms(), "ms CPU")
    yield Figure("limits", "bare commits", limits.commits_per_s(cloud.meters), "/s")
    url = cloud.made.option("rpc", "transport_url")
    yield Figure("limits", "bare casts", limits.rpc_per_s(url), "/s")


# in this order: what leaves servers behind comes before what needs many
WORKS: dict[str, Callable[[Measured], Figures]] = {
    "base": base,
    "memory": memory,
    "keys": keys,
    "launch": launch,
    "delete": delete,
    "launch-many": launch_many,
    "lists": lists,
    "s3": s3,
    "embedded": embedded,
    "fleet": fleet,
    "guest": guest,
}
