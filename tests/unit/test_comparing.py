"""The comparisons of sweeps and auditor: what is right gives nothing, what is wrong is named."""

from __future__ import annotations

import pathlib
import types
from typing import Any

import pytest

from minicloud import findings
from minicloud.compute import comparing as compute
from minicloud.compute.driver import Domain, Inventory
from minicloud.db import addresses
from minicloud.findings import Finding
from minicloud.network import comparing as network
from minicloud.network import dnsmasq
from minicloud.network.driver import Present
from minicloud.objectstore import comparing as objectstore
from minicloud.volume import comparing as volume


def row(**values: Any) -> Any:
    return types.SimpleNamespace(**values)


def named(found: Any) -> list[tuple[str, str]]:
    return [(one.kind, one.id) for one in found]


def guest(state: str, rest: str | None = "running") -> Any:
    return row(id="i", state=state, rest=rest)


@pytest.mark.parametrize(
    ("said", "shown", "becomes"),
    [
        (guest("running"), "running", None),
        (guest("running"), "paused", None),
        (guest("stopped"), "stopped", None),
        (guest("running"), "stopped", "stopped"),
        (guest("stopped"), "running", "running"),
        (guest("running"), None, "error"),
        (guest("error"), "running", "running"),
        (guest("error"), None, None),
        (guest("error", rest=None), "running", None),  # it never ran: nobody knows what it is
    ],
)
def test_a_settled_row_follows_its_domain(said: Any, shown: str | None, becomes: str | None):
    domains = {"i": Domain("i", shown, 1)} if shown else {}
    found = compute.guests([said], domains, host_booted=False)
    assert [one.facts["state"] for one in found] == ([becomes] if becomes else [])
    assert all(one.kind == findings.GUEST_DIFFERS for one in found)


def test_a_guest_that_is_off_because_its_host_booted_is_to_start():
    [found] = compute.guests([guest("running")], {"i": Domain("i", "stopped", 1)}, True)
    assert found.facts["state"] == "starting"


def test_disks_are_compared_in_guests_that_run():
    domains = {
        "on": Domain("on", "running", 1, ("b",)),
        "off": Domain("off", "stopped", 1, ("b",)),
    }
    attached = [
        row(id="fine", volume_id="v", instance_id="on", device="b"),
        row(id="lost", volume_id="v", instance_id="on", device="c"),
        row(id="off", volume_id="v", instance_id="off", device="c"),
        row(id="gone", volume_id="v", instance_id="nowhere", device="b"),
    ]
    assert named(compute.lost_disks(attached, domains)) == [(findings.DISK_GONE, "lost")]
    assert compute.stray_disks(domains, {"on", "off"}, {("on", "b")}) == []
    assert named(compute.stray_disks(domains, {"on", "off"}, set())) == [
        (findings.DISK_WITHOUT_ROW, "on")
    ]
    assert compute.stray_disks(domains, set(), set()) == [], "an orphan goes with its disks"


def test_a_guest_that_ran_has_its_root_disk():
    rows = [guest("running"), row(id="gone", state="stopped", rest="stopped")]
    never_ran = row(id="new", state="error", rest=None)
    found = compute.without_disk([*rows, never_ran], {"i"})
    assert named(found) == [(findings.ROOT_DISK_GONE, "gone")]


def test_what_is_on_a_host_and_in_no_row_is_an_orphan():
    domains = {"kept": Domain("kept", "running", 1), "stray": Domain("stray", "running", 1)}
    files, taps = frozenset({"kept", "files"}), frozenset({"t1", "t2"})
    present = Inventory(domains, files, taps=taps, parts={"p": 0.0})
    assert named(compute.orphans(present, {"kept"})) == [
        (findings.GUEST_WITHOUT_ROW, "files"),
        (findings.GUEST_WITHOUT_ROW, "stray"),
    ]
    assert named(compute.loose_taps(present, {"t1"})) == [(findings.TAP_WITHOUT_GUEST, "t2")]
    [part] = compute.parts(present)
    assert (part.id, part.since) == ("p", "1970-01-01T00:00:00Z")


def booking(last: int, since: int = 1, leaving: int | None = None) -> Any:
    where = {"address": f"10.0.0.{last}", "mac": f"m{last}", "instance_id": f"i{last}"}
    return row(**where, since=since, leaving=leaving)


def served(present: Present | None, *bookings: Any, applied: int = 5) -> list[tuple[str, str]]:
    return named(network.served(row(id="n", name="net"), present, bookings, applied))


def answers(*numbers: int) -> frozenset[tuple[str, str]]:
    return frozenset((f"10.0.0.{n}", f"m{n}") for n in numbers)


def test_a_network_answers_for_what_is_booked_and_nothing_else():
    fine = Present(entries=answers(2, 3), leases=answers(2))
    assert served(fine, booking(2), booking(3)) == []
    assert served(fine, booking(2)) == [(findings.ANSWER_WITHOUT_BOOKING, "n")]
    assert served(Present(leases=answers(2))) == [(findings.ANSWER_WITHOUT_BOOKING, "n")]
    assert served(Present(leases=answers(2)), booking(2)) == [
        (findings.BOOKING_NOT_ANSWERED, "i2")
    ]


