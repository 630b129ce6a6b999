"""What etc/ has for systemd is what the source says, and systemd understands all of it."""

from __future__ import annotations

import configparser
import os
import pathlib
import re
import shutil
import subprocess

import pytest

import systemd_units
from launcher import host
from minicloud import processes
from minicloud.servants import __main__ as servants

TOP = pathlib.Path(__file__).resolve().parents[2]
ETC = TOP / "etc"
UNITS = sorted((ETC / "systemd").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]
# of 10, by systemd-analyze: `network` may have no mount namespace of its own; libvirtd and tgtd
# begin as root, like Debian's
EXPOSED = {"compute": 2.5, "network": 4.7, "libvirtd": 9.7, "virtlogd": 9.7, "tgtd": 9.3}
SECLUDED = 1.6  # all others

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (Debian package systemd)"
)


def parts(unit: pathlib.Path) -> configparser.RawConfigParser:
    parsed = configparser.RawConfigParser()
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(unit)
    return parsed


def short(unit: pathlib.Path) -> str:
    return unit.stem.removeprefix("minicloud-")


def test_the_units_are_generated_from_this_source() -> None:
    texts = {unit.name: unit.read_text() for unit in UNITS}
    assert texts == systemd_units.units(), "write them anew: python tools/systemd_units.py"


def test_every_daemon_has_a_unit_and_every_unit_starts_something_there_is() -> None:
    setup = configparser.ConfigParser()
    setup.read(TOP / "setup.cfg")
    scripts = re.findall(
        r"^(minicloud-\S+) =", setup["options.entry_points"]["console_scripts"], re.M
    )
    daemons = {f"minicloud-{process.name}" for process in processes.DAEMONS}
    assert daemons <= set(scripts)
    started = {}
    for unit in SERVICES:
        words = parts(unit)["Service"]["ExecStart"].split()
        started[unit.stem] = (pathlib.Path(words[0]).name, *words[1:-2])
        assert words[-2:] == ["--config-file", "/etc/minicloud/minicloud.conf"]
    assert started == {
        **{name: (name,) for name in daemons},
        **{
            f"minicloud-{name}": ("python", "-m", "minicloud.servants", name)
            for name in servants.NAMES
        },
    }


def test_a_daemon_begins_before_its_broker_and_its_database() -> None:
    for unit in UNITS:
        assert "Requires" not in parts(unit)["Unit"]
        assert "BindsTo" not in parts(unit)["Unit"]


def test_no_service_is_ever_given_up() -> None:
    for unit in SERVICES:
        found = parts(unit)
        assert found["Service"]["Restart"] == "always"
        assert found["Unit"]["StartLimitIntervalSec"] == "0"


def test_what_must_outlive_its_daemon_is_not_killed_with_it() -> None:
    kept = {
        short(unit) for unit in SERVICES if parts(unit)["Service"].get("KillMode") == "process"
    }
    assert kept == {"network", "libvirtd"}  # dnsmasq; guests
    brought = {"ProtectSystem", "ProtectHome", "PrivateTmp", "ReadWritePaths", "PrivateDevices"}
    network = parts(ETC / "systemd" / "minicloud-network.service")["Service"]
    assert not brought & set(network), "its namespaces would end with its mount namespace"


def test_the_host_settings_are_those_of_the_launcher() -> None:
    lines = (ETC / "sysctl.d" / "minicloud.conf").read_text().splitlines()
    settings = dict(line.split(" = ") for line in lines if not line.startswith("#"))
    assert settings == host.WANTED


@pytest.fixture
def root(tmp_path: pathlib.Path) -> pathlib.Path:
    """A machine on which all of etc/ is installed, and whatever a unit starts."""
    for folder in ("systemd/system", "sysusers.d", "tmpfiles.d", "minicloud"):
        (tmp_path / "etc" / folder).mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(unit, tmp_path / "etc" / "systemd" / "system")
    for unit in SERVICES:
        program = tmp_path / parts(unit)["Service"]["ExecStart"].split()[0].lstrip("/")
        program.parent.mkdir(parents=True, exist_ok=True)
        program.touch(0o755)
    for folder in ("sysusers.d", "tmpfiles.d"):
        shutil.copy(ETC / folder / "minicloud.conf", tmp_path / "etc" / folder)
    (tmp_path / "etc" / "minicloud" / "minicloud.conf").touch()
    return tmp_path


def run(*argv: str) -> str:
    """What a tool said; it must end well."""
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, env=os.environ | {"LC_ALL": "C.UTF-8"}
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@needs_systemd
def test_systemd_finds_nothing_wrong_with_the_units(root: pathlib.Path) -> None:
    names = [unit.name for unit in UNITS]
    options = (f"--root={root}", "--man=no", "--recursive-errors=no")
    assert run("systemd-analyze", "verify", *options, *names) == ""


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=short)
def test_systemd_calls_every_service_as_closed_as_it_can_be(unit: pathlib.Path) -> None:
    most = EXPOSED.get(short(unit), SECLUDED)
    words = ("--offline=yes", "--no-pager", f"--threshold={most * 10:.0f}")
    said = run("systemd-analyze", "security", *words, str(unit))
    assert f"for {unit.name}: " in said


@needs_systemd
@pytest.mark.skipif(os.geteuid() != 0, reason="not root: cannot give directories their owners")
def test_the_user_and_the_directories_are_made(root: pathlib.Path) -> None:
    run("systemd-sysusers", f"--root={root}", "minicloud.conf")
    user = (root / "etc" / "passwd").read_text().split("minicloud:")[1]
    assert user.strip().endswith(":/:/usr/sbin/nologin")
    uid = int(user.split(":")[1])
    run("systemd-tmpfiles", f"--root={root}", "--create", "minicloud.conf")
    conf = (root / "etc" / "minicloud" / "minicloud.conf").stat()
    assert (conf.st_mode & 0o777, conf.st_uid, conf.st_gid) == (0o640, 0, uid)
    state = root / "var" / "lib" / "minicloud"
    assert (state.stat().st_mode & 0o777, state.stat().st_uid) == (0o755, 0)
    assert {made.stat().st_uid for made in state.iterdir()} == {uid}
