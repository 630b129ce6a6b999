"""Start, stop and look at the processes of a cloud.

A process writes its own pid file before it becomes the daemon: whatever happens to the launcher,
there is no running daemon without one.  It says READY=1 on a socket (sd_notify(3)) when it
answers; so do RabbitMQ, MariaDB and libvirt's daemons.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import select
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from launcher import alive, files, mounts, ports, venv
from launcher.report import Failure, Refused, WrongUsage, say
from launcher.state import Cloud
from minicloud import processes

READY_LIMIT_S = 120.0
STOP_LIMIT_S = 30.0
LOG_BYTES = 64 * 1024**2  # a larger log is put aside at the next start, once
PASSED_ON = ("LANG", "LC_ALL", "TZ", "MINICLOUD_CHECKPOINT")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# the shell's pid is the daemon's: everything from here on is exec
WRITE_PID = 'echo $$ >"$1.new" && mv "$1.new" "$1" && shift && exec "$@"'


@dataclasses.dataclass(frozen=True)
class Service:
    """How one process of this cloud is started; `ports` are what it listens on."""

    process: processes.Process
    argv: Sequence[str]
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ports: Sequence[tuple[str, int]] = ()
    prepare: Callable[[], None] | None = None
    once_ready: Callable[[], None] | None = None
    after_stop: Callable[[], None] | None = None
    polite_s: float = STOP_LIMIT_S  # after which it is killed
    host: str = ""  # the pretend host of a lab it is on
    place: Sequence[str] = ()  # the words before the command line that take it there

    @property
    def name(self) -> str:
        """`compute`, or as the database calls it, `compute@h1`."""
        return f"{self.process.name}@{self.host}" if self.host else self.process.name


@dataclasses.dataclass(frozen=True)
class Starting:
    """A process that was started and has not said that it is ready."""

    service: Service
    child: subprocess.Popen[bytes]
    notify: socket.socket
    began: float


def pid(cloud: Cloud, name: str) -> int | None:
    """The pid of that process of the cloud, None when it is down."""
    return alive.pid_of(cloud.state.pid(name), cloud.tag, name)


def chosen(services: Sequence[Service], name: str | None) -> list[Service]:
    """The service of that name, or all; WrongUsage for a name nobody has."""
    if name is None:
        return list(services)
    found = [service for service in services if service.name == name]
    if not found and name not in processes.NAMES:
        raise WrongUsage(f"there is no daemon {name}; there are {', '.join(processes.NAMES)}")
    if not found:
        raise Refused(f"this cloud has no {name}", "see which it has: tools/minicloud.sh status")
    return found


def start(cloud: Cloud, services: Sequence[Service]) -> None:
    """All of them are up and ready; what was up is left alone.

    The daemons come after what serves them: they would wait for it, but longer than it takes.
    """
    serving, served = split(services)
    wait(cloud, begin(cloud, serving))
    wait(cloud, begin(cloud, served))


def split(services: Sequence[Service]) -> tuple[list[Service], list[Service]]:
    """What serves the daemons, and the daemons."""
    return (
        [service for service in services if service.process not in processes.DAEMONS],
        [service for service in services if service.process in processes.DAEMONS],
    )


def begin(cloud: Cloud, services: Sequence[Service]) -> list[Starting]:
    """Those that are down are started, not yet ready.

    One that never said it was ready, because the command that started it was killed, is started
    again: nobody would hear it now.
    """
    down = [service for service in services if not _was_ready(cloud, service)]
    for service in down:
        _stop(cloud, service)
    for service in down:
        for address, port in service.ports:
            ports.require_free(address, port, service.name)
    return [_spawn(cloud, service) for service in down]


def wait(cloud: Cloud, starting: Sequence[Starting]) -> None:
    """All of them are ready; Failure with the last lines of its log for one that is not."""
    waiting = list(starting)
    try:
        while waiting:
            select.select([one.notify for one in waiting], [], [], 0.1)
            for one in [one for one in waiting if _ready(cloud, one)]:
                if one.service.once_ready:
                    one.service.once_ready()
                cloud.state.ready(one.service.name).write_text(f"{one.child.pid}\n")
                say(f"{one.service.name} is up (pid {one.child.pid})")
                waiting.remove(one)
    finally:
        forget(cloud, starting)


def forget(cloud: Cloud, starting: Sequence[Starting]) -> None:
    """Nobody listens any more whether they are ready; they go on."""
    for one in starting:
        one.notify.close()
        cloud.state.notify(one.service.name).unlink(missing_ok=True)


def stop(cloud: Cloud, services: Sequence[Service]) -> None:
    """All of them are down and their pid files gone; the last one is stopped first.

    The daemons are told at the same time, then what serves them.
    """
    serving, served = split(services)
    with concurrent.futures.ThreadPoolExecutor(max_workers=8) as pool:
        list(pool.map(lambda service: _stop(cloud, service), served))
        list(pool.map(lambda service: _stop(cloud, service), serving))


def status(cloud: Cloud, services: Sequence[Service]) -> bool:
    """Print a line for each; True when all are up."""
    found = {service.name: pid(cloud, service.name) for service in services}
    width = max(len(name) for name in found)
    for name, number in found.items():
        say(f"{name:<{width}}  {'up' if number else 'down'}  {number or '-'}".rstrip())
    return all(found.values())


def _was_ready(cloud: Cloud, service: Service) -> bool:
    number = pid(cloud, service.name)
    try:
        return number == int(cloud.state.ready(service.name).read_text())
    except (OSError, ValueError):
        return False


def _spawn(cloud: Cloud, service: Service) -> Starting:
    if service.prepare:
        service.prepare()
    seeing = mounts.join(cloud.tag) if cloud.variables.real else service.place
    notify = _notify_socket(cloud, service)
    log = _open_log(cloud, service)
    wrapper = ["/bin/sh", "-c", WRITE_PID, "sh", str(cloud.state.pid(service.name))]
    own = rights(service.process, real=cloud.variables.real)
    try:
        child = subprocess.Popen(
            [*seeing, *wrapper, *own, *service.argv],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(cloud, service),
            start_new_session=True,  # a Ctrl-C at the terminal is not for the daemons
            umask=0o027,
        )
    finally:
        os.close(log)
    return Starting(service, child, notify, time.monotonic())


def rights(process: processes.Process, *, real: bool) -> list[str]:
    """The words before the command line that give it its user, groups and capabilities."""
    if os.geteuid() != 0 or process.user == "root":
        return []
    uid, gid = files.owner()
    held = process.capabilities if real else ()
    sets = ",".join(["-all", *(f"+{name}" for name in held)])
    groups = f"--groups={','.join(process.groups)}" if real and process.groups else ""
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={gid}",
        groups or "--clear-groups",
        f"--inh-caps={sets}",
        f"--ambient-caps={sets}",
        f"--bounding-set={sets}",
        "--no-new-privs",
    ]


def _environment(cloud: Cloud, service: Service) -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    own = {
        "PATH": PATH,
        "HOME": str(cloud.state.path / "lib"),
        alive.TAG: cloud.tag,
        alive.NAME: service.name,
        "NOTIFY_SOCKET": str(cloud.state.notify(service.name)),
    }
    return passed | own | dict(service.environment)


def _notify_socket(cloud: Cloud, service: Service) -> socket.socket:
    path = cloud.state.notify(service.name)
    path.unlink(missing_ok=True)
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(path))
    notify.setblocking(False)
    path.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(path, *files.owner())
    return notify


def _open_log(cloud: Cloud, service: Service) -> int:
    path = cloud.state.log(service.name)
    with contextlib.suppress(FileNotFoundError):
        if path.lstat().st_size > LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o640)
    if os.geteuid() == 0:
        os.fchown(descriptor, -1, files.owner()[1])
    return descriptor


def _ready(cloud: Cloud, one: Starting) -> bool:
    """Whether it has said so; Failure when it ended or is given up."""
    with contextlib.suppress(BlockingIOError):
        while True:
            if b"READY=1" in one.notify.recv(4096).split(b"\n"):
                return True
    if one.child.poll() is not None:
        cloud.state.pid(one.service.name).unlink(missing_ok=True)
        raise _died(cloud, one, f"ended with status {one.child.returncode}")
    if time.monotonic() - one.began > READY_LIMIT_S:
        raise _died(cloud, one, f"is not ready after {READY_LIMIT_S:.0f} seconds")
    return False


def _died(cloud: Cloud, one: Starting, what: str) -> Failure:
    log = cloud.state.log(one.service.name)
    last = log.read_text(errors="replace").splitlines()[-12:]
    return Failure(
        f"{one.service.name} {what}; the last lines of {log}:\n" + "\n".join(last),
        "the log says why; then: tools/minicloud.sh start " + one.service.name,
    )


def _stop(cloud: Cloud, service: Service) -> None:
    number = pid(cloud, service.name)
    if number is not None:
        polite = alive.end(number, service.polite_s)
        how = "stopped" if polite else f"killed: it did not end in {service.polite_s:.0f} seconds"
        say(f"{service.name} {how}")
    for file in (cloud.state.ready, cloud.state.pid):
        file(service.name).unlink(missing_ok=True)
    if service.after_stop:
        service.after_stop()


def daemon(cloud: Cloud, process: processes.Process) -> Service:
    """One of minicloud's own daemons."""
    listens = {
        "api": [(cloud.variables.host_ip, cloud.variables.port("api"))],
        "objectstore": [(cloud.variables.host_ip, cloud.variables.port("objectstore"))],
    }
    program = venv.program(f"minicloud-{process.name}")
    return Service(
        process,
        [str(venv.python()), str(program), "--config-file", str(cloud.state.conf)],
        ports=listens.get(process.name, []),
    )
