"""Names of what we make on a host, the links of a network, and the packet filter's text."""

from __future__ import annotations

import fcntl
import pathlib
from collections.abc import Callable

import pytest

from minicloud import config, errors
from minicloud.db import models
from minicloud.network import linux, nat
from minicloud.wiring import KINDS, Bridge, artefact, kind, links, links_of, number_of

LONGEST_DEVICE = 15  # IFNAMSIZ less its end


def test_a_flat_network_needs_one_bridge_of_its_number_and_mtu(
    options: Callable[..., None],
) -> None:
    options("DEFAULT", tag="ab12")
    network = models.Network(kind="flatdhcp", number=7, mtu=1450)
    assert links_of(network) == (Bridge("mc-ab12-n7", 1450),)


def test_a_kind_is_a_file_and_what_is_none_is_said_so() -> None:
    assert "flatdhcp" in KINDS
    for name in ("nonesuch", "links", "../x", ""):
        with pytest.raises(errors.Final, match="no networks of the kind"):
            kind(name)


@pytest.mark.parametrize("what", ["n", "g", "p", "net"])
def test_the_number_of_a_network_is_read_back_from_the_names(what: str) -> None:
    for number in (1, 42, 999999):
        name = artefact("ab12", what, number)
        assert number_of("ab12", name) == number
        assert what == "net" or len(name) <= LONGEST_DEVICE


@pytest.mark.parametrize(
    "name",
    [
        "mc-xy34-n1",  # another cloud's
        "mc-ab12-n0",
        "mc-ab12-n01",
        "mc-ab12-n1x",
        "mc-ab12-net",
        "mc-ab12-t1",
        "xmc-ab12-n1",
        "mc-ab12-n1\n",
        "mc-ab12-n1234567",
        "br0",
    ],
)
def test_a_name_that_is_not_ours_has_no_number(name: str) -> None:
    assert number_of("ab12", name) is None


def test_a_tag_is_no_pattern() -> None:
    assert number_of("a.12", "mc-ab12-n1") is None


def test_the_lock_of_a_bridge_keeps_a_second_one_out(
    options: Callable[..., None], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "LOCK_WAIT_S", 0.1)
    directory = pathlib.Path(config.CONF.lock_path)
    assert directory == tmp_path / "lock"
    directory.mkdir()
    with (directory / "mc-test-n1.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(errors.TryLater, match="mc-test-n1"):
            links.ensure([Bridge("mc-test-n1", 1500)])


@pytest.mark.parametrize("name", ["../x", "", "a b", "mc-test-n1;reboot", "x" * 16])
def test_no_command_is_made_of_a_name_that_is_not_one(
    options: Callable[..., None], name: str
) -> None:
    with pytest.raises(errors.Final):
        links.ensure([Bridge(name, 1500)])


def test_without_an_interface_nothing_of_the_guests_leaves_the_host() -> None:
    rules = nat.host_rules("ab12", "")
    assert "masquerade" not in rules
    assert 'iifname "mc-ab12-p*" drop' in rules
    assert 'oifname ""' not in rules


def test_guests_leave_by_the_interface_and_reach_nothing_on_the_host() -> None:
    rules = nat.host_rules("ab12", "eth0")
    assert 'iifname "mc-ab12-p*" oifname "eth0" masquerade' in rules
    assert rules.index('oifname "eth0" accept') < rules.rindex('iifname "mc-ab12-p*" drop')
    input_chain = rules[rules.index("chain input") : rules.index("chain forward")]
    assert input_chain.count("drop") == 2
    assert "eth0" not in input_chain


def test_every_rule_of_the_host_names_devices_of_this_cloud_only() -> None:
    for line in nat.host_rules("ab12", "eth0").splitlines():
        if any(verdict in line for verdict in (" accept", " drop", " masquerade")):
            assert '"mc-ab12-' in line or "policy accept" in line


def test_the_routes_of_the_host_are_read_without_the_default_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listing = (
        '[{"dst":"default","gateway":"192.0.2.9","dev":"eth0"},'
        '{"dst":"10.0.0.0/24","dev":"docker0"},{"dst":"192.0.2.7","dev":"eth0"},'
        '{"type":"blackhole","dst":"198.51.100.0/24"}]'
    )
    monkeypatch.setattr("minicloud.shell.run", lambda argv: listing)
    assert [(device, str(net)) for device, net in linux._routes()] == [
        ("docker0", "10.0.0.0/24"),
        ("eth0", "192.0.2.7/32"),
        ("blackhole", "198.51.100.0/24"),
    ]
