"""The state directory of an embedded cloud: its configuration, where everything lies in it.

`minicloud.conf` is written at every start, for `minicloud-manage` too; of the one before it keeps
what makes the cloud this cloud.  Options of one's own go into `local.conf`, which is read after.
"""

from __future__ import annotations

import base64
import configparser
import dataclasses
import os
import pathlib
import re
import secrets
import string

from minicloud import daemon, errors

HEAD = """\
# An embedded minicloud, written at each start of minicloud-all.
# Options of your own belong in local.conf beside this file; all there are, with their meaning:
# etc/minicloud.conf.sample
"""
ADDRESS = "127.0.0.1"
PORTS = {  # (group, option) → its port before the offset
    ("api", "ec2_port"): 8773,
    ("objectstore", "port"): 3333,
    ("openstack", "identity_port"): 5000,
    ("openstack", "compute_port"): 8774,
    ("openstack", "image_port"): 9292,
}
HIGHEST_OFFSET = 65535 - max(PORTS.values())


@dataclasses.dataclass(frozen=True)
class Home:
    """Paths only; nothing is read or made by naming them."""

    path: pathlib.Path

    @property
    def conf(self) -> pathlib.Path:
        return self.path / "minicloud.conf"

    @property
    def local(self) -> pathlib.Path:
        return self.path / "local.conf"

    @property
    def novarc(self) -> pathlib.Path:
        return self.path / "novarc"

    @property
    def log(self) -> pathlib.Path:
        return self.path / "minicloud.log"

    @property
    def machine_id(self) -> pathlib.Path:
        return self.path / "machine-id"

    @property
    def run(self) -> pathlib.Path:
        return self.path / "run"

    @property
    def instances(self) -> pathlib.Path:
        return self.path / "instances"


def default() -> pathlib.Path:
    """~/.local/state/minicloud, or where XDG_STATE_HOME says (XDG base directory spec 0.8)."""
    base = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return pathlib.Path(base, "minicloud")


def claim(home: Home) -> None:
    """The directory is there, and only its owner may look into it; repeating changes nothing.

    ValueError when it is something else's, or another kind of cloud's, or its name has what URLs
    and oslo.config give a meaning.
    """
    if re.search(r"[?#%$\x00-\x1f\x7f]", str(home.path)):
        raise ValueError(f"{str(home.path)!r} has a character that a state directory cannot have")
    if home.path.exists() and os.listdir(home.path) and not _is_ours(home):
        raise ValueError(f"{home.path} is not empty and no embedded cloud's")
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)


def _is_ours(home: Home) -> bool:
    if home.conf.exists():
        return _kept(home).has_option("embedded", "hosts")
    # what a start leaves that was killed before it had written anything, and what was prepared
    return set(os.listdir(home.path)) <= {home.run.name, home.local.name}


def hosts(home: Home) -> int:
    """How many hosts the cloud had at its last start; 0 for a new one."""
    return _kept(home).getint("embedded", "hosts", fallback=0)


def write(home: Home, offset: int, count: int) -> None:
    """minicloud.conf is there and only its owner may read it; tag and key are kept."""
    groups = _groups(home, _kept(home), offset, count)
    text = HEAD + "".join(
        f"\n[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
        for group, options in groups.items()
    )
    _replace(home.conf, text)
    if not home.machine_id.exists():
        _replace(home.machine_id, _machine_id() + "\n")


def _machine_id() -> str:
    """What tells the cloud's one machine from others, from its first start on: the directory may
    move, and a container often has no /etc/machine-id.  Clouds made before this file have that."""
    try:
        return daemon.machine_id()
    except errors.Conflict:
        return secrets.token_hex(16)


def _kept(home: Home) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(strict=False, default_section="no default section")
    try:
        parser.read(home.conf)
    except configparser.Error as error:
        raise ValueError(f"{home.conf} cannot be read: {str(error).splitlines()[0]}") from error
    return parser


def _groups(
    home: Home, kept: configparser.RawConfigParser, offset: int, count: int
) -> dict[str, dict[str, str | int]]:
    path = home.path
    key = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return {
        "DEFAULT": {
            "tag": kept.get("DEFAULT", "tag", fallback=_new_tag()),
            "host": "host1",
            "zone": "nova",
            "region": "nova",
            "my_ip": ADDRESS,
            "state_path": str(path),
            "lock_path": f"{path}/run",
            "secret_key": kept.get("DEFAULT", "secret_key", fallback=key),
        },
        "daemon": {"machine_id_file": str(home.machine_id)},
        "database": {"connection": f"sqlite:///{path}/minicloud.sqlite"},
        "rpc": {"transport_url": "local://"},
        "compute": {"connection_type": "simulated", "instances_path": f"{path}/instances"},
        "network": {"connection_type": "simulated"},
        **_ports(offset),
        "embedded": {"hosts": count},
    }


def _ports(offset: int) -> dict[str, dict[str, str | int]]:
    groups: dict[str, dict[str, str | int]] = {}
    for (group, option), port in PORTS.items():
        groups.setdefault(group, {})[option] = port + offset
    return groups


def _new_tag() -> str:
    return "e" + "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(3))


def _replace(path: pathlib.Path, text: str) -> None:
    """`path` holds `text`, whatever dies when."""
    part = path.parent / "run" / f"{path.name}.part"  # whoever writes holds the cloud's lock
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    part.replace(path)
