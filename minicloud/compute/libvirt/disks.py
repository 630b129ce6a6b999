"""Disks of guests: a cache of images, each checked and converted once, and overlays on them.

    <instances>/_base/<image>        raw, read-only for guests; its lock is `<image>.lock`
    <instances>/<instance>/disk      qcow2 over a base
    <instances>/<instance>/console.log

Every attempt writes a file of its own (`<name>.<random>.part`) and names it when it is complete,
so a file with its final name is whole, whoever died when.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
import struct
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from oslo_utils.imageutils import format_inspector

from minicloud import concurrency, errors, shell
from minicloud.compute.driver import BootImage, Check, Guest

LOG = logging.getLogger(__name__)

BASE = "_base"
TRASH = "trash"
TRASH_S = 86400  # a day to notice that a row was lost
PART = ".part"
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
SET_ASIDE = re.compile(rf"{UUID.pattern.replace('(', '(?:')}\.([0-9]+)")  # instance, time in ns
AS_RAW = {"raw", "gpt", "iso"}  # what the inspector calls bytes that a guest sees as they are
GIB = 1024**3
CONVERT_S = 1800
# qemu-img reads what strangers wrote: its memory and time are bounded (man 1 prlimit)
BOUNDED = ("prlimit", f"--as={2 * GIB}", f"--cpu={CONVERT_S}")
LOCK_POLL_S = 0.2

Fetch = Callable[[BootImage, Path, Check], None]

_writing: set[Path] = set()  # temporary files of this process


class Disks:
    """The files under one directory of instances, which has the group of QEMU and passes it on
    (setgid): so what is made here can be read by QEMU without a change of owners."""

    def __init__(self, instances: Path, fetch: Fetch) -> None:
        self._instances = instances
        self._base = instances / BASE
        self._fetch = fetch

    def prepare(self) -> None:
        """The directories are there; what former processes left in the middle of is gone."""
        _directory(self._base)
        self.remove_left()
        for path in self._base.glob("*.lock"):  # only now: nobody holds one
            path.unlink()

    def left(self) -> dict[str, float]:
        """Temporary files of processes before this one, below the directory, with their times."""
        found = {}
        for path in self._instances.glob(f"*/*{PART}"):
            with contextlib.suppress(FileNotFoundError):
                if path not in _writing:  # its time would not tell: a clock may be set back
                    found[str(path.relative_to(self._instances))] = path.stat().st_mtime
        return found

    def remove_left(self) -> None:
        """None of those is left."""
        for name in self.left():
            (self._instances / name).unlink(missing_ok=True)

    def total_gib(self) -> int:
        found = os.statvfs(self._instances)
        return found.f_blocks * found.f_frsize // GIB

    def directory(self, id: str) -> Path:
        return self._instances / id

    def base(self, image: BootImage) -> Path:
        return self._base / image.id

    def disk(self, id: str) -> Path:
        return self.directory(id) / "disk"

    def console(self, id: str) -> Path:
        return self.directory(id) / "console.log"

    @contextlib.contextmanager
    def cached(self, guest: Guest, check: Check) -> Iterator[None]:
        """The guest's images are in the cache, and stay there inside the block: until the
        overlay names its base, nothing else would tell `forget` that it is needed."""
        images = {image.id: image for image in (guest.kernel, guest.ramdisk) if image is not None}
        images[guest.image.id] = guest.image
        with contextlib.ExitStack() as locks:
            for _, image in sorted(images.items()):
                locks.enter_context(self._locked(image.id, check))
                self._ensure_base(image, check, is_disk=image is guest.image)
                check()
            yield

    def require(self, guest: Guest) -> None:
        """Final when the guest had a disk before and has none: the directory is not mounted, or
        the disk is lost.  An empty one in its place would pass for what it was."""
        if guest.has_disk and not self.disk(guest.id).exists():
            raise errors.DiskGone

    def ensure_overlay(self, guest: Guest) -> None:
        """The guest's disk is there, an empty overlay if it was not; only inside `cached`."""
        disk, base = self.disk(guest.id), self.base(guest.image)
        if disk.exists():
            return
        _directory(disk.parent)
        size = max(base.stat().st_size, guest.disk_gib * GIB)
        with _attempt(disk) as part:
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(base)]
            shell.run([*argv, str(part), str(size)])
            part.chmod(0o660)
            concurrency.blocking("files", _name, part, disk)

    def remove(self, id: str) -> None:
        """Nothing of the instance is on the disk."""
        if not UUID.fullmatch(id):
            raise ValueError(f"not an instance: {id}")
        concurrency.blocking("files", _remove_tree, self.directory(id))

    def set_aside(self, id: str) -> None:
        """The instance's files are in the trash; nothing else names them."""
        path = self.directory(id)
        if path.exists():
            trash = self._instances / TRASH
            _directory(trash)
            path.rename(trash / f"{id}.{time.time_ns()}")

    def empty_trash(self) -> None:
        """What was set aside more than a day ago is gone."""
        for path in (self._instances / TRASH).glob("*"):
            named = SET_ASIDE.fullmatch(path.name)  # what somebody else put there is theirs
            if named and time.time() - int(named[1]) / 1e9 > TRASH_S:
                concurrency.blocking("files", _remove_tree, path)

    def instances(self) -> set[str]:
        """Ids of which there is a directory."""
        return {entry.name for entry in os.scandir(self._instances) if UUID.fullmatch(entry.name)}

    def with_disk(self) -> set[str]:
        """Ids of which there is a root disk."""
        return {id for id in self.instances() if self.disk(id).exists()}

    def images(self) -> set[str]:
        """Ids of those in the cache."""
        return {entry.name for entry in os.scandir(self._base) if UUID.fullmatch(entry.name)}

    def forget(self, unused: Collection[str]) -> None:
        """These cached images, but for those under any disk, are gone."""
        for id in sorted(unused):
            with self._locked(id, _no_check):
                if id not in self._under_disks():
                    (self._base / id).unlink(missing_ok=True)

    def tail(self, id: str, max_bytes: int) -> bytes:
        """The last bytes of the console, of the log before its last rotation too."""
        return concurrency.blocking("files", _tails, self.console(id), max_bytes)

    # --- one image --------------------------------------------------------------------------

    def _ensure_base(self, image: BootImage, check: Check, *, is_disk: bool) -> None:
        base = self.base(image)
        if base.exists():
            found, whole = base.stat().st_size, image.virtual_size if is_disk else image.size
            if found >= whole:
                return
            LOG.error("image %s has %d bytes here, not %d: fetching it anew", base, found, whole)
        self._require_room(image)
        with _attempt(base) as part:
            self._fetch(image, part, check)
            check()
            if is_disk:
                concurrency.blocking("files", inspect, image, part)
                if image.format != "raw":
                    _convert(image, part)
                    check()
            part.chmod(0o640)
            concurrency.blocking("files", _name, part, base)

    def _require_room(self, image: BootImage) -> None:
        found = os.statvfs(self._base)
        free = found.f_bavail * found.f_frsize
        needed = image.size + (image.virtual_size if image.format != "raw" else 0)
        if needed > free:
            raise errors.Final(
                reason=f"The image {image.id} needs {needed / GIB:.1f} GiB of disk on this host,"
                f" {free / GIB:.1f} GiB are free"
            )

    def _under_disks(self) -> set[str]:
        disks = [*self._instances.glob("*/disk"), *self._instances.glob(f"{TRASH}/*/disk")]
        found = set()
        for disk in disks:
            with contextlib.suppress(FileNotFoundError):  # its guest was terminated meanwhile
                found.add(_backing(disk).name)
        return found

    @contextlib.contextmanager
    def _locked(self, image_id: str, check: Check) -> Iterator[None]:
        """Nobody else on this host makes, uses for an overlay or removes this image."""
        path = self._base / f"{image_id}.lock"
        while True:
            with path.open("a") as lock:
                if _lock(path, lock.fileno()):
                    try:
                        yield
                    finally:
                        path.unlink()
                    return
            check()
            concurrency.sleep(LOCK_POLL_S)


