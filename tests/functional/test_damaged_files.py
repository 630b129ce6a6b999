"""Files of a host that are rubbish, cut short or gone: none of them is taken for a whole one, and
what a daemon keeps for itself it writes anew."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from minicloud import daemon
from minicloud.cloud import volumes
from minicloud.context import Context
from minicloud.db import models
from tests.conftest import InProcessCloud
from tests.embedded import TOP
from tests.functional.conftest import Verbs, instance, rows
from tests.functional.s3.conftest import Store, s3, store

__all__ = ["s3", "store"]  # fixtures

RUBBISH = (b"", b'{"id": "ec2', b"\xff\xfe\x00", b"[]", b'{"id": 1}')
ORPHAN = "ec200000-0000-0000-0000-000000000000"

Options = Callable[..., None]


# --- what a driver keeps ----------------------------------------------------------------------


def test_a_damaged_domain_is_an_error_of_its_own_and_can_be_terminated(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    driver = cloud.hypervisors["h1"]
    broken, sound = verbs.run(2)
    cloud.wait(lambda: {verbs.state(id) for id in (broken, sound)} == {"running"})
    for rubbish in RUBBISH:
        before = driver._file(broken).read_bytes()
        driver._file(broken).write_bytes(rubbish)
        cloud.wait(lambda: verbs.state(broken) == "error")
        assert instance(broken).reason == "its domain is gone from the host"
        driver._file(broken).write_bytes(before)
        cloud.wait(lambda: verbs.state(broken) == "running")
    driver._file(broken).write_bytes(RUBBISH[1])
    verbs.terminate(broken)
    cloud.wait(lambda: verbs.state(broken) == "terminated")
    assert not driver._file(broken).exists()
    verbs.reboot(sound)
    cloud.wait(lambda: verbs.state(sound) == "running" and instance(sound).attempts == 0)
    assert set(driver.domains()) == {sound}


def test_a_damaged_domain_without_a_row_is_removed(cloud: InProcessCloud) -> None:
    file = cloud.hypervisors["h1"]._file(ORPHAN)
    file.write_bytes(RUBBISH[1])
    cloud.wait(lambda: not file.exists())


def test_a_damaged_packet_filter_and_a_damaged_network_are_made_anew(
    cloud: InProcessCloud, verbs: Verbs
) -> None:
    driver, wires = cloud.hypervisors["h1"], cloud.wires["h1"]
    [id] = verbs.run()
    cloud.wait(lambda: verbs.state(id) == "running")
    [number] = wires.serving()
    for rubbish in RUBBISH:
        (driver.path / "firewall").write_bytes(rubbish)
        wires._file(number).write_bytes(rubbish)
        cloud.wait(lambda: driver._filter().get("ports"))
        cloud.wait(lambda: wires.served(number))
    assert wires.doubles == []


def test_a_volume_whose_file_vanished_is_an_error_until_it_is_back(
    cloud: InProcessCloud, caller: Callable[[], Context]
) -> None:
    driver = cloud.volume("h1")
    id = volumes.create(caller(), size_gib=1, zone="nova").row.id

    def state() -> tuple[str, str | None]:
        [row] = [row for row in rows(models.Volume) if isinstance(row, models.Volume)]
        return row.state, row.reason

    cloud.wait(lambda: state()[0] == "available")
    driver._volume(id).unlink()
    cloud.wait(lambda: state() == ("error", "its bytes are gone from the host"))
    driver._volume(id).write_text("1")
    cloud.wait(lambda: state()[0] == "available")


# --- the object store's -------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [None, b"", b"hal", b"whole and more"])
def test_an_object_whose_file_is_not_whole_is_refused_before_its_first_byte(
    store: Store, s3: Any, kept: bytes | None
) -> None:
    s3.put_object(Bucket="box", Key="o", Body=b"whole")
    [file] = store.files.iterdir()
    file.unlink() if kept is None else file.write_bytes(kept)
    copy = {"Key": "copy", "CopySource": "box/o"}
    for ask in (
        lambda: s3.get_object(Bucket="box", Key="o"),
        lambda: s3.copy_object(Bucket="box", **copy),
    ):
        with pytest.raises(s3.exceptions.ClientError) as refused:
            ask()
        told = refused.value.response["Error"]
        assert told["Code"] == "ServiceUnavailable"
        assert "the object's bytes are missing" in told["Message"]
    s3.put_object(Bucket="box", Key="o", Body=b"again")
    assert s3.get_object(Bucket="box", Key="o")["Body"].read() == b"again"


# --- the daemon's own ---------------------------------------------------------------------------


@pytest.mark.parametrize("rubbish", [b"", b"seven", b"\xff"])
def test_a_host_that_forgot_which_epoch_it_has_seen_cleans_nothing_up(
    bare_cloud: InProcessCloud, caplog: pytest.LogCaptureFixture, rubbish: bytes
) -> None:
    bare_cloud.compute("h1")
    bare_cloud.stop("compute@h1")
    file = bare_cloud.path / "run" / "compute@h1.epoch"
    file.write_bytes(rubbish)
    bare_cloud.compute("h1")
    manager = bare_cloud.lives["compute@h1"].manager
    assert not manager.trusted
    assert f"{file} is damaged" in caplog.text
    daemon.trust(manager.me)
    bare_cloud.stop("compute@h1")
    bare_cloud.compute("h1")
    assert bare_cloud.lives["compute@h1"].manager.trusted


@pytest.mark.parametrize("name", ["absent", "rubbish", "binary", "directory"])
def test_a_daemon_says_in_one_line_that_it_cannot_read_its_configuration(
    tmp_path: pathlib.Path, name: str
) -> None:
    file = tmp_path / name
    if name == "directory":
        file.mkdir()
    elif name != "absent":
        file.write_bytes(b"[DEFAULT\nx" if name == "rubbish" else b"\x00\xff")
    program = TOP / "bin" / "minicloud-scheduler"
    ended = subprocess.run(
        [sys.executable, str(program), "--config-file", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("error: cannot read the configuration: ")
    assert str(file) in line
