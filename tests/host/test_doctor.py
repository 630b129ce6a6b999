"""The doctor before real wires: each fault that is planted is named, and its command mends it."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from minicloud import config, context, doctor  # noqa: F401  (registers all checks)
from minicloud.cloud import networks
from minicloud.db import models
from minicloud.db.session import Tx, transaction
from minicloud.doctor import check
from minicloud.doctor import host as doctors
from minicloud.doctor.check import FAILED, WELL, Seen
from tests.host.spaces import sh
from tests.host.test_wires import TAG, Host, booking, host, network
from tests.integration.running import wait

__all__ = ["host"]

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="not root: network namespaces need it"),
]

PORT, OUTER = f"mc-{TAG}-g1", f"mc-{TAG}-p1"


def look(name: str) -> list[Seen]:
    return list(check.CHECKS[name].look(doctors.Host()))


@pytest.fixture
def served(host: Host, database: str, options: Callable[..., None]) -> Host:
    """The host serves a network, as its row says."""
    config.list_opts()
    options("network", interface="uplink")
    networks.create(context.admin(), name="n", cidr="10.55.0.0/24")
    _adopt()
    host.wires.serve(network(), [booking(2)], [])
    return host


@transaction
def _adopt(tx: Tx) -> None:
    tx.changed(sa.update(models.Network).values(host=config.CONF.host, mtu=1400))


def test_wires_that_are_well_are_found_so(served: Host) -> None:
    for name in ("kernel", "dnsmasq", "mtu", "forwarding", "firewalls"):
        assert {one.state for one in look(name)} == {WELL}, look(name)


@pytest.mark.parametrize(
    ("name", "faults", "about"),
    [
        ("mtu", [f"ip link set {PORT} mtu 1300"], PORT),
        ("forwarding", ["sysctl -w net.ipv4.ip_forward=0"], "net.ipv4.ip_forward"),
        (
            "forwarding",  # the way back to the gateway is not the way it came by
            [
                f"ip route flush dev {OUTER} proto kernel",
                f"sysctl -w net.ipv4.conf.{OUTER}.rp_filter=1",
            ],
            OUTER,
        ),
        (
            "forwarding",
            ["sysctl -w net.bridge.bridge-nf-call-iptables=0"],
            "net.bridge.bridge-nf-call-iptables",
        ),
        ("firewalls", ["iptables -P FORWARD DROP"], "ip filter FORWARD"),
        (
            "firewalls",
            [
                "nft add table inet walls",
                "nft add chain inet walls gate { type filter hook forward priority 0 ; }",
                "nft add rule inet walls gate reject",
            ],
            "inet walls gate",
        ),
    ],
)
def test_a_fault_is_named_and_mended_by_what_it_says(
    served: Host, name: str, faults: list[str], about: str
) -> None:
    for fault in faults:
        sh(*fault.split())
    [seen] = [one for one in look(name) if one.state == FAILED]
    assert seen.about == about
    subprocess.run(seen.mend, shell=True, check=True, capture_output=True)
    assert {one.state for one in look(name)} == {WELL}


def test_a_dnsmasq_that_died_is_named(served: Host) -> None:
    directory = pathlib.Path(config.CONF.state_path, "networks", f"mc-{TAG}-net1")
    os.kill(int((directory / "dnsmasq.pid").read_text()), signal.SIGKILL)
    wait(lambda: [one.state for one in look("dnsmasq")] == [FAILED], what="it is dead")