def inspect(image: BootImage, path: Path) -> None:
    """ImageBroken unless the file is what the image says, and names no other file of the host.

    A qcow2 may name a backing or a data file, and any tool that opens it would read that: so no
    tool of QEMU touches the file before this.
    """
    try:
        found = format_inspector.detect_file_format(str(path))
        if image.format == "raw":
            fine = found is None or str(found) in AS_RAW
        else:
            fine = found is not None and str(found) == image.format
        if found is None or not fine:
            raise errors.ImageBroken(id=image.id, reason=f"it is {found}, not {image.format}")
        if image.format != "raw":
            found.safety_check()
            _require_size(image, found.virtual_size)
    except (format_inspector.ImageFormatError, format_inspector.SafetyCheckFailed) as error:
        raise errors.ImageBroken(id=image.id, reason=str(error)) from error


def _require_size(image: BootImage, virtual_size: int) -> None:
    if virtual_size != image.virtual_size:
        raise errors.ImageBroken(
            id=image.id,
            reason=f"a guest would see {virtual_size} bytes, not {image.virtual_size}",
        )


def _convert(image: BootImage, part: Path) -> None:
    """`part` is raw, in its place."""
    with _attempt(part) as raw:
        argv = ["qemu-img", "convert", "-f", image.format, "-O", "raw", str(part), str(raw)]
        try:
            shell.run([*BOUNDED, *argv], timeout_s=CONVERT_S)
        except errors.CommandFailed as failed:
            raise _why_not_converted(image, failed) from failed
        raw.replace(part)


