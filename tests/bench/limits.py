"""What this machine can do at best, measured in the same run: a figure means little without."""

from __future__ import annotations

import json
import pathlib
import resource
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable

from tests.bench.meters import Meters

REQUESTS = 500


def cpu_ms(work: Callable[[], object], times: int) -> float:
    """CPU milliseconds of this process for one run of `work`, of several."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(times):
        work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * spent / times


def dump_ms(text: bytes) -> float:
    """CPU to make a JSON text of the values of this one."""
    values = json.loads(text)
    return cpu_ms(lambda: json.dumps(values), 10)


def commits_per_s(meters: Meters) -> float:
    """Transactions of one row that the cloud's database commits, one after the other."""
    meters.rows("CREATE TABLE IF NOT EXISTS bench_commits (n INTEGER)")
    try:
        began = time.monotonic()
        for number in range(REQUESTS):
            meters.rows(f"INSERT INTO bench_commits VALUES ({number})")
        return REQUESTS / (time.monotonic() - began)
    finally:
        meters.rows("DROP TABLE bench_commits")


def wsgi_cpu_ms() -> float:
    """CPU of an eventlet WSGI server for one request that it answers with nothing."""
    return _alone(
        """
        import resource
        import eventlet
        eventlet.monkey_patch()
        import eventlet.wsgi, http.client, os
        from eventlet import hubs

        def app(environ, start):
            start("200 OK", [("Content-Length", "2")])
            return [b"{}"]

        listener = eventlet.listen(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        reading, writing = os.pipe()
        if os.fork() == 0:
            listener.close()
            link = http.client.HTTPConnection("127.0.0.1", port)
            for _ in range(REQUESTS):
                link.request("GET", "/", headers={"X-Auth-Token": "x"})
                link.getresponse().read()
            os.write(writing, b"x")
            os._exit(0)
        before = resource.getrusage(resource.RUSAGE_SELF)
        eventlet.spawn(eventlet.wsgi.server, listener, app, open(os.devnull, "w"))
        hubs.trampoline(reading, read=True)
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        print(1000 * spent / REQUESTS)
        """
    )


def rpc_per_s(url: str) -> float:
    """Casts that oslo.messaging hands to the cloud's broker, one after the other."""
    return _alone(
        f"""
        import time
        import oslo_messaging
        from oslo_config import cfg
        conf = cfg.CONF
        conf([])
        transport = oslo_messaging.get_rpc_transport(conf, url={url!r})
        target = oslo_messaging.Target(topic="bench", server="bench")

        class Here:
            def note(self, ctx, id):
                seen.append(id)

        seen = []
        server = oslo_messaging.get_rpc_server(transport, target, [Here()], executor="threading")
        server.start()
        client = oslo_messaging.get_rpc_client(transport, oslo_messaging.Target(topic="bench"))
        client.cast({{}}, "note", id="warm")
        while not seen:
            time.sleep(0.01)
        began = time.monotonic()
        for _ in range(REQUESTS):
            client.cast({{}}, "note", id="ec2")
        while len(seen) <= REQUESTS:
            time.sleep(0.005)
        print(REQUESTS / (time.monotonic() - began))
        server.stop()
        server.wait()
        """
    )


def _alone(program: str) -> float:
    """What the program prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"REQUESTS = {REQUESTS}\n{textwrap.dedent(program)}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return float(done.stdout.split()[-1])


def disk_mib_per_s(directory: pathlib.Path, mib: int) -> float:
    """A file of zeros is written there and is on the disk."""
    began = time.monotonic()
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={directory}/bench", "bs=1M", f"count={mib}", "conv=fsync"],
        capture_output=True,
        check=True,
    )
    (directory / "bench").unlink()
    return mib / (time.monotonic() - began)
