"""A lab on paper: numbers, names, addresses and zones of pretend hosts."""

from __future__ import annotations

import configparser
import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import lab, rack, ranges, variables
from launcher.report import Refused, WrongUsage
from launcher.state import Cloud, State

KEPT = variables.DEFAULTS | variables.LAB | {"HOST_IP": "198.18.3.1"}
CLOUD = Cloud(
    State(Path("/nowhere")), "k7ps", variables.parsed(KEPT), configparser.RawConfigParser()
)
HOSTS = [rack.Host(CLOUD, number) for number in range(1, rack.MOST + 1)]


def test_every_host_has_an_address_of_its_own_in_the_heads_network():
    addresses = {ipaddress.IPv4Address(one.address) for one in HOSTS}
    assert len(addresses) == rack.MOST
    assert all(address in CLOUD.variables.management for address in addresses)
    assert ipaddress.IPv4Address(CLOUD.variables.host_ip) not in addresses


def test_every_name_on_this_machine_has_the_tag_and_is_short_enough_for_a_link():
    for one in HOSTS:
        assert one.namespace.startswith("mc-k7ps-")
        assert len(one.namespace) <= 15


def test_half_of_the_hosts_are_in_each_zone_and_none_moves_when_more_come():
    assert [one.zone for one in HOSTS[:4]] == ["nova", "nova2", "nova", "nova2"]


@pytest.mark.parametrize("word", ["0", "51", "-1", "3.5", "\u0663", "", "three"])
def test_what_is_no_number_of_hosts_is_wrong_usage(word):
    with pytest.raises(WrongUsage):
        lab.wanted_hosts(word)


@pytest.mark.parametrize("word", ["", "h", "h0", "h01", "h1x", "x1", "h1000", "../h1"])
def test_what_is_no_name_of_a_host_is_wrong_usage(word):
    with pytest.raises(WrongUsage):
        rack.named(CLOUD, word)


@pytest.mark.parametrize("given", [{"CONNECTION_TYPE": "libvirt"}, {"USE_MYSQL": "0"}])
def test_what_no_lab_can_be_is_refused(given):
    [name] = given
    with pytest.raises(Refused, match=f"a lab has {name}="):
        lab.wanted_variables(given)


def test_broker_and_database_of_a_lab_are_on_its_network_and_else_on_the_machine_alone():
    assert CLOUD.variables.servants_ip == "198.18.3.1"
    other = variables.parsed(variables.DEFAULTS | {"HOST_IP": "192.0.2.7"})
    assert other.servants_ip == "127.0.0.1"


@given(st.lists(st.integers(0, 511), unique=True, max_size=40))
def test_a_second_lab_gets_a_network_that_meets_no_other(numbers):
    start = int(ranges.LABS.network_address)
    taken = [ipaddress.IPv4Network((start + 256 * number, 24)) for number in numbers]
    found = ranges.for_lab(taken)
    assert found.subnet_of(ranges.LABS)
    assert not any(found.overlaps(network) for network in taken)
