"""Tools and the daemons that run them: a tool dies with its daemon, and holds nothing of it."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import pytest

from minicloud import errors, shell
from tests.integration.running import TOP, wait

DAEMON = """
    import sys
    from oslo_config import cfg
    from minicloud import daemon, shell
    {patch}
    cfg.CONF([], project="minicloud", default_config_files=[])
    lock = daemon.hold_lock("h1-compute", {path!r})
    {run}
"""
PATCH = "from minicloud import concurrency; concurrency.patch()"
# every call that a daemon makes: from a green thread, and from a native one that blocks in C
WAYS = {
    "green": (PATCH, "shell.run({argv!r})"),
    "native": (PATCH, "concurrency.blocking('files', shell.run, {argv!r})"),
    "unpatched": ("", "shell.run({argv!r})"),
}


class Daemon:
    """A process that holds a lock and waits for a tool of its own: `tool` is the tool's pid."""

    def __init__(self, path: pathlib.Path, patch: str, run: str) -> None:
        self.mark = path / "tool"
        script = f"echo $$ > {self.mark}.new; mv {self.mark}.new {self.mark}; exec sleep 1000"
        call = run.format(argv=["sh", "-c", script])
        text = textwrap.dedent(DAEMON).format(patch=patch, path=str(path), run=call)
        self.process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", text], cwd=TOP)
        wait(self.mark.exists, what="the tool runs")
        self.tool = int(self.mark.read_text())


def runs(pid: int) -> bool:
    """It has not ended; one that nobody has waited for has."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture(params=sorted(WAYS))
def begun(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path, *WAYS[request.param])
    yield made
    made.process.kill()
    made.process.wait()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_tool_dies_with_the_daemon_that_runs_it(begun: Daemon, number: int) -> None:
    assert runs(begun.tool)
    os.kill(begun.process.pid, number)
    begun.process.wait()
    wait(lambda: not runs(begun.tool), what="the tool is dead too")


def test_a_tool_does_not_hold_its_daemons_lock(begun: Daemon, tmp_path: pathlib.Path) -> None:
    lock = os.stat(tmp_path / "h1-compute.lock")
    descriptors = pathlib.Path(f"/proc/{begun.tool}/fd").iterdir()
    held = [os.stat(one) for one in descriptors if one.exists()]
    assert (lock.st_dev, lock.st_ino) not in [(one.st_dev, one.st_ino) for one in held]


def test_a_tool_that_takes_too_long_is_dead_when_that_is_said(tmp_path: pathlib.Path) -> None:
    mark = tmp_path / "tool"
    with pytest.raises(errors.CommandFailed, match="no end in time"):
        shell.run(["sh", "-c", f"echo $$ > {mark}; exec sleep 1000"], timeout_s=1)
    assert not runs(int(mark.read_text()))
