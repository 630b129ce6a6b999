"""Debian packages: those that are missing are there, and no service of theirs runs or will run.

`invoke-rc.d` asks /usr/sbin/policy-rc.d before it starts anything: while packages are installed
ours says no (Debian policy-rc.d specification).  What the packages enabled for the next boot is
disabled afterwards.  Both are written down first, so that an interrupted install is finished by
the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from launcher import files
from launcher.report import Failure, Refused, say
from minicloud import processes

HOME = Path("/opt/minicloud")  # what installs share: their lock, their journal, the venvs
JOURNAL = HOME / "installing.json"
POLICY = Path("/usr/sbin/policy-rc.d")
SAVED = POLICY.with_name("policy-rc.d.before-minicloud")
NO = "#!/bin/sh\n# minicloud: nothing is started while its packages are installed\nexit 101\n"

BASE = (
    "acl",
    "ca-certificates",
    "iproute2",
    "openssh-client",
    "passwd",
    "python3-venv",
    "rabbitmq-server",
    "util-linux",
)
REAL = (  # CONNECTION_TYPE=libvirt
    "busybox-static",
    "conntrack",
    "cpio",
    "dnsmasq-base",
    "e2fsprogs",
    "iputils-arping",
    "libvirt-clients",
    "libvirt-daemon-system",
    "lz4",
    "nftables",
    "python3-libvirt",
    "qemu-block-extra",
    "qemu-system-x86",
    "qemu-utils",
    "tgt",
)
DATABASE = ("mariadb-server",)
# cloud-init for its ds-identify, faketime for its library, systemd for systemd-analyze
TESTS = (*REAL, *DATABASE, "postgresql", "cloud-init", "faketime", "iputils-ping", "systemd")

UNIT_TYPES = (".service", ".socket", ".timer", ".path", ".target")


def missing(names: Iterable[str]) -> list[str]:
    """Those of `names` that are not installed, in order."""
    installed = _installed()
    return sorted(name for name in set(names) if name not in installed)


def install(names: Iterable[str]) -> None:
    """All of `names` are installed, each new package printed; their services are off.

    Refused when something is missing and the caller is not root.  Repeating changes nothing.
    """
    if not missing(names) and not JOURNAL.exists():
        return
    if os.geteuid() != 0:
        raise Refused(
            "Debian packages are missing: " + " ".join(missing(names)),
            "run as root: apt-get install --no-install-recommends " + " ".join(missing(names)),
        )
    with alone():
        _finish_interrupted()
        wanted = missing(names)
        if wanted:
            _install(wanted)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """No other install runs on this machine meanwhile."""
    HOME.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(HOME, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _install(wanted: list[str]) -> None:
    say("installing Debian packages: " + " ".join(wanted))
    before = _installed()
    files.write(JOURNAL, json.dumps(before), 0o644)
    try:
        _forbid_starts()
        if _apt("install", *wanted, check=False) != 0:
            _apt("update")
            _apt("install", *wanted)
        _settle(before)
    finally:  # whatever happened, the machine's policy is its own; the journal says what is left
        _allow_starts()


def _finish_interrupted() -> None:
    """What an install that was killed left half done is done."""
    if not JOURNAL.exists():
        return
    say("finishing an install of Debian packages that was interrupted")
    try:
        _forbid_starts()
        _run(["dpkg", "--configure", "-a"])
        _settle(json.loads(JOURNAL.read_text()))
    finally:
        _allow_starts()


def _settle(before: dict[str, str]) -> None:
    """The new packages are printed and their units are off; nothing is left to be finished."""
    new = {name: version for name, version in _installed().items() if name not in before}
    for name, version in sorted(new.items()):
        say(f"installed Debian package {name} {version}")
    _disable(new)
    JOURNAL.unlink()


def _forbid_starts() -> None:
    if POLICY.exists() and POLICY.read_text() != NO:
        os.rename(POLICY, SAVED)
    files.write(POLICY, NO, 0o755)


def _allow_starts() -> None:
    if POLICY.exists() and POLICY.read_text() == NO:
        POLICY.unlink()
    if SAVED.exists():
        os.rename(SAVED, POLICY)


def _disable(new: Iterable[str]) -> None:
    """No unit that these packages brought runs or is enabled."""
    units = sorted({unit for name in new for unit in _units(name)})
    if not units:
        return
    say("switching off what they would start: " + " ".join(units))
    now = ["--now"] if Path("/run/systemd/system").is_dir() else []
    # on a machine without systemd, Debian's helper undoes what the packages' scripts asked of it
    systemctl = ["systemctl", "--quiet", "disable", *now]
    helper = ["env", f"DPKG_MAINTSCRIPT_PACKAGE={processes.USER}", "deb-systemd-helper", "disable"]
    disable = systemctl if shutil.which("systemctl") else helper
    for unit in units:  # one by one: a template or a static unit must not keep the others on
        _run([*disable, unit], check=False)


def _units(package: str) -> list[str]:
    listed = _run(["dpkg", "-L", package], check=False)
    paths = [Path(line) for line in listed.splitlines()]
    return [
        path.name
        for path in paths
        if path.parent.name == "system"
        and path.parent.parent.name == "systemd"
        and path.suffix in UNIT_TYPES
        and not path.stem.endswith("@")
    ]


def _installed() -> dict[str, str]:
    listed = _run(["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package} ${Version}\n"])
    rows = [line.split(" ") for line in listed.splitlines()]
    return {row[1]: row[2] for row in rows if row[0] == "installed"}


def _apt(command: str, *names: str, check: bool = True) -> int:
    argv = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "-q", command]
    if command == "install":
        argv += ["-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-confold"]
    apt = subprocess.Popen(
        [*argv, *names],
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = apt.communicate()
    except KeyboardInterrupt:  # it has got the same signal and ends between two packages
        apt.communicate()
        raise
    if check and apt.returncode != 0:
        last = "\n".join(output.splitlines()[-10:])
        raise Failure(
            f"apt-get {command} ended with {apt.returncode}:\n{last}",
            "see that apt-get works, then run this command again",
        )
    return apt.returncode


def _run(argv: list[str], *, check: bool = True) -> str:
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise Failure(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout
