"""Volumes as sparse files, each named by its volume's id."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import time

from oslo_config import cfg
from typing_extensions import override

from minicloud import config, ids
from minicloud.checkpoint import checkpoint
from minicloud.volume import driver

CONF = config.declare(
    "volume",
    [
        cfg.StrOpt(
            "path",
            default="$state_path/volumes",
            help="Directory of the volumes: sparse files that grow up to their size as guests"
            " write.",
        )
    ],
)

GIB = 1024**3
TRASH_S = 86400


class Files(driver.Store):
    """`path/ID` is a volume; what its name does not fit is not looked at."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._trash = path / "trash"

    @override
    def prepare(self) -> None:
        self._trash.mkdir(mode=0o750, parents=True, exist_ok=True)

    @override
    def total_gib(self) -> int:
        return shutil.disk_usage(self.path).total // GIB

    @override
    def create(self, volume_id: str, size_gib: int) -> None:
        """The file has its size from its first moment under its name: a guest never meets a part
        of it."""
        file = self.path / volume_id
        if file.exists():
            return
        part = self.path / f"{volume_id}.part"
        with part.open("wb") as made:
            made.truncate(size_gib * GIB)
            os.fsync(made.fileno())
        part.chmod(0o600)
        checkpoint("volume.part_made")
        part.replace(file)
        self._sync()
        checkpoint("volume.file_made")

    @override
    def delete(self, volume_id: str, *, keep: bool = False) -> None:
        (self.path / f"{volume_id}.part").unlink(missing_ok=True)
        file = self.path / volume_id
        if keep:
            with contextlib.suppress(FileNotFoundError):
                os.utime(file)  # a day from now on
                file.replace(self._trash / volume_id)
        else:
            file.unlink(missing_ok=True)
        self._sync()
        checkpoint("volume.file_gone")

    @override
    def volumes(self) -> set[str]:
        names = {file.name.removesuffix(".part") for file in self.path.iterdir()}
        return {name for name in names if ids.is_uuid(name)}

    @override
    def empty_trash(self) -> None:
        for file in self._trash.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime < time.time() - TRASH_S:
                    file.unlink()

    def _sync(self) -> None:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
