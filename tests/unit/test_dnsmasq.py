"""What dnsmasq is given: its arguments, the files of bookings, a release in a guest's name; and
what its hook sends."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

import pytest

from minicloud.network import dhcp_hook, dnsmasq
from minicloud.network.driver import Booking, Net
from minicloud.wiring import Bridge

NET = Net(
    id="ec2-net",
    number=3,
    name="private",
    kind="flatdhcp",
    cidr="10.0.0.0/24",
    gateway="10.0.0.1",
    mtu=1450,
    dns=("192.0.2.53",),
    links=(Bridge("mc-test-n3", 1450),),
)
FIRST = Booking("02:00:00:00:00:05", "10.0.0.5", "ip-10-0-0-5")
SECOND = Booking("02:00:00:00:00:06", "10.0.0.6", "ip-10-0-0-6")


@pytest.fixture
def hosts(tmp_path: pathlib.Path) -> pathlib.Path:
    (tmp_path / "hosts").mkdir()
    return tmp_path / "hosts"


def entries(*bookings: Booking) -> dict[str, str]:
    return dict(dnsmasq._entries(NET, bookings))


def contents(hosts: pathlib.Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in hosts.iterdir()}


def command(tmp_path: pathlib.Path, net: Net = NET) -> list[str]:
    directory = tmp_path / "networks" / "mc-test-net3"
    return dnsmasq.command(
        dnsmasq.Server(net, "test", "mc-test-net3", directory, "/bin/hook", "/run/events")
    )


def test_the_arguments_say_range_mtu_and_servers_and_carry_the_tag(
    tmp_path: pathlib.Path,
) -> None:
    arguments = command(tmp_path)
    assert "--dhcp-range=10.0.0.0,static,255.255.255.0,1h" in arguments
    assert "--dhcp-option-force=26,1450" in arguments
    assert "--server=192.0.2.53" in arguments
    assert "--dhcp-script=/bin/hook" in arguments
    assert "--dhcp-lease-max=256" in arguments
    assert "--dhcp-ignore-names" in arguments
    assert "--quiet-dhcp" in arguments
    assert "mc-test-net3" in " ".join(arguments)


def test_without_servers_no_name_of_the_outside_is_asked_for(tmp_path: pathlib.Path) -> None:
    arguments = command(tmp_path, Net(**{**vars(NET), "dns": ()}))
    assert "--no-resolv" in arguments
    assert not [word for word in arguments if word.startswith("--server")]


def test_a_new_booking_is_a_new_file_and_needs_no_signal(hosts: pathlib.Path) -> None:
    assert dnsmasq._publish(hosts, entries(FIRST)) is False
    assert dnsmasq._publish(hosts, entries(FIRST, SECOND)) is False
    assert contents(hosts) == {
        "10.0.0.5": "02:00:00:00:00:05,10.0.0.5,ip-10-0-0-5\n",
        "10.0.0.6": "02:00:00:00:00:06,10.0.0.6,ip-10-0-0-6\n",
    }


def test_a_booking_that_left_is_ignored_at_once_and_without_a_signal(
    hosts: pathlib.Path,
) -> None:
    dnsmasq._publish(hosts, entries(FIRST, SECOND))
    for _ in range(2):
        assert dnsmasq._publish(hosts, entries(SECOND)) is False
        assert contents(hosts)["10.0.0.5"] == "02:00:00:00:00:05,ignore\n"


def test_an_address_with_a_new_owner_needs_a_signal_and_clears_what_left(
    hosts: pathlib.Path,
) -> None:
    dnsmasq._publish(hosts, entries(FIRST, SECOND))
    dnsmasq._publish(hosts, {})
    wanted = entries(Booking("02:00:00:00:00:07", "10.0.0.5", "ip-10-0-0-5"))
    assert dnsmasq._publish(hosts, wanted) is True
    assert contents(hosts) == wanted


def test_what_left_is_cleared_when_there_is_much_of_it(hosts: pathlib.Path) -> None:
    many = [
        Booking(f"02:00:00:00:01:{i:02x}", f"10.0.0.{i}", f"ip-10-0-0-{i}") for i in range(10, 100)
    ]
    dnsmasq._publish(hosts, entries(*many))
    assert dnsmasq._publish(hosts, {}) is True
    assert contents(hosts) == {}


@pytest.mark.parametrize(
    "booking",
    [
        Booking("02:00:00:00:00:05", "10.0.0.5", "a\n02:00:00:00:00:06,10.0.0.6"),
        Booking("02:00:00:00:00:05", "10.0.0.5", "a,set:x"),
        Booking("02:00:00:00:00:05", "10.0.0.5", ""),
        Booking("02:00:00:00:00:05", "../../etc/passwd", "a"),
        Booking("02:00:00:00:00:05", "10.0.1.5", "a"),
        Booking("02:00:00:00:00:05,ignore", "10.0.0.5", "a"),
    ],
)
def test_a_malformed_booking_is_left_out_and_said(
    booking: Booking, caplog: pytest.LogCaptureFixture
) -> None:
    assert entries(booking, SECOND) == entries(SECOND)
    assert "malformed" in caplog.text
    assert "\n02:" not in caplog.records[0].getMessage()


def test_a_lease_belongs_to_the_mac_that_has_the_booking() -> None:
    wanted = entries(FIRST)
    assert dnsmasq._is_wanted(["1", FIRST.mac, FIRST.address, "*", "*"], wanted)
    assert not dnsmasq._is_wanted(["1", SECOND.mac, FIRST.address, "*", "*"], wanted)
    assert not dnsmasq._is_wanted(["1", SECOND.mac, SECOND.address, "*", "*"], wanted)


def test_lines_that_are_no_leases_are_left_out(tmp_path: pathlib.Path) -> None:
    good = f"1700000000 {FIRST.mac} {FIRST.address} name *".encode()
    no_address = f"1700000000 {FIRST.mac} 300.0.0.1 name *".encode()
    no_mac = f"1700000000 02:00 {SECOND.address} name *".encode()
    for rubbish in (b"", b"\xff\x00\xfe", b"a b c d e", no_address, no_mac):
        (tmp_path / "leases").write_bytes(b"\n".join([rubbish, good, rubbish]))
        assert dnsmasq.leases(tmp_path) == {(FIRST.address, FIRST.mac)}, rubbish


def test_bookings_that_are_rubbish_are_written_anew(hosts: pathlib.Path) -> None:
    dnsmasq._publish(hosts, entries(FIRST))
    before = contents(hosts)
    for name in (FIRST.address, SECOND.address):
        (hosts / name).write_bytes(b"\xff\xfe")
    assert dnsmasq._publish(hosts, entries(FIRST))
    assert contents(hosts) == before


def test_a_release_names_the_guest_its_address_and_the_server() -> None:
    packet = dnsmasq.release_packet(FIRST.mac, FIRST.address, NET.gateway)
    assert packet[:4] == bytes([1, 1, 6, 0])  # request, Ethernet, 6 bytes of address
    assert packet[12:16] == bytes([10, 0, 0, 5])
    assert packet[28:34] == bytes.fromhex("020000000005")
    assert packet[236:240] == bytes([99, 130, 83, 99])  # RFC 2131, 3
    assert packet[240:] == bytes([53, 1, 7, 54, 4, 10, 0, 0, 1, 255])


def test_a_process_that_only_looks_like_ours_is_not_signalled(tmp_path: pathlib.Path) -> None:
    assert not dnsmasq._is_of(os.getpid(), tmp_path)
    dnsmasq.stop(tmp_path)  # nothing of this directory runs: nothing to wait for


def run_hook(path: str, *words: str) -> int:
    environment = {**os.environ, dhcp_hook.SOCKET: path}
    hook = [sys.executable, dhcp_hook.__file__, *words]
    return subprocess.run(hook, env=environment, timeout=30, check=False).returncode


def test_the_hook_sends_one_datagram(tmp_path: pathlib.Path) -> None:
    path = str(tmp_path / "events")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(path)
        heard.settimeout(10)
        assert run_hook(path, "add", FIRST.mac, FIRST.address, "x" * 5000) == 0
        words = heard.recv(65536).split(b"\0")
    assert words[:3] == [b"add", FIRST.mac.encode(), FIRST.address.encode()]
    assert sum(map(len, words)) <= 1024


def test_the_hook_does_not_fail_without_a_daemon(tmp_path: pathlib.Path) -> None:
    assert run_hook(str(tmp_path / "nobody"), "old", FIRST.mac, FIRST.address) == 0
    assert run_hook("", "init") == 0


def test_the_hook_needs_nothing_but_the_standard_library() -> None:
    source = f"import sys; sys.argv = ['x']; exec(open({dhcp_hook.__file__!r}).read())"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", source], timeout=30, check=False)
    assert done.returncode == 0


def test_the_log_of_a_networks_dnsmasq_begins_anew_when_it_is_long(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = dnsmasq.Server(NET, "test", "mc-test-net1", tmp_path, "/bin/hook", "/run/events")
    server.hosts.mkdir()
    monkeypatch.setattr(dnsmasq, "running", lambda server: 1)
    log = tmp_path / "dnsmasq.log"
    for size, left in ((dnsmasq.LOG_BYTES, dnsmasq.LOG_BYTES), (dnsmasq.LOG_BYTES + 1, 0)):
        log.write_bytes(bytes(size))
        dnsmasq.serve(server, [], certain=False)
        assert log.stat().st_size == left
