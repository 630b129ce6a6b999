"""The mount namespace the processes of a cloud share.

`ip netns exec` gives every command a mount namespace of its own, and what `ip netns add` mounts
in one is not seen in the next: a network daemon that is started again must find the namespaces
of the one before.  So what is started joins the mount namespace of what still runs.
"""

from __future__ import annotations

import os

from launcher import alive

ELSEWHERE = ("libvirtd", "virtlogd")  # these have mount namespaces of their own


def join(tag: str) -> list[str]:
    """The words before a command line that let it see the mounts of the cloud's processes."""
    if os.geteuid() != 0:
        return []
    mine = os.readlink("/proc/self/ns/mnt")
    for pid, name in processes(tag):
        if name in ELSEWHERE or not name:
            continue
        try:
            theirs = os.readlink(f"/proc/{pid}/ns/mnt")
        except OSError:
            continue
        return [] if theirs == mine else ["nsenter", f"--mount=/proc/{pid}/ns/mnt", "--"]
    return []


def processes(tag: str) -> list[tuple[int, str]]:
    """Every living process with the tag, and as what the launcher began it (its ancestor)."""
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        started = alive.environment(pid)
        if started.get(alive.TAG) == tag and alive.living(pid) and pid != os.getpid():
            found.append((pid, started.get(alive.NAME, "")))
    return found
