"""Fixtures for in-process tests: a database file, a caller, a whole cloud on simulated drivers."""

from __future__ import annotations

import pathlib
import threading
import time
from collections.abc import Callable, Iterator

import hypothesis
import pytest
from cryptography.fernet import Fernet
from oslo_config import cfg
from typing_extensions import override

from minicloud import context, daemon, ids, rpc
from minicloud.auth import passwords
from minicloud.cloud import networks, projects, users
from minicloud.compute import manager as compute_manager
from minicloud.compute import simulated as simulated_hypervisor
from minicloud.context import Context
from minicloud.db import hosts, migrate, models, session
from minicloud.db.session import Tx, reading, transaction
from minicloud.network import manager as network_manager
from minicloud.network import simulated as simulated_wires
from minicloud.objectstore import manager as objectstore_manager
from minicloud.scheduler import manager as scheduler_manager
from minicloud.volume import manager as volume_manager
from minicloud.volume import simulated as simulated_volumes
from tests.mariadb import mariadb
from tests.postgresql import postgresql

__all__ = ["mariadb", "postgresql"]  # fixtures: one server of each for all tests of a process


def pytest_configure(config: pytest.Config) -> None:
    """Every run tries the same examples, however slow the machine is; those of
    `--hypothesis-seed` when that is given."""
    same = config.getoption("--hypothesis-seed", None) is None
    hypothesis.settings.register_profile("same", derandomize=same, database=None, deadline=None)
    hypothesis.settings.load_profile("same")


@pytest.fixture
def options(tmp_path: pathlib.Path) -> Iterator[Callable[..., None]]:
    """Set options: `options("work", sweep_s=0.2)`; all are put back afterwards."""
    cfg.CONF([], project="minicloud", default_config_files=[])
    cfg.CONF.set_override("state_path", str(tmp_path))
    cfg.CONF.set_override("secret_key", Fernet.generate_key().decode())
    cfg.CONF.set_override("tag", "test")
    (tmp_path / "machine-id").write_text("a machine\n")
    cfg.CONF.set_override("machine_id_file", str(tmp_path / "machine-id"), "daemon")
    cost, passwords.N = passwords.N, 2  # a hash says its own cost, and many tests make users
    # a busy machine is no busy database: who is refused for waiting is tested where it is asked
    cfg.CONF.set_override("lock_timeout_s", 60.0, "database")

    def set_options(group: str, **values: object) -> None:
        for name, value in values.items():
            cfg.CONF.set_override(name, value, None if group == "DEFAULT" else group)

    yield set_options
    passwords.N = cost
    cfg.CONF.clear()
    cfg.CONF.reset()
    # a thread that has not noticed the end yet must not find the default: a real cloud's database
    cfg.CONF.set_override("connection", "sqlite:////dev/null/no-cloud", "database")


@pytest.fixture
def database(options: Callable[..., None], tmp_path: pathlib.Path) -> Iterator[str]:
    """An empty cloud's database on SQLite; its URL."""
    url = f"sqlite:///{tmp_path}/minicloud.sqlite"
    options("database", connection=url)
    migrate.sync()
    yield url
    session.forget_engines()


@transaction
def active_image(tx: Tx, project_id: str) -> None:
    """A machine image as if its bytes had been uploaded."""
    values = {"state": "active", "rest": "active", "request_id": "req-test", "format": "raw"}
    sizes = {"size": 1024, "virtual_size": 1024, "sha256": "0" * 64, "file": "tty"}
    names = {"name": "tty", "word": "tty", "kind": "machine", "is_public": True}
    id = ids.new()
    tx.add(models.Image(id=id, project_id=project_id, **values, **sizes, **names))
    told = {"kind": "image", "resource_id": id, "request_id": "req-test", "who": "user"}
    tx.add(models.Event(**told, to_state="active"))


def _first_rows() -> Context:
    operator = context.admin
    user = users.create(operator(), "alice")
    project = projects.create(operator(), "proj", "alice")
    networks.create(operator(), name="private", cidr="10.0.0.0/24")
    active_image(project.id)
    return Context(context.new_request_id(), user.id, project.id, user.name, project.name)


