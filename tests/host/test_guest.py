"""What a user finds in a guest that was just started: address, metadata, keys, user data."""

from __future__ import annotations

import pathlib
import re
import subprocess

import pytest

from tests.host import spaces
from tests.host.guests import Guest
from tests.integration.running import wait

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]

METADATA = "http://169.254.169.254/latest"
DS_IDENTIFY = pathlib.Path("/usr/lib/cloud-init/ds-identify")
TOKEN = (
    r"printf 'PUT /latest/api/token HTTP/1.0\r\nHost: metadata\r\n"
    r"X-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n'"
    " | timeout 10 nc 169.254.169.254 80 | tail -n 1"
)


def test_a_guest_boots_and_its_console_shows_it(first: Guest):
    assert first.state == "running"
    wait(lambda: "ami-tty: up " in first.console(), 60, "the console shows the end of the boot")
    shown = first.console()
    assert f"instance-id {first.id}" in shown
    assert "login:" in wait(
        lambda: "login:" in first.console() and first.console(), 60, "a login prompt"
    )


def test_the_guest_has_the_address_that_is_described(first: Guest):
    assert f" inet {first.address}/24 " in first.run("ip -4 -o address show dev eth0")
    assert first.run("cat /sys/class/net/eth0/address").strip() == first.mac
    assert first.address in wait(
        lambda: re.findall(r"lease of (\S+) obtained", first.console()), 30, "a lease"
    )


def test_the_hosts_name_is_the_one_that_is_described(first: Guest):
    assert first.run("hostname").strip() == first.described["PrivateDnsName"].split(".")[0]


def test_metadata_answers_version_1(first: Guest):
    assert first.run(f"wget -q -O - {METADATA}/meta-data/instance-id").strip() == first.id
    assert first.run(f"wget -q -O - {METADATA}/meta-data/local-ipv4").strip() == first.address


def test_metadata_answers_version_2_and_refuses_a_wrong_token(first: Guest):
    token = first.run(TOKEN).strip()
    assert token
    ask = f"wget -q -O - --header 'X-aws-ec2-metadata-token: %s' {METADATA}/meta-data/instance-id"
    assert first.run(ask % token).strip() == first.id
    assert first.ssh(ask % ("x" * len(token))).returncode != 0
    assert "metadata version 2" in first.console()


def test_each_guest_gets_its_own_metadata(pair: list[Guest]):
    for guest in pair:
        assert guest.run(f"wget -q -O - {METADATA}/meta-data/instance-id").strip() == guest.id


def test_user_data_was_run_once(pair: list[Guest]):
    for guest in pair:
        wait(lambda guest=guest: guest.ssh("test -e /root/said").returncode == 0, 60, "user data")
        assert guest.run("cat /root/said") == "said\n"


def test_root_and_tty_enter_with_the_key(first: Guest):
    assert first.run("id -un") == "root\n"
    assert first.run("id -un", user="tty") == "tty\n"
    assert first.ssh("cat /etc/shadow", user="tty").returncode == 1


def test_nobody_enters_with_another_key(first: Guest, tmp_path: pathlib.Path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    for user in ("root", "tty"):
        assert first.ssh("true", user=user, key=str(key)).returncode == 255


def test_no_user_has_a_password(first: Guest):
    for line in first.run("cat /etc/shadow").splitlines():
        assert line.split(":")[1] == "*"


def test_each_guest_shows_a_host_key_of_its_own_on_its_console(first: Guest, pair: list[Guest]):
    offered = set()
    for guest in (first, *pair):
        scanned = spaces.sh("ssh-keyscan", "-T", "20", "-t", "ed25519", guest.address)
        key = scanned.split()[-1]
        assert key in guest.console()
        offered.add(key)
    assert len(offered) == 3


def test_cloud_init_would_take_the_ec2_source(first: Guest, tmp_path: pathlib.Path):
    if not DS_IDENTIFY.exists():
        pytest.skip(f"no {DS_IDENTIFY}: the package cloud-init is not installed")
    firmware = tmp_path / "sys/class/dmi/id"
    firmware.mkdir(parents=True)
    for name in ("sys_vendor", "product_name", "product_serial", "product_uuid", "board_name"):
        read = first.ssh(f"cat /sys/class/dmi/id/{name}")
        if read.returncode == 0:
            (firmware / name).write_text(read.stdout)
    for directory in ("proc/1", "run", "etc/cloud", "sys/class/block", "dev/disk", "var/lib"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "proc/cmdline").write_text(first.run("cat /proc/cmdline"))
    (tmp_path / "proc/uptime").write_text("1.0 1.0\n")
    (tmp_path / "proc/1/cmdline").write_text("/sbin/init\0")
    (tmp_path / "proc/1/environ").write_text("")
    detect = tmp_path / "bin/systemd-detect-virt"  # of the guest, not of what the tests run in
    detect.parent.mkdir()
    detect.write_text("#!/bin/sh\necho qemu\n")
    detect.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", str(DS_IDENTIFY), "--force"],
        env={
            "PATH": f"{detect.parent}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PATH_ROOT": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Ec2" in (tmp_path / "run/cloud-init/cloud.cfg").read_text()