def test_what_a_network_has_not_applied_yet_is_not_wrong():
    assert served(Present(), booking(2, since=6)) == []
    assert served(Present(entries=answers(2)), booking(2, leaving=6)) == []
    assert served(Present(entries=answers(2)), booking(2, leaving=5)) != []
    assert served(None, applied=0) == []


def test_a_network_lacks_what_is_gone_from_its_host():
    assert served(None) == [(findings.NETWORK_LACKS, "n")]
    assert served(Present(lacks=("dnsmasq", "a link"))) == [(findings.NETWORK_LACKS, "n")] * 2
    assert named(network.orphans({1: Present(), 2: Present()}, {1})) == [
        (findings.NETWORK_WITHOUT_ROW, "2")
    ]


def test_volumes_and_exports_are_compared_with_the_disk():
    rows = [
        row(id="fine", state="available", rest="available"),
        row(id="lost", state="available", rest="available"),
        row(id="back", state="error", rest="available"),
        row(id="never", state="error", rest=None),
        row(id="new", state="creating", rest=None),
    ]
    present = {"fine", "back", "never", "stray"}
    found = volume.differing(rows, present)
    assert [(one.id, one.facts["state"]) for one in found] == [
        ("lost", "error"),
        ("back", "available"),
    ]
    assert named(volume.orphans(present, {one.id for one in rows})) == [
        (findings.VOLUME_WITHOUT_ROW, "stray")
    ]


def test_exports_are_exactly_those_of_what_is_attached():
    live = [
        row(id="1", export_id="a", volume_id="v", since=2),
        row(id="2", export_id="b", volume_id="v", since=3),
    ]
    assert volume.stray_exports({"a": "v", "b": "v"}, live) == []
    assert named(volume.stray_exports({"x": ""}, live)) == [(findings.EXPORT_WITHOUT_ROW, "x")]
    assert named(volume.missing_exports({}, live, {"v": 2})) == [(findings.EXPORT_MISSING, "1")]
    half_made = {"a": "", "b": "v"}
    assert named(volume.missing_exports(half_made, live, {"v": 3})) == [
        (findings.EXPORT_MISSING, "1")
    ]


def image(state: str, file: str, rest: str = "active", size: int | None = 3) -> Any:
    return row(id=file, state=state, rest=rest, file=file, size=size)


def test_images_follow_their_files():
    files = {"fine": 3, "short": 2, "back": 3, "any": 9}
    rows = [
        image("active", "fine"),
        image("active", "any", size=None),
        image("active", "short"),
        image("active", "gone"),
        image("error", "back"),
        image("error", "lost"),
    ]
    found = list(objectstore.images(rows, files))
    assert [(one.id, one.facts["state"]) for one in found] == [
        ("short", "error"),
        ("gone", "error"),
        ("back", "active"),
    ]


def test_objects_uploads_and_files_are_compared():
    files = {"fine": 3, "short": 2}
    rows = [("a", "fine", 3), ("b", "short", 3), ("c", "gone", None)]
    assert [one.id for one in objectstore.lost(rows, files)] == ["b", "c"]
    assert [one.id for one in objectstore.cut_off(["a", "b"], {"a"})] == ["b"]
    [found] = objectstore.orphans(["object-ec200000-0000-0000-0000-000000000000-0123abcd"])
    assert found.about == "ec200000-0000-0000-0000-000000000000"


def test_dnsmasqs_files_are_read_as_it_reads_them(tmp_path: pathlib.Path):
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "10.0.0.2").write_text("m2,10.0.0.2,name\n")
    (tmp_path / "hosts" / "10.0.0.3").write_text("m3,ignore\n")
    (tmp_path / "hosts" / ".10.0.0.4.part").write_text("m4,10.0.0.4,name\n")
    (tmp_path / "leases").write_text("12 52:54:00:00:00:05 10.0.0.5 * *\nduid 00:01\n")
    assert dnsmasq.entries(tmp_path) == {("10.0.0.2", "m2")}
    assert dnsmasq.leases(tmp_path) == {("10.0.0.5", "52:54:00:00:00:05")}
    assert dnsmasq.entries(tmp_path / "none") == dnsmasq.leases(tmp_path / "none") == frozenset()
    assert not dnsmasq.alive(tmp_path)


def test_a_finding_says_why_when_the_row_does():
    assert Finding("k", "id", "it waits", facts={"why": "no room"}).text == "it waits: no room"
    assert Finding("k", "id", "it waits").text == "it waits"


def test_network_cards_are_named_as_the_hosts_look_for_them(
    options: Any, monkeypatch: pytest.MonkeyPatch
):
    from minicloud.compute.libvirt import ports
    from minicloud.wiring import links

    drawn = {addresses._tap() for _ in range(50)}
    others = {"mc-test-n1", "mc-test-g1", "mc-zzzz-abcdefg", "lo"}
    monkeypatch.setattr(links, "devices", lambda: {name: {} for name in drawn | others})
    assert ports.present("test") == drawn