@pytest.fixture
def caller(database: str) -> Callable[[], Context]:
    """Make contexts of one user of one project, each a new request."""
    first = _first_rows()

    def again() -> Context:
        return Context(
            context.new_request_id(),
            first.user_id,
            first.project_id,
            first.user,
            first.project,
            first.roles,
        )

    return again


@pytest.fixture
def ctx(caller: Callable[[], Context]) -> Context:
    return caller()


class Unswept(daemon.Life):
    """A daemon whose own sweeps never come, so that only the test sweeps."""

    @override
    def _sweep_for_ever(self) -> None:
        pass


@reading
def heartbeats(tx: Tx, id: str) -> int:
    return hosts.beats(tx, id)


class InProcessCloud:
    """Scheduler, network and compute hosts in this process, over the in-memory transport.

    `life` is what the daemons that are started from now on live.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.life = daemon.Life
        self.lives: dict[str, daemon.Life] = {}  # that in each place now
        self._begun: list[daemon.Life] = []
        self.hypervisors: dict[str, simulated_hypervisor.Simulated] = {}
        self.wires: dict[str, simulated_wires.Simulated] = {}
        self.stores: dict[str, simulated_volumes.Simulated] = {}

    def directory(self, kind: str, host: str) -> pathlib.Path:
        """Where a host's simulated things of that kind are."""
        return self.path / kind / host

    def compute(self, host: str) -> simulated_hypervisor.Simulated:
        driver = simulated_hypervisor.Simulated(self.directory("simulated", host))
        self.hypervisors[host] = driver
        self._live(compute_manager.Manager(driver, wired=False), host)
        return driver

    def network(self, host: str) -> simulated_wires.Simulated:
        driver = simulated_wires.Simulated(self.directory("networks", host))
        self.wires[host] = driver
        self._live(network_manager.Manager(driver), host)
        return driver

    def volume(self, host: str) -> simulated_volumes.Simulated:
        driver = simulated_volumes.Simulated(self.directory("volumes", host))
        self.stores[host] = driver
        self._live(volume_manager.Manager(driver, driver), host)
        return driver

    def objectstore(self, host: str) -> objectstore_manager.Manager:
        manager = objectstore_manager.Manager()
        self._live(manager, host)
        return manager

    def scheduler(self, host: str) -> None:
        self._live(scheduler_manager.Manager(), host)

    def _live(self, manager: object, host: str) -> None:
        life = self.life(manager, host, "nova")
        self._begun.append(life)
        known = heartbeats(life.id)
        life.begin()
        self.lives[life.id] = life
        assert life.ready.wait(100), f"{life.id} does not listen"
        self.wait(lambda: heartbeats(life.id) > known or life.wait(0))  # or it may count as down

    def stop(self, id: str) -> None:
        self.lives.pop(id).end()

    def close(self) -> None:
        """None listens any more, the replaced ones too: the next cloud has the same queues."""
        try:
            for id in list(self.lives):
                self.stop(id)
        finally:
            for life in self._begun:
                life.rest(0)

    @staticmethod
    def wait(condition: Callable[[], object], limit_s: float = 100.0) -> object:
        """The first true value of `condition`, which is tried again and again."""
        until = time.monotonic() + limit_s
        while True:
            value = condition()
            if value:
                return value
            assert time.monotonic() < until, f"not true within {limit_s} s: {condition}"
            threading.Event().wait(0.02)


@pytest.fixture
def bare_cloud(
    options: Callable[..., None], database: str, tmp_path: pathlib.Path
) -> Iterator[InProcessCloud]:
    """A cloud with no daemon running yet."""
    options("rpc", transport_url="fake://")
    options("work", sweep_s=0.5, applied_wait_s=2.0)
    options("daemon", heartbeat_s=0.2, stop_s=5.0)
    session.send_with(rpc.send)
    made = InProcessCloud(tmp_path)
    yield made
    made.close()
    rpc.forget_transport()
    session.send_with(lambda nudges: None)


@pytest.fixture
def cloud(bare_cloud: InProcessCloud) -> InProcessCloud:
    """A cloud of one host with everything running."""
    bare_cloud.network("h1")
    bare_cloud.compute("h1")
    bare_cloud.scheduler("h1")
    return bare_cloud
