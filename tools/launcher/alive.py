"""Which process a pid file means: never a stranger to whom the kernel gave the number again."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

TAG = "MINICLOUD_TAG"
NAME = "MINICLOUD_PROCESS"
_TICKS = os.sysconf("SC_CLK_TCK")


def environment(pid: int) -> dict[str, str]:
    """What the process was started with; empty when it is gone or not ours to read."""
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    pairs = (item.split("=", 1) for item in raw.decode(errors="replace").split("\0"))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def command_line(pid: int) -> list[str]:
    """The words of its command line; empty for a zombie, a kernel thread or nothing."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return [word.decode(errors="replace") for word in raw.rstrip(b"\0").split(b"\0") if word]


def living(pid: int) -> bool:
    """True when there is such a process and it is no zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in ("Z", "X")


def pid_of(file: Path, tag: str, name: str) -> int | None:
    """The living process that wrote `file` when it began as `name` of the cloud `tag`."""
    try:
        written = file.stat().st_mtime
        pid = int(file.read_text())
    except (OSError, ValueError):
        return None
    fields = _stat(pid)
    if not fields or fields[0] in ("Z", "X"):
        return None
    # field 22 of proc(5): ticks after boot; the file was written after the process began
    with contextlib.suppress(OSError):
        began = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + int(fields[19]) / _TICKS
        if began > written + 2.0:
            return None
    started = environment(pid)
    return pid if (started.get(TAG), started.get(NAME)) == (tag, name) else None


def is_stopped(pid: int) -> bool:
    """True when a signal keeps the process from running."""
    return _stat(pid)[:1] in (["T"], ["t"])


def tell(pid: int, number: signal.Signals) -> None:
    """Send a signal; nothing happens when the process is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def end(pid: int, polite_s: float) -> bool:
    """The process is gone; False when it had to be killed after `polite_s` seconds.

    The descriptor is taken first: the signals cannot reach a process that got the number later.
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        for number in (signal.SIGTERM, signal.SIGCONT):  # a stopped process takes it, too
            signal.pidfd_send_signal(descriptor, number)
        if _ended(descriptor, polite_s):
            return True
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        _ended(descriptor, 10.0)
        return False
    except ProcessLookupError:
        return True
    finally:
        os.close(descriptor)


def _ended(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def _stat(pid: int) -> list[str]:
    """The fields after the program's name, which may itself hold spaces and brackets."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()
