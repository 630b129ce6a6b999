"""What the start of libvirtd forgets before it begins, and above all what it does not."""

from __future__ import annotations

import os
import pathlib
import subprocess

import pytest

from minicloud.servants import libvirtd

NOTE = """\
<domstatus state='{state}' reason='{reason}' pid='{pid}'>
  <libDir path='/var/lib/libvirt/qemu/domain-{number}-{name}'/>
</domstatus>
"""


@pytest.fixture
def home(tmp_path: pathlib.Path) -> pathlib.Path:
    for place in ("run", "var"):
        (tmp_path / place / "qemu").mkdir(parents=True)
    return tmp_path


def note(home: pathlib.Path, number: int, name: str, state: str, reason: str, pid: int) -> None:
    text = NOTE.format(state=state, reason=reason, pid=pid, number=number, name=name)
    (home / "run/qemu" / f"{name}.xml").write_text(text)
    (home / "var/qemu" / f"domain-{number}-{name}").mkdir()


def forget(home: pathlib.Path) -> set[str]:
    subprocess.run(["sh", "-e", "-c", libvirtd.FORGET_SCRIPT], cwd=home, check=True)
    return {path.name for place in ("run", "var") for path in (home / place / "qemu").iterdir()}


def test_a_running_guest_keeps_its_note_and_its_directory(home: pathlib.Path) -> None:
    note(home, 1, "mc-test-i-1", "running", "booted", os.getpid())
    note(home, 12, "mc-test-i-2", "paused", "starting up", os.getpid())
    assert forget(home) == {
        "mc-test-i-1.xml",
        "domain-1-mc-test-i-1",
        "mc-test-i-2.xml",
        "domain-12-mc-test-i-2",
    }


def test_a_guest_that_never_had_a_process_is_forgotten(home: pathlib.Path) -> None:
    note(home, 1, "mc-test-i-1", "paused", "starting up", 0)
    assert forget(home) == set()


def test_a_process_of_somebody_else_is_not_killed(home: pathlib.Path) -> None:
    note(home, 1, "mc-test-i-1", "paused", "starting up", 0)
    with subprocess.Popen(["sleep", "60"]) as other:
        (home / "run/qemu/mc-test-i-1.pid").write_text(str(other.pid))
        assert forget(home) == set()
        assert other.poll() is None
        other.kill()


def test_the_directory_of_a_guest_that_is_gone_goes_too(home: pathlib.Path) -> None:
    (home / "var/qemu/domain-3-mc-test-i-3").mkdir()
    (home / "var/qemu/save").mkdir()
    assert forget(home) == {"save"}


def test_an_empty_host_is_no_error(home: pathlib.Path) -> None:
    assert forget(home) == set()
