"""What a driver says when what it needs on its host is not there: who asked waits, or fails."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest

from minicloud import errors, shell
from minicloud.volume.tgt import Tgt


def test_without_a_libvirtd_its_daemon_waits(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = pytest.importorskip("minicloud.compute.libvirt.connection", reason="no libvirt")
    made = connection.Connection(f"qemu+unix:///system?socket={tmp_path}/none")
    monkeypatch.setattr(made, "_keep_event_loop", lambda: None)  # its thread would never end
    for ask in (made.alive, made.domains, lambda: made.destroy("none")):
        with pytest.raises(errors.TryLater, match="libvirt is not there: "):
            ask()


@pytest.fixture
def tgt(tmp_path: pathlib.Path) -> Tgt:
    """Of a tgtd that is not there; `tgtadm` says so in these words."""
    said = "tgtadm: failed to send request hdr to tgt daemon, Transport endpoint is not connected"
    program = tmp_path / "tgtadm"
    program.write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 107\n")
    program.chmod(0o755)
    return Tgt(tmp_path, str(tmp_path / "none"), "127.0.0.1:3260", "zeta")


def test_without_a_tgtd_its_daemon_waits(
    tgt: Tgt, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for ask in (tgt.ping, tgt.present, lambda: tgt.withdraw("none")):
        with pytest.raises(errors.TryLater, match="tgtd is not there"):
            ask()


@pytest.mark.parametrize("start", [shell.run, shell.start_detached])
def test_without_a_tool_its_name_is_said(
    start: Callable[[list[str]], object], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "setpriv").symlink_to("/usr/bin/setpriv")
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = r"nft.*No such file|No such file.*nft"
    with pytest.raises((errors.CommandFailed, FileNotFoundError), match=missing):
        start(["nft", "list", "tables"])
