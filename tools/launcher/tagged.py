"""Everything of a cloud on this host, found by its tag: listed, and taken away.

Nothing here needs the cloud to be up, and nothing without the tag is touched.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from launcher import alive, host, mounts, ways
from launcher.report import Failure
from launcher.state import Cloud

NAMESPACES = Path("/run/netns")
CGROUPS = Path("/sys/fs/cgroup")
POLITE_S = 10.0


@dataclasses.dataclass(frozen=True)
class Thing:
    """One thing with the tag: its kind and its name, as `scrub --list` prints them."""

    kind: str
    name: str


def everything(cloud: Cloud) -> list[Thing]:
    """What a scrub would take away, in the order in which it does."""
    found = [
        Thing("process", f"{pid} {' '.join(alive.command_line(pid))[:200]}")
        for pid, _ in mounts.processes(cloud.tag)
    ]
    found += [Thing("way", str(directory)) for directory in ways.opened(cloud)]
    if not (cloud.variables.real or cloud.variables.lab):
        return found  # the host's network is not looked at
    found += [Thing("domain", name) for name in sorted({f.stem for f in _domain_files(cloud)})]
    found += [Thing("namespace", name) for name in _namespaces(cloud.tag)]
    found += [Thing("link", name) for name in _links(cloud.tag)]
    found += [Thing("table", f"{family} {name}") for family, name in _tables(cloud.tag)]
    found += [Thing("mount", str(path)) for path in _mounts(cloud)]
    found += [Thing("cgroup", str(path)) for path in _cgroups(cloud.tag)]
    return found + [Thing("setting", name) for name in host.held(cloud.tag)]


def remove(cloud: Cloud) -> None:
    """Nothing with the tag is left on the host; Failure names what would not go."""
    _end_processes(cloud.tag)
    if cloud.variables.real or cloud.variables.lab:
        for file in _domain_files(cloud):
            file.unlink(missing_ok=True)
        _remove_network(cloud.tag)
        for path in _mounts(cloud):
            _run("umount", "--lazy", str(path))
        for path in _cgroups(cloud.tag):
            with contextlib.suppress(OSError):
                path.rmdir()
        host.restore(cloud)
    ways.close(cloud)
    left = everything(cloud)
    if left:
        names = "\n".join(f"  {thing.kind} {thing.name}" for thing in left)
        raise Failure(f"this would not go away:\n{names}", "run scrub again")


def guests(cloud: Cloud) -> int:
    """How many virtual machines of this cloud run."""
    names = (alive.command_line(pid)[:1] for pid, _ in mounts.processes(cloud.tag))
    return sum("qemu-system" in words[0] for words in names if words)


def _end_processes(tag: str) -> None:
    """Guests are killed, everything else is asked first; what they start meanwhile goes too."""
    for _ in range(5):
        found = [pid for pid, _ in mounts.processes(tag)]
        if not found:
            return
        with concurrent.futures.ThreadPoolExecutor(max_workers=16) as pool:
            list(pool.map(_end, found))


def _end(pid: int) -> None:
    qemu = "qemu-system" in "".join(alive.command_line(pid)[:1])
    alive.end(pid, 0.0 if qemu else POLITE_S)


def _remove_network(tag: str) -> None:
    for name in _namespaces(tag):
        _run("ip", "netns", "delete", name)
    for name in _links(tag):
        _run("ip", "link", "delete", name)
    for family, name in _tables(tag):
        _run("nft", "delete", "table", family, name)


def _namespaces(tag: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(name for name in os.listdir(NAMESPACES) if _ours(tag, name))
    return []


def _links(tag: str) -> list[str]:
    links = json.loads(_run("ip", "-j", "link", "show") or "[]")
    return [link["ifname"] for link in links if link and _ours(tag, link["ifname"])]


def _tables(tag: str) -> list[tuple[str, str]]:
    listed = json.loads(_run("nft", "-j", "list", "tables") or "{}").get("nftables", [])
    tables = [entry["table"] for entry in listed if "table" in entry]
    return [(table["family"], table["name"]) for table in tables if _ours(tag, table["name"])]


def _ours(tag: str, name: str) -> bool:
    """Every artefact is called `mc-TAG-…` (minicloud/wiring)."""
    return name.startswith(f"mc-{tag}-")


def _domain_files(cloud: Cloud) -> list[Path]:
    """What libvirtd would know its guests by at its next start."""
    places = ("libvirt/run/qemu", "libvirt/etc/qemu")
    return sorted(
        file
        for place in places
        for file in (cloud.state.path / place).glob(f"mc-{cloud.tag}-*")
        if file.is_file()
    )


def _mounts(cloud: Cloud) -> list[Path]:
    """Mounts below the state directory, the deepest first; field 5 of proc(5) mountinfo."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    inside = [Path(point) for point in points if point.startswith(f"{cloud.state.path}/")]
    return sorted(inside, key=lambda path: -len(path.parts))


def _cgroups(tag: str) -> list[Path]:
    """Groups libvirt made for guests and had no time to remove, the deepest first."""
    return sorted(_walk(CGROUPS, f"mc\\x2d{tag}\\x2d", f"mc-{tag}-"), key=lambda p: -len(p.parts))


def _walk(top: Path, *words: str) -> Iterator[Path]:
    for directory, names, _ in os.walk(top):
        for name in names:
            if any(word in name for word in words):
                inner = Path(directory, name)
                yield from (Path(path) for path, _, _ in os.walk(inner))


def _run(*argv: str) -> str:
    """What the tool says; a tool that is not installed finds nothing."""
    if shutil.which(argv[0]) is None:
        return ""
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout if done.returncode == 0 else ""