def _why_not_converted(image: BootImage, failed: errors.CommandFailed) -> errors.Error:
    if os.strerror(errno.ENOSPC) in failed.facts["stderr"]:
        return errors.Final(reason=f"This host has no room for image {image.id}")
    if failed.facts["status"] == 1:  # qemu-img's own refusal, not a signal or the time limit
        return errors.ImageBroken(id=image.id, reason=failed.facts["stderr"])
    return failed


@contextlib.contextmanager
def _attempt(path: Path) -> Iterator[Path]:
    """A name nobody else writes to; what is left under it is removed."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")
    _writing.add(part)
    try:
        yield part
    finally:
        part.unlink(missing_ok=True)
        _writing.discard(part)


def _name(part: Path, path: Path) -> None:
    """The complete `part` is called `path`, also after a power cut."""
    for each in (part, part.parent):
        file = os.open(each, os.O_RDONLY)
        try:
            os.fsync(file)
            if each == part:
                part.rename(path)
        finally:
            os.close(file)


def _directory(path: Path) -> None:
    """A directory of QEMU's group, which the directory above passes on."""
    path.mkdir(exist_ok=True)
    path.chmod(0o2750)


def _remove_tree(path: Path) -> None:
    def unless_gone(_function: object, _path: str, error: Any) -> None:
        if not isinstance(error[1], FileNotFoundError):
            raise error[1]

    shutil.rmtree(path, onerror=unless_gone)


def _lock(path: Path, file: int) -> bool:
    """Whether the lock was free and `path` still names this file."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(file).st_ino == path.stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _no_check() -> None:
    pass


def _backing(disk: Path) -> Path:
    """The file a qcow2 is an overlay of (QEMU, docs/interop/qcow2.txt): magic, version, offset
    and length of its name."""
    with disk.open("rb") as file:
        _magic, _version, offset, length = struct.unpack(">4sIQI", file.read(20))
        file.seek(offset)
        return Path(os.fsdecode(file.read(min(length, 1023))))


def _tails(path: Path, max_bytes: int) -> bytes:
    text = _tail(path, max_bytes)
    if len(text) < max_bytes:
        text = _tail(path.with_name(path.name + ".0"), max_bytes - len(text)) + text
    return text


def _tail(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - max_bytes))
            return file.read(max_bytes)
    except FileNotFoundError:
        return b""
