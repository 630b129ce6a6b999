"""What guests live through: reboots, stops, their daemons' restarts and deaths; and their end."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from minicloud import processes
from tests.host import guests, spaces
from tests.host.guests import ECHO, Echo, Guest, opens
from tests.integration.running import RunningCloud, wait

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]


@pytest.fixture
def echo(echoing: list[Guest], ec2: Any) -> Iterator[Echo]:
    """A connection to a guest, of a kind that is let in."""
    rule = {"IpProtocol": "tcp", "FromPort": ECHO, "ToPort": ECHO}
    rules = [{**rule, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
    ec2.authorize_security_group_ingress(GroupName="doors", IpPermissions=rules)
    try:
        wait(lambda: opens(echoing[1].address, ECHO), 60, "the port opens")
        made = Echo(echoing[1].address)
        assert made.answers(20)
        yield made
        made.close()
    finally:
        ec2.revoke_security_group_ingress(GroupName="doors", IpPermissions=rules)


def test_a_reboot_keeps_the_address_and_the_disk(pair: list[Guest], ec2: Any):
    guest = pair[0]
    address, before = guest.address, guest.boot_id()
    guest.run("echo kept > /root/kept && sync")
    ec2.reboot_instances(InstanceIds=[guest.id])
    wait(
        lambda: (
            guest.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip() not in ("", before)
        ),
        guests.BOOT_LIMIT_S,
        "another boot",
    )
    guest.wait_up()
    guest.wait_state("running")
    assert guest.address == address
    assert guest.run("cat /root/kept /root/said") == "kept\nsaid\n", "user data is run once"


def test_a_stopped_guest_starts_with_its_address_and_its_disk(pair: list[Guest], ec2: Any):
    guest = pair[0]
    address, before = guest.address, guest.boot_id()
    guest.run("echo stopped > /root/stopped && sync")
    ec2.stop_instances(InstanceIds=[guest.id])
    guest.wait_state("stopped")
    assert not opens(address, 22)
    ec2.start_instances(InstanceIds=[guest.id])
    guest.wait_state("running")
    guest.wait_up()
    assert guest.address == address
    assert guest.boot_id() != before
    assert guest.run("cat /root/stopped") == "stopped\n"


def test_a_guest_that_halts_itself_is_stopped_and_can_be_started(pair: list[Guest], ec2: Any):
    guest = pair[0]
    guest.ssh("poweroff")
    guest.wait_state("stopped")
    ec2.start_instances(InstanceIds=[guest.id])
    guest.wait_state("running")
    guest.wait_up()


def test_a_guest_does_not_notice_a_restart_of_all_daemons(
    cloud: RunningCloud, pair: list[Guest], echo: Echo
):
    before = pair[1].boot_id()
    cloud.command("restart")
    assert echo.answers(20)
    assert pair[1].state == "running"
    assert pair[1].boot_id() == before


def test_a_guest_lives_through_clean_and_run_detached(
    cloud: RunningCloud, pair: list[Guest], echo: Echo
):
    before = pair[1].boot_id()
    cloud.command("clean")
    assert echo.answers(20)
    cloud.command("run_detached")
    assert echo.answers(20)
    assert pair[1].state == "running"
    assert pair[1].boot_id() == before
    assert pair[1].id in pair[1].console()


def test_a_terminated_guest_leaves_nothing(cloud: RunningCloud, ec2: Any):
    [guest] = guests.launch(cloud, ec2)
    guest.wait_state("running")
    found = traces(cloud, guest)
    assert all(found.values()), f"the test looks in the right places: {found}"
    address = guest.address
    end(cloud, ec2, guest)
    assert not opens(address, 22)
    listed = cloud.command("scrub", "--list").stdout
    assert guest.id not in listed


def end(cloud: RunningCloud, ec2: Any, guest: Guest) -> None:
    """Terminate it, and see that nothing of it is left on the host."""
    mac = guest.mac
    ec2.terminate_instances(InstanceIds=[guest.id])
    guest.wait_state("terminated")
    # a filter's entry for a card that is gone may wait for the sweep
    wait(lambda: not any(traces(cloud, guest, mac).values()), 60, "no trace of the guest")


def traces(cloud: RunningCloud, guest: Guest, mac: str = "") -> dict[str, list[str]]:
    """What of a guest is on this host: processes, network cards, files, filter rules."""
    mac = mac or guest.mac
    word = guest.id.removeprefix("i-")
    links = json.loads(spaces.sh("ip", "-j", "link", "show"))
    directories = os.listdir(cloud.state / "instances")
    table = spaces.sh("nft", "list", "ruleset")
    shown = subprocess.run(
        ["ps", "axww", "-o", "args="], capture_output=True, text=True, check=True
    )
    return {
        "processes": [
            line for line in shown.stdout.splitlines() if word in line and "qemu-system" in line
        ],
        "cards": [link["ifname"] for link in links if link.get("address") == f"fe{mac[2:]}"],
        "files": [name for name in directories if name.replace("-", "")[3:20] == word],
        "rules": [line.strip() for line in table.splitlines() if mac in line],
    }


def test_of_the_daemons_compute_alone_may_talk_to_libvirtd(cloud: RunningCloud):
    socket = cloud.state / "libvirt" / "run" / "libvirt-sock"
    found = socket.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (0, 0o660)
    may = set()
    for process in processes.DAEMONS:
        status = pathlib.Path(f"/proc/{cloud.pid(process.name)}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        groups = {int(word) for word in (*fields["Gid"].split(), *fields["Groups"].split())}
        if found.st_gid in groups:
            may.add(process.name)
    assert may == {"compute"}
