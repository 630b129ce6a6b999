"""FIXED_RANGE: the next free /24, and the refusal of one that meets something."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import ranges
from launcher.report import Refused


def net(text):
    return ipaddress.IPv4Network(text)


def test_a_host_without_such_routes_gets_the_first():
    assert ranges.choose("", {net("192.168.1.0/24"): "the address"}) == "10.0.0.0/24"


def test_the_next_free_one_follows_what_is_met():
    taken = {net("10.0.0.0/24"): "a", net("10.0.1.128/25"): "b"}
    assert ranges.choose("", taken) == "10.0.2.0/24"


def test_a_host_in_the_whole_of_ten_gets_one_elsewhere():
    assert ranges.choose("", {net("10.0.0.0/8"): "a"}) == "172.16.0.0/24"


def test_a_given_one_that_meets_is_refused_with_what_and_a_free_one():
    with pytest.raises(Refused) as refused:
        ranges.choose("10.5.0.0/16", {net("10.5.3.0/24"): "the route 10.5.3.0/24 on eth1"})
    assert "the route 10.5.3.0/24 on eth1" in refused.value.cause
    assert refused.value.mend == "FIXED_RANGE=10.0.0.0/16 is free"


def test_a_given_one_that_meets_nothing_is_taken():
    assert ranges.choose("10.9.0.0/16", {net("10.5.3.0/24"): "a"}) == "10.9.0.0/16"


def test_a_host_with_everything_routed_is_told_so():
    taken = {net(one): "a" for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")}
    with pytest.raises(Refused, match="no private range"):
        ranges.choose("", taken)


blocks = st.tuples(st.integers(0, 2**24 - 1), st.integers(9, 32)).map(
    lambda pair: ipaddress.IPv4Network(((10 << 24) + pair[0], pair[1]), strict=False)
)


@given(st.lists(blocks, max_size=12), st.integers(16, 28))
def test_what_is_called_free_meets_nothing(taken, prefixlen):
    found = ranges.free(prefixlen, taken)
    assert found.prefixlen == prefixlen
    assert not any(found.overlaps(network) for network in taken)
