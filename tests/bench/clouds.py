"""The cloud that is measured: six daemons, simulated hypervisor, RabbitMQ and MariaDB."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from launcher import state
from tests.bench.http import Door
from tests.bench.meters import Meters
from tests.integration.running import RunningCloud, free_offset, wait

RANGE = "10.128.0.0/16"
MANY = "1000000000"  # more than anything here asks for


class Measured(RunningCloud):
    """One cloud with room for thousands of simulated guests."""

    @functools.cached_property
    def made(self) -> state.Cloud:
        found = state.cloud(state.State(self.state), {})
        assert found is not None
        return found

    @functools.cached_property
    def meters(self) -> Meters:
        return Meters(self)

    def door(self, token: str = "") -> Door:
        """A client's connections to the APIs; it asks for a token when it is given none."""
        return Door(self.environment, self.made.variables.port, token)

    def active(self) -> int:
        """How many instances run."""
        [(number,)] = self.meters.rows("SELECT count(*) FROM instances WHERE state = 'running'")
        return int(str(number))

    def emptied(self) -> None:
        """No instance is left."""
        self.command("terminate")
        wait(lambda: self.alive() == 0, 300, "all instances are gone")

    def alive(self) -> int:
        query = "SELECT count(*) FROM instances WHERE state <> 'terminated'"
        [(number,)] = self.meters.rows(query)
        return int(str(number))


@contextlib.contextmanager
def measured() -> Iterator[Measured]:
    """It is up, without an instance; nothing is left of it afterwards."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="mc-", dir="/tmp"))
    path.chmod(0o755)
    cloud = Measured(
        path,
        CONNECTION_TYPE="simulated",
        USE_MYSQL="1",
        FIXED_RANGE=RANGE,
        PORT_OFFSET=str(free_offset()),
    )
    try:
        cloud.command("run_detached")
        for option, value in (("memory_mib", 1 << 30), ("vcpus", 1 << 20)):
            cloud.set_option("simulated", option, value)
        cloud.command("restart")
        quotas = json.loads(cloud.command("manage", "project", "quota", "admin", "--json").stdout)
        for one in quotas:
            cloud.command("manage", "project", "quota", "admin", one["key"], MANY)
        cloud.emptied()
        yield cloud
    finally:
        cloud.command("scrub", "--all", check=False)
        shutil.rmtree(path, ignore_errors=True)
