"""A pid file means the process that wrote it, and never another one with that number."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from launcher import alive

MARKS = {alive.TAG: "test", alive.NAME: "api"}


@pytest.fixture
def process(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=MARKS,
    )
    assert child.stdout is not None
    child.stdout.readline()
    (tmp_path / "api.pid").write_text(f"{child.pid}\n")
    yield child
    child.kill()
    child.communicate()


def test_our_process_is_found(process, tmp_path):
    assert alive.pid_of(tmp_path / "api.pid", "test", "api") == process.pid


def test_another_clouds_process_is_not_ours(process, tmp_path):
    assert alive.pid_of(tmp_path / "api.pid", "went", "api") is None
    assert alive.pid_of(tmp_path / "api.pid", "test", "compute") is None


def test_a_process_younger_than_the_file_is_a_stranger(process, tmp_path):
    old = (tmp_path / "api.pid").stat().st_mtime - 3600
    os.utime(tmp_path / "api.pid", (old, old))
    assert alive.pid_of(tmp_path / "api.pid", "test", "api") is None


def test_a_dead_process_is_down_though_nobody_waited_for_it(process, tmp_path):
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert alive.pid_of(tmp_path / "api.pid", "test", "api") is None


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "99999999999"])
def test_a_file_without_a_living_pid_is_down(tmp_path, text):
    (tmp_path / "api.pid").write_text(text)
    assert alive.pid_of(tmp_path / "api.pid", "test", "api") is None


def test_no_file_is_down(tmp_path):
    assert alive.pid_of(tmp_path / "api.pid", "test", "api") is None


def test_an_asked_process_ends(process):
    assert alive.end(process.pid, 5.0)
    assert process.wait(5) == -15


def test_a_process_that_is_stopped_ends_too(process):
    os.kill(process.pid, 19)
    assert alive.end(process.pid, 5.0)
