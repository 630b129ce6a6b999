"""A volume host that only pretends: the same contracts, settable failures.

Volumes and exports are small files, so that they outlive a killed daemon as real ones do; it
remembers what was done when (`history`), so that tests can ask in which order.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import pathlib
import time

from oslo_config import cfg
from typing_extensions import override

from minicloud import config, errors, parts
from minicloud.checkpoint import checkpoint
from minicloud.volume import driver

CONF = config.declare(
    "simulated_volume",
    [
        cfg.ListOpt(
            "failing",
            default=[],
            help="Methods of the simulated volume host that fail, for tests: `create`, or"
            " `create:Final` for a failure that is not tried again.",
        ),
        cfg.IntOpt("total_gib", default=10000, min=1, help="GiB of a simulated volume host."),
    ],
)

KEPT = 10000  # entries of the history
PORTAL = "127.0.0.1:3260"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One thing that was done; `id` is a volume's, or an export's."""

    at: float
    what: str
    id: str


class Simulated(driver.Store, driver.Exports):
    """`path` is the directory of this host's volumes."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.history: collections.deque[Entry] = collections.deque(maxlen=KEPT)

    # --- the store --------------------------------------------------------------------------

    @override
    def prepare(self) -> None:
        for name in ("volumes", "exports"):
            (self.path / name).mkdir(parents=True, exist_ok=True)
        parts.clear(self.path)

    @override
    def total_gib(self) -> int:
        return int(CONF.total_gib)

    @override
    def create(self, volume_id: str, size_gib: int) -> None:
        self._fail("create")
        self._put(self._volume(volume_id), str(size_gib))
        checkpoint("volume.file_made")
        self._remember("create", volume_id)

    @override
    def delete(self, volume_id: str, *, keep: bool = False) -> None:
        self._fail("delete")
        self._volume(volume_id).unlink(missing_ok=True)
        checkpoint("volume.file_gone")
        self._remember("delete", volume_id)

    @override
    def volumes(self) -> set[str]:
        return {file.name for file in (self.path / "volumes").iterdir()}

    @override
    def empty_trash(self) -> None:
        pass  # nothing is ever put aside here

    # --- the exports ------------------------------------------------------------------------

    @property
    @override
    def portal(self) -> str:
        return PORTAL

    @override
    def ping(self) -> None:
        self._fail("ping")

    @override
    def serve(self, export: driver.Export) -> None:
        self._fail("serve")
        file = self._export(export.id)
        if not file.exists():
            self._put(file, export.volume_id)
            self._remember("serve", export.id)
        checkpoint("export.served")

    @override
    def withdraw(self, export_id: str) -> None:
        self._fail("withdraw")
        self._export(export_id).unlink(missing_ok=True)
        checkpoint("export.withdrawn")
        self._remember("withdraw", export_id)

    @override
    def present(self) -> dict[str, str]:
        found = {}
        for file in (self.path / "exports").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it is just being withdrawn
                found[file.name] = file.read_text()
        return found

    # --- what the simulation is made of -------------------------------------------------------

    def forget_exports(self) -> None:
        """The exporting server was killed and started: it knows nothing any more (tests)."""
        for file in (self.path / "exports").iterdir():
            file.unlink()

    def _fail(self, method: str) -> None:
        if f"{method}:Final" in CONF.failing:
            raise errors.Final(reason=f"simulated failure of {method}")
        if method in CONF.failing:
            raise RuntimeError(f"simulated failure of {method}")

    def _remember(self, what: str, id: str) -> None:
        self.history.append(Entry(time.monotonic(), what, id))

    def _put(self, file: pathlib.Path, text: str) -> None:
        # beside the directories: what is in these is whole
        parts.write(parts.fresh(self.path, file), file, text)

    def _volume(self, id: str) -> pathlib.Path:
        return self.path / "volumes" / id

    def _export(self, id: str) -> pathlib.Path:
        return self.path / "exports" / id
