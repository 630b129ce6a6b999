"""nova.sh's variables: what is refused, what is kept, what a later command may say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher import variables
from launcher.report import Refused


def test_nothing_given_means_the_defaults():
    values = variables.parsed(variables.given({}))
    assert values.host_ip == "127.0.0.1"
    assert values.connection_type == "libvirt"
    assert values.libvirt_type == "auto"
    assert values.screen_name == "minicloud"
    assert not values.use_mysql
    assert [values.port(name) for name in ("api", "objectstore")] == [8773, 3333]


def test_the_offset_is_added_to_every_port():
    values = variables.parsed(variables.given({"PORT_OFFSET": "10000"}))
    assert {
        name: values.port(name) - port for name, port in variables.PORTS.items()
    } == dict.fromkeys(variables.PORTS, 10000)


def test_two_clouds_at_usual_offsets_never_share_a_port():
    ports = list(variables.PORTS.values())
    # 8773 and 8774 are next to each other in every cloud that has both APIs
    for distance in (2, 10, 50, 100, 500, 1000, 2000, 5000, 10000, 20000, 30000, 40000):
        assert not {port + distance for port in ports} & set(ports), distance


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HOST_IP", "here"),
        ("HOST_IP", "0.0.0.0"),
        ("HOST_IP", "::1"),
        ("CONNECTION_TYPE", "xenapi"),
        ("LIBVIRT_TYPE", "lxc"),
        ("USE_MYSQL", "yes"),
        ("FIXED_RANGE", "10.0.0.0/33"),
        ("FIXED_RANGE", "10.0.0.0/30"),
        ("FIXED_RANGE", "127.0.0.0/24"),
        ("INTERFACE", "a/b"),
        ("INSTANCES_PATH", "relative"),
        ("INSTANCES_PATH", "/a/../b"),
        ("LOCK_PATH", "/with space"),
        ("LOCK_PATH", "/$HOME"),
        ("SCREEN_NAME", "a;b"),
        ("PORT_OFFSET", "-1"),
        ("PORT_OFFSET", "99999"),
        ("PORT_OFFSET", "1e3"),
    ],
)
def test_a_value_that_cannot_be_served_is_refused_with_its_name(name, value):
    with pytest.raises(Refused) as refused:
        variables.given({name: value})
    assert f"{name}={value}" in refused.value.cause


@pytest.mark.parametrize(
    ("name", "value"),
    [("USE_LDAP", "1"), ("USE_IPV6", "1"), ("NET_MAN", "VlanManager"), ("FLOATING_RANGE", "10/8")],
)
def test_what_is_not_built_yet_is_refused(name, value):
    with pytest.raises(Refused, match="does not build that yet"):
        variables.given({name: value})


def test_the_built_network_manager_may_be_named():
    assert variables.given({"NET_MAN": "FlatDHCPManager", "USE_LDAP": "0"}) == {}


def test_a_range_is_written_by_its_network():
    assert variables.given({"FIXED_RANGE": "10.1.2.3/24"}) == {"FIXED_RANGE": "10.1.2.0/24"}


def test_another_value_for_a_kept_one_is_refused_with_both():
    with pytest.raises(Refused) as refused:
        variables.merged({"PORT_OFFSET": "0"}, {"PORT_OFFSET": "100"})
    assert "PORT_OFFSET=0" in refused.value.cause
    assert "PORT_OFFSET=100" in refused.value.cause


def test_the_same_value_again_is_fine():
    kept = variables.DEFAULTS | {"PORT_OFFSET": "100"}
    assert variables.merged(kept, variables.given({"PORT_OFFSET": "0100"})) == kept


def test_a_password_is_never_shown():
    with pytest.raises(Refused) as refused:
        variables.merged({"MYSQL_PASS": "old-one"}, {"MYSQL_PASS": "new-one"})
    assert "old-one" not in refused.value.cause
    assert "new-one" not in refused.value.cause


def test_what_was_written_is_read(tmp_path):
    file = tmp_path / "variables.json"
    assert variables.read(file) is None
    variables.write(file, {"HOST_IP": "127.0.0.1"})
    assert variables.read(file) == {"HOST_IP": "127.0.0.1"}
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_broken_file_is_named(tmp_path):
    file = tmp_path / "variables.json"
    file.write_text("{")
    with pytest.raises(Refused, match=r"variables\.json"):
        variables.read(file)


def test_the_state_directory_is_absolute_and_plain():
    assert variables.state_path({}) == Path("/var/lib/minicloud")
    assert variables.state_path({"MINICLOUD_STATE": "/tmp/x/"}) == Path("/tmp/x")
    with pytest.raises(Refused):
        variables.state_path({"MINICLOUD_STATE": "/tmp/a b"})


@given(st.sampled_from(sorted(variables.DEFAULTS)), st.text(max_size=30))
def test_any_value_is_taken_or_refused_and_taking_twice_changes_nothing(name, value):
    try:
        once = variables.given({name: value})
    except Refused:
        return
    assert variables.given(once) == once
    variables.parsed(once)
