"""What a cloud changes in the host's kernel settings, and that it is put back.

Several clouds may need the same setting: a register under /run, one per network namespace, holds
what it was before the first of them and who needs it; the last one to be scrubbed puts it back.
/run is emptied by a reboot, as the settings are.  It also holds the clouds' ranges of addresses,
so that a new cloud does not take the range of one that is down.
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launcher import files
from launcher.ranges import Met
from launcher.report import Failure, say
from launcher.state import Cloud, State

REGISTER = Path("/run/minicloud")
RESOLV_CONF = Path("/etc/resolv.conf")
WANTED = {
    "net.ipv4.ip_forward": "1",
    # frames between two guests of one bridge pass the security groups (br_netfilter)
    "net.bridge.bridge-nf-call-iptables": "1",
}


def prepare(cloud: Cloud) -> None:
    """The settings guests need are made, what they were is written down first."""
    claim_range(cloud, cloud.variables.fixed_range)
    with _register() as register:
        for name, value in WANTED.items():
            _want(register, cloud, name, value)


def claim_range(cloud: Cloud, cidr: str) -> None:
    """No other cloud takes this range of addresses as long as this one is there."""
    with _register() as register:
        register["clouds"][cloud.tag] = {"state": str(cloud.state.path), "range": cidr}


def restore(cloud: Cloud) -> None:
    """This cloud needs nothing of the host any more; repeating changes nothing."""
    if not _path().exists():
        return
    with _register() as register:
        register["clouds"].pop(cloud.tag, None)
        for name, setting in list(register["settings"].items()):
            if cloud.tag in setting["for"]:
                setting["for"].remove(cloud.tag)
            if not setting["for"]:
                if _read(name) == WANTED.get(name):
                    say(f"putting back {name} = {setting['before']}")
                    _write(name, setting["before"])
                del register["settings"][name]


def held(tag: str) -> list[str]:
    """The settings that were changed for this cloud."""
    if not _path().exists():
        return []
    settings = _load(_path())["settings"]
    return [name for name, setting in settings.items() if tag in setting["for"]]


def ranges_of_other_clouds() -> Met:
    """What the clouds of this network namespace were made with; they may be down just now."""
    found: Met = {}
    if _path().exists():
        for tag, entry in _load(_path())["clouds"].items():
            if State(Path(entry["state"])).conf.exists() and entry["range"]:
                network = ipaddress.IPv4Network(entry["range"])
                found[network] = f"the range of the cloud {tag} in {entry['state']}"
    return found


def name_servers() -> list[str]:
    """The host's own, where a guest can reach them too: by IPv4, and not on the host itself."""
    try:
        lines = RESOLV_CONF.read_text().splitlines()
    except OSError:
        return []
    words = [line.split()[1] for line in lines if line.startswith("nameserver ")]
    return [word for word in words if ":" not in word and not word.startswith("127.")][:3]


def _want(register: dict[str, Any], cloud: Cloud, name: str, value: str) -> None:
    before = _read(name)
    if before is None and name.startswith("net.bridge."):
        subprocess.run(["modprobe", "br_netfilter"], capture_output=True, check=False)
        before = _read(name)
    if before is None:
        raise Failure(f"this kernel has no {name}", "load the module br_netfilter")
    setting = register["settings"].get(name)
    if setting is None:
        if before == value:
            return
        setting = register["settings"][name] = {"before": before, "for": []}
    if cloud.tag not in setting["for"]:
        setting["for"].append(cloud.tag)
    _save(register)  # first what it was, then the change
    if before != value:
        say(f"setting {name} = {value} (it was {before}; scrub puts it back)")
        _write(name, value)


def _path() -> Path:
    return REGISTER / f"host-{os.stat('/proc/self/ns/net').st_ino}.json"


@contextlib.contextmanager
def _register() -> Iterator[dict[str, Any]]:
    """The register, only ours meanwhile, saved at the end."""
    REGISTER.mkdir(mode=0o755, exist_ok=True)
    descriptor = os.open(REGISTER, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        register = _load(_path())
        _forget_dead(register)
        yield register
        _save(register)
    finally:
        os.close(descriptor)


def _forget_dead(register: dict[str, Any]) -> None:
    """Clouds whose state directory was removed by hand need nothing any more."""
    for tag, entry in list(register["clouds"].items()):
        if not State(Path(entry["state"])).conf.exists():
            del register["clouds"][tag]
            for setting in register["settings"].values():
                if tag in setting["for"]:
                    setting["for"].remove(tag)


def _load(path: Path) -> dict[str, Any]:
    try:
        register: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {"clouds": {}, "settings": {}}
    return register


def _save(register: dict[str, Any]) -> None:
    if register["clouds"] or register["settings"]:
        files.write(_path(), json.dumps(register, indent=1), 0o644)
    else:
        _path().unlink(missing_ok=True)


def _read(name: str) -> str | None:
    with contextlib.suppress(OSError):
        return _file(name).read_text().strip()
    return None


def _write(name: str, value: str) -> None:
    try:
        _file(name).write_text(value)
    except OSError as error:
        raise Failure(f"{name} cannot be set to {value}: {error.strerror}") from error


def _file(name: str) -> Path:
    return Path("/proc/sys", *name.split("."))
