"""Clouds for the tests of the promise: real daemons on a real broker, forked from one nursery.

A cloud lives through many cases: each begins with it empty and ends with it empty.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import botocore.config
import botocore.exceptions
import sqlalchemy as sa

from launcher import configuration, rabbitmq, services, state, variables
from tests.integration.running import exported
from tests.promises import clients
from tests.promises.daemons import LIMIT_S, STARTED, Daemon, Nursery, wait

T = TypeVar("T")

SWEEP_S = 1.0
HOST = "h1"
SECOND = 40  # how far the ports of the second front door are from those of the first
RANGE = "10.9.0.0/29"  # five addresses for guests: what is given back is soon given on

# what a cloud consists of: name → function of minicloud.main; `api2` is a second front door
DAEMONS = {
    "api": "api",
    "api2": "api",
    "scheduler": "scheduler",
    "network": "network",
    "volume": "volume",
    "objectstore": "objectstore",
    "compute": "compute",
}
# daemons that a second process can replace while the first is stopped: they listen on no port
REPLACED = ("scheduler", "network", "volume", "compute")


@contextlib.contextmanager
def broker(path: pathlib.Path, offset: int) -> Iterator[str]:
    """The transport URL of a RabbitMQ of our own."""
    where = state.State(path)
    values = variables.parsed({**kept(path), "PORT_OFFSET": str(offset)})
    cloud = _laid_out(where, values)
    servant = rabbitmq.service(cloud)
    services.start(cloud, [servant])
    try:
        yield cloud.option("rpc", "transport_url")
    finally:
        services.stop(cloud, [servant])


def kept(path: pathlib.Path) -> dict[str, str]:
    return {
        "CONNECTION_TYPE": "simulated",
        "INSTANCES_PATH": f"{path}/instances",
        "LOCK_PATH": f"{path}/lock",
        "FIXED_RANGE": RANGE,
    }


def _laid_out(where: state.State, values: variables.Variables) -> state.Cloud:
    variables.write(where.variables, {**kept(where.path), "PORT_OFFSET": str(values.port_offset)})
    state.lay_out(where, values)
    configuration.write(where, state.draw_tag(""), values, "")
    made = state.cloud(where, {})
    assert made is not None
    return made


def _with_options(conf: pathlib.Path, options: Mapping[str, Mapping[str, object]]) -> None:
    text = conf.read_text()
    for group, values in options.items():
        names = tuple(f"{name} = " for name in values)
        kept_lines = [line for line in text.splitlines() if not line.startswith(names)]
        if f"[{group}]" not in kept_lines:
            kept_lines += ["", f"[{group}]"]
        place = kept_lines.index(f"[{group}]") + 1
        kept_lines[place:place] = [f"{name} = {value}" for name, value in values.items()]
        text = "\n".join(kept_lines) + "\n"
    conf.write_text(text)


class Cloud:
    """A cloud with everything running; `database` is a URL, or "" for a file of its own."""

    def __init__(self, nursery: Nursery, url: str, offset: int, database: str = "") -> None:
        # a short path: it is nobody's business but ours
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
        self.nursery = nursery
        self.daemons: dict[str, Daemon] = {}
        self.zombies: list[Daemon] = []  # stopped ones whose place was taken
        self.stopped = ""  # the daemon that does not answer now
        self.tokens = 0
        self.since = 0  # the last event of before the present story
        self._forking = threading.RLock()  # a story and what happens in it may both start one
        self._elsewhere = threading.Event()
        self._abandoned: list[futures.Future[Any]] = []
        self._calls = futures.ThreadPoolExecutor(max_workers=4)
        values = variables.parsed({**kept(self.path), "PORT_OFFSET": str(offset)})
        self.made = _laid_out(state.State(self.path), values)
        self.tag = self.made.tag
        self.database = database or f"sqlite:///{self.made.state.database}"
        # a busy machine is no busy database; a server's times also bound how long a stopped
        # process holds its locks
        patience_s = 2 if database else 30
        _with_options(
            self.made.state.conf,
            {
                "DEFAULT": {"host": HOST},
                "database": {"connection": self.database, "lock_timeout_s": patience_s},
                "rpc": {"transport_url": url},
                "simulated": {"memory_mib": 4096},
                "work": {"sweep_s": SWEEP_S, "applied_wait_s": 0.5},
                "daemon": {"heartbeat_s": 1.0, "stop_s": 5},
            },
        )
        for directory in ("passed", "armed", "mine", "reached", "ended"):
            (self.path / "witness" / directory).mkdir(parents=True)
        self.engine = sa.create_engine(self.database)
        self._first_rows()
        self._clients = {
            name: clients.doors(exported(self.made.state.novarc), self.made.variables.port, shift)
            for name, shift in (("api", 0), ("api2", SECOND))
        }

    # --- processes ----------------------------------------

    def _order(self, name: str, program: str, environment: Mapping[str, str]) -> dict[str, Any]:
        return {
            "program": program,
            "name": name,
            "arguments": ["--config-file", str(self.made.state.conf)],
            "environment": {"HOME": str(self.path), **environment},
            "log": str(self.made.state.log(name)),
            "witness": str(self.path / "witness"),
        }

    def start(self, name: str, **environment: str) -> None:
        """A new process of that daemon; what became of the old one is the caller's business."""
        number = ["api", "api2"].index(name) if name in ("api", "api2") else 0
        if number:
            environment |= self._second_door()
        order, log = self._order(name, DAEMONS[name], environment), self.made.state.log(name)
        with self._forking:
            with log.open("a") as said:
                said.write(f"{STARTED}\n")  # what the one before it said is not its own
            self.daemons[name] = Daemon(name, self.nursery.fork(order), log)

    def _second_door(self) -> dict[str, str]:
        """Another front door of the same cloud, as if on a host of its own."""
        port = self.made.variables.port
        return {
            "OS_API__EC2_PORT": str(port("api") + SECOND),
            "OS_OPENSTACK__IDENTITY_PORT": str(port("identity-api") + SECOND),
            "OS_OPENSTACK__COMPUTE_PORT": str(port("compute-api") + SECOND),
            "OS_OPENSTACK__IMAGE_PORT": str(port("image-api") + SECOND),
            "OS_DEFAULT__LOCK_PATH": f"{self.path}/lock2",
        }

    def take_over(self, name: str) -> None:
        """Another process takes the place of a stopped one, which holds its lock: here that is
        put aside, as an operator who knows no better would."""
        self.zombies.append(self.daemons[name])
        self.tokens += 1
        self.start(name, OS_DEFAULT__LOCK_PATH=f"{self.path}/lock-{self.tokens}")

    def manage(self, *words: str) -> str:
        """What `minicloud-manage WORDS` prints; AssertionError with its complaint."""
        status, said = self.managed(*words)
        assert status == 0, f"{words}: {said}"
        return said

    def managed(self, *words: str) -> tuple[int | None, str]:
        """Exit status (None: it was killed) and output of `minicloud-manage WORDS`."""
        self.tokens += 1
        name = "manage"
        ended = self.path / "witness" / "ended" / name
        ended.unlink(missing_ok=True)
        order = self._order(name, "manage", {})
        log = self.made.state.log(f"manage-{self.tokens}")
        order |= {"log": str(log)}
        order["arguments"] = [*order["arguments"], *words]
        with self._forking:
            mine = self.daemons[name] = Daemon(name, self.nursery.fork(order), log)
        wait(mine.gone, f"minicloud-manage {' '.join(words)} ends")
        said = log.read_text()
        log.unlink()
        return (int(ended.read_text()) if ended.exists() else None), said

    def revive(self) -> None:
        """Whoever is dead is started again."""
        for name in DAEMONS:
            with self._forking:
                if self.daemons[name].gone():
                    self.start(name)

    def replace(self, name: str, pid: int) -> None:
        """That process is dead, and another is in its place, whoever started it."""
        with self._forking:
            mine = self.daemons[name]
        if mine.pid != pid:
            return
        wait(mine.gone, f"{name} is dead")
        with self._forking:
            if name in DAEMONS and self.daemons[name] is mine:
                self.start(name)

    def close(self) -> None:
        """Nothing is left of it."""
        for daemon in [*self.daemons.values(), *self.zombies, self._courier]:
            daemon.signal(signal.SIGKILL)
        self._calls.shutdown(wait=False, cancel_futures=True)
        self.engine.dispose()
        shutil.rmtree(self.path, ignore_errors=True)

    # --- witnesses ----------------------------------------

    def witness(self, kind: str, name: str) -> pathlib.Path:
        return self.path / "witness" / kind / name

    def passed(self, name: str) -> list[str]:
        """The checkpoints a daemon has passed since `forget_passed`."""
        return [line.split()[0] for line in self.passed_lines(name)]

    def passed_lines(self, name: str) -> list[str]:
        """The same, with a second word where it was in a transaction."""
        try:
            return self.witness("passed", name).read_text().splitlines()
        except FileNotFoundError:
            return []

    def forget_passed(self) -> None:
        for file in (self.path / "witness" / "passed").iterdir():
            os.truncate(file, 0)

    def arm(self, name: str, place: str, how: str) -> None:
        """`how` (kill, stop, hold) happens to the daemon when it comes to the checkpoint."""
        self.witness("reached", name).unlink(missing_ok=True)
        part = self.witness("ended", f"{name}.part")
        part.write_text(f"{place} {how}")
        part.replace(self.witness("armed", name))

    def disarm(self, name: str) -> None:
        for kind in ("armed", "mine", "reached"):
            self.witness(kind, name).unlink(missing_ok=True)

    def reached(self, name: str) -> int:
        """The pid of the process that came to the checkpoint, or 0."""
        try:
            return int(self.witness("reached", name).read_text().splitlines()[0])
        except FileNotFoundError:
            return 0

    def at_its_place(self, name: str) -> Daemon | None:
        """The daemon that came to the checkpoint; None while another is just being started."""
        with self._forking:
            daemon = self.daemons[name]
        return daemon if daemon.pid == self.reached(name) else None

    def down(self) -> list[str]:
        """The daemons that are dead."""
        with self._forking:
            return [name for name in DAEMONS if self.daemons[name].gone()]

    def log_lines(self) -> list[str]:
        """What the daemons have logged since `begin_anew`."""
        return [
            line
            for file in sorted((self.path / "logs").iterdir())
            for line in file.read_text(errors="replace").splitlines()
        ]

    def begin_anew(self) -> None:
        """What happened until now is another story's."""
        for file in [*(self.path / "logs").iterdir(), *(self.path / "witness/passed").iterdir()]:
            os.truncate(file, 0)
        [(last,)] = self.rows("SELECT max(id) FROM events")
        self.since = last or 0

    # --- looking ----------------------------------------

    def rows(self, query: str, **values: object) -> list[tuple[Any, ...]]:
        """The answer of the cloud's database."""
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(query), values)]

    def execute(self, statement: str) -> None:
        """A change by hand of the cloud's database."""
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement))

    # --- asking ----------------------------------------

    def token(self) -> str:
        """A client token that was never used."""
        self.tokens += 1
        return f"token-{self.tag}-{self.tokens}"

    def ask(self, service: str, method: str, *already: str, **arguments: Any) -> Any:
        """The answer of boto3's client; asked again while there is none.

        `already` are errors that then say that it had happened at the first time; the answer is
        None.
        """
        return self.insist(
            lambda door: getattr(door[service], method)(**arguments), already, service == "ec2"
        )

    def once(self, service: str, method: str, *words: Any, **arguments: Any) -> Any:
        """The answer of boto3's client, asked only once."""
        return getattr(self._clients["api"][service], method)(*words, **arguments)

    def insist(
        self, call: Callable[[Any], T], already: tuple[str, ...] = (), movable: bool = True
    ) -> T | None:
        again, until = False, time.monotonic() + LIMIT_S
        while True:
            door = self._clients["api2" if movable and self._elsewhere.is_set() else "api"]
            future = self._calls.submit(call, door)
            if movable and not self._answered(future):
                self._abandoned.append(future)
                again = True
                continue
            try:
                return future.result()
            except botocore.exceptions.ClientError as error:
                code, status = clients.told(error)
                if again and code in already:
                    return None
                if status < 500 or time.monotonic() > until:
                    raise
            except clients.AWAY:
                if time.monotonic() > until:
                    raise
            again = True
            time.sleep(0.05)

    def _answered(self, future: futures.Future[Any]) -> bool:
        """False when the daemon asked was stopped meanwhile and another one is to be asked."""
        while not futures.wait([future], 0.02).done:
            if self.stopped == "api" and not self._elsewhere.is_set():
                self._elsewhere.set()
                return False
        return True

    def api_again(self) -> None:
        """The first front door answers again, also those that nobody waits for."""
        self.stopped = ""
        self._elsewhere.clear()
        for future in self._abandoned:
            with contextlib.suppress(botocore.exceptions.ClientError, OSError):
                future.result(LIMIT_S)
        self._abandoned.clear()

    def openstack(
        self, method: str, service: str, path: str, body: Any = None, already: str = ""
    ) -> Any:
        """The JSON that an OpenStack API answers to the project's user; None for the status
        `already`, when asked again."""

        def call(door: Any) -> Any:
            return door["openstack"].call(method, service, path, body)

        return self.insist(call, (already,))

    def openstack_token(self) -> str:
        """A new token of the project's user."""
        made = clients.OpenStack(exported(self.made.state.novarc), self.made.variables.port, 0)
        made.login()
        return made.token

    def change_password(self, new: str) -> None:
        """The user of the project has this password, also if the answer was lost."""
        rc = exported(self.made.state.novarc)
        user, old = rc["OS_USERNAME"], rc["OS_PASSWORD"]
        [(id,)] = self.rows("SELECT id FROM users WHERE name = :name", name=user)
        body = {"user": {"original_password": old, "password": new}}
        path = f"/v3/users/{id}/password"

        def call(door: Any) -> None:
            with contextlib.suppress(clients.OpenStackError):
                door["openstack"].call("POST", "identity", path, body)

        self.insist(call)

    def can_login(self, password: str) -> bool:
        """Whether the user of the project has this password."""
        rc = {**exported(self.made.state.novarc), "OS_PASSWORD": password}
        try:
            clients.OpenStack(rc, self.made.variables.port, 0).login()
        except clients.OpenStackError:
            return False
        return True

    # --- nudges ----------------------------------------

    def nudge_twice(self, nudges: Sequence[tuple[str, str, str | None]]) -> None:
        """Each of them (method, id, host) has come twice, whatever its daemon did with it."""
        names = {name for name, _, _ in nudges}
        before = self._nudged(names)
        pipe = self.path / "courier"
        with pipe.open("w") as courier:
            courier.write("".join(json.dumps(nudge) + "\n" for nudge in [*nudges, *nudges]))
        wanted = before + 2 * len(nudges)
        wait(lambda: self._nudged(names) >= wanted, "the nudges have come")

    def _nudged(self, names: Collection[str]) -> int:
        wanted = {f"{name}.nudged" for name in names}
        return sum(place in wanted for name in DAEMONS for place in self.passed(name))

    # --- making ----------------------------------------

    def _first_rows(self) -> None:
        """The rows a cloud has that was just installed, the daemons, and an image."""
        for words in (
            ("db", "sync"),
            ("user", "create", "admin", "--admin"),
            ("project", "create", "admin", "admin"),
            ("network", "create", "private", RANGE),
            ("project", "environment", "admin", "admin", str(self.made.state.novarc)),
        ):
            self.manage(*words)
        for name in DAEMONS:
            self.start(name)
        os.mkfifo(self.path / "courier")
        order = self._order("courier", "courier", {})
        order["arguments"].append(str(self.path / "courier"))
        self._courier = Daemon("courier", self.nursery.fork(order), self.path)
        image = self.path / "image"
        image.write_bytes(b"minicloud" * 100)
        words = ("image", "register", "tty", str(image), "--word", "tty", "--public")
        wait(lambda: self.managed(*words)[0] == 0, "the image is registered")
        self.begin_anew()
