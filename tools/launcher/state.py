"""The state directory of a cloud: where everything of it is, its tag, and the one lock."""

from __future__ import annotations

import configparser
import contextlib
import dataclasses
import fcntl
import os
import secrets
import string
from collections.abc import Iterator
from pathlib import Path

from launcher import files, variables
from launcher.report import Refused, say

MADE_HERE = ".minicloud"  # in a directory outside of the state directory that was made for it


@dataclasses.dataclass(frozen=True)
class State:
    """Paths only; nothing is read or made by naming them."""

    path: Path

    @property
    def conf(self) -> Path:
        return self.path / "minicloud.conf"

    @property
    def novarc(self) -> Path:
        return self.path / "novarc"

    @property
    def private_key(self) -> Path:
        return self.path / "admin.pem"

    @property
    def first_instance(self) -> Path:
        return self.path / "first_instance.json"

    @property
    def variables(self) -> Path:
        return self.path / "variables.json"

    @property
    def images(self) -> Path:
        return self.path / "images"

    @property
    def volumes(self) -> Path:
        return self.path / "volumes"

    @property
    def database(self) -> Path:
        return self.path / "database" / "minicloud.sqlite"

    @property
    def rabbitmq(self) -> Path:
        return self.path / "rabbitmq"

    @property
    def mariadb(self) -> Path:
        return self.path / "mariadb"

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.log"

    def pid(self, name: str) -> Path:
        return self.path / "run" / f"{name}.pid"

    def ready(self, name: str) -> Path:
        """Holds the pid that said it was ready."""
        return self.path / "run" / f"{name}.ready"

    def notify(self, name: str) -> Path:
        """The socket on which it says so."""
        return self.path / "run" / f"{name}.notify"


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A cloud that was made: its state directory, tag, variables and configuration."""

    state: State
    tag: str
    variables: variables.Variables
    conf: configparser.RawConfigParser

    def option(self, group: str, name: str) -> str:
        """What minicloud.conf says, "" where it says nothing."""
        return self.conf.get(group, name, fallback="")


def cloud(state: State, asked: dict[str, str]) -> Cloud | None:
    """The cloud in `state`, None when none was made; Refused when `asked` contradicts it."""
    kept = variables.read(state.variables)
    if kept is None or not state.conf.exists():
        return None
    values = variables.merged(kept, asked)
    conf = configparser.RawConfigParser(strict=False)
    try:
        conf.read(state.conf)
        tag = conf.get("DEFAULT", "tag")
    except (configparser.Error, OSError) as error:
        reason = str(error).splitlines()[0]
        raise Refused(f"{state.conf} cannot be read: {reason}", "put the file right") from error
    return Cloud(state, tag, variables.parsed(values), conf)


@contextlib.contextmanager
def locked(state: State) -> Iterator[None]:
    """Only this command works on the cloud; another one is waited for.  Makes the directory.

    The lock is on the directory itself: it ends with the process, however that dies, and leaves
    no file behind.
    """
    descriptor = _lock_directory(state)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock_directory(state: State) -> int:
    while True:
        state.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        descriptor = os.open(state.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another command that works on {state.path}")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # a scrub --all may have been first
            if os.path.samestat(os.fstat(descriptor), os.stat(state.path)):
                return descriptor
        os.close(descriptor)


def draw_tag(taken: str) -> str:
    """Four letters or digits that do not occur in `taken`.

    The first is no hexadecimal digit, so that a tag is never found inside an id.
    """
    while True:
        rest = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(3))
        tag = secrets.choice("ghjkmnpqrstvwxyz") + rest
        if tag not in taken:
            return tag


def lay_out(state: State, values: variables.Variables) -> None:
    """Every directory is there with its owner; repeating changes nothing.

    The state directory, `run` and `logs` are root's, so that no daemon can replace what root
    reads or writes there.  A directory outside of it that exists is left as it is.
    """
    uid, gid = files.owner()
    files.directory(state.path, 0o755)
    files.directory(state.path / "run", 0o755)
    files.directory(state.path / "logs", 0o755)
    own = (state.database.parent, state.images, state.volumes, state.rabbitmq, state.path / "lib")
    for path in own:
        files.directory(path, 0o750, uid=uid, gid=gid)
    # QEMU's own user passes through `instances` to the disks
    for place, mode in ((values.lock_path, 0o750), (values.instances_path, 0o751)):
        if not os.path.exists(place):
            files.directory(Path(place), mode, uid=uid, gid=gid)
            if not Path(place).is_relative_to(state.path):
                files.write(Path(place) / MADE_HERE, "", 0o600)
