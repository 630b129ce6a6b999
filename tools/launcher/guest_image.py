"""The files of the image ami-tty: built by tools/guest, or stand-ins where no guest boots.

They are built beside the venv, once for all clouds of a checkout: a cloud in a network namespace
without a way out finds them there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from launcher import files, venv
from launcher.report import Failure, say
from launcher.state import Cloud

SCRIPTS = venv.CHECKOUT / "tools" / "guest"
KINDS = {"kernel": "aki", "ramdisk": "ari", "machine": "ami"}
STAND_IN = 8192  # bytes
UNCHANGED = "is up to date"


def build() -> None:
    """The files are what tools/guest says; nothing happens when they are already."""
    with _alone() as directory:
        _run("build.sh", directory)


def whole_disk() -> Path:
    """The same guest as a disk of 40 MiB with a boot loader, for what tests bring to a cloud.

    The network is needed when the boot loader's packages have not been fetched yet.
    """
    with _alone() as directory:
        _run("build.sh", directory)
        _run("disk.sh", directory)
        return directory / "disk"


def paths(cloud: Cloud) -> dict[str, Path]:
    """Kernel, ramdisk and machine image as files."""
    if cloud.variables.real:
        return _in(_directory())
    directory = cloud.state.path / "guest"
    directory.mkdir(mode=0o755, exist_ok=True)
    for kind, path in _in(directory).items():
        text = f"minicloud: a {kind} image for simulated guests\n"
        files.write(path, text.ljust(STAND_IN, "\0"), 0o644)
    return _in(directory)


@contextlib.contextmanager
def _alone() -> Iterator[Path]:
    """The directory of the files; nobody else builds in it meanwhile."""
    directory = _directory()
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield directory
    finally:
        os.close(descriptor)


def _run(script: str, directory: Path) -> None:
    done = subprocess.Popen(
        [str(SCRIPTS / script), str(directory)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.stdout is not None
    last = ""
    for line in done.stdout:
        last = line.strip()
        if UNCHANGED not in last:
            say(last)
    if done.wait() != 0:
        raise Failure(f"the guest image could not be built: {last}", "then run this again")


def _directory() -> Path:
    return venv.path() / "guest"


def _in(directory: Path) -> dict[str, Path]:
    return {kind: directory / name for kind, name in KINDS.items()}
