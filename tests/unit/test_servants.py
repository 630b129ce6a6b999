"""What the units of libvirtd, virtlogd and tgtd become."""

from __future__ import annotations

import os
import pathlib
import stat

import pytest

from minicloud import processes
from minicloud.compute.libvirt import driver
from minicloud.servants import __main__ as servants
from minicloud.servants import libvirtd, tgtd
from minicloud.volume import tgt


@pytest.fixture
def user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemons are whoever runs the tests; nothing of libvirt's is written."""
    monkeypatch.setattr(processes, "USER", "root")
    monkeypatch.setattr(libvirtd, "prepare", lambda *_: None)


pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="not root: state belongs to somebody else"
)


def test_tgtd_listens_where_the_volume_daemon_looks_for_it(options, tmp_path, user) -> None:
    options("DEFAULT", my_ip="127.0.0.9")
    options("tgt", port=4260)
    words = servants.command("tgtd")
    assert words[-1] == "portal=127.0.0.9:4260"
    assert f"TGT_IPC_SOCKET={tgt.CONF.socket}" in words
    assert stat.S_IMODE(tgtd.control(tmp_path).parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["libvirtd", "virtlogd"])
def test_libvirt_is_started_by_what_root_wrote(options, tmp_path, user, name) -> None:
    options("DEFAULT", tag="zeta")
    words = servants.command(name)
    assert words[-1] == str(tmp_path / "libvirt" / f"start-{name}")
    assert "MINICLOUD_TAG=zeta" in words
    assert driver.CONF.uri.endswith(f"?socket={libvirtd.socket_path(tmp_path)}")


@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o775, 0), (0o755, 65534)])
def test_nothing_is_started_from_where_others_may_write(
    options, tmp_path: pathlib.Path, user, mode: int, owner: int
) -> None:
    os.chown(tmp_path, owner, 0)
    tmp_path.chmod(mode)
    with pytest.raises(SystemExit, match="only root may write"):
        servants.command("libvirtd")


def test_an_unknown_servant_is_refused() -> None:
    for words in ([], ["sshd"], ["--config-file", "x"]):
        with pytest.raises(SystemExit, match="usage"):
            servants.main(words)
