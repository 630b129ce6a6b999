"""What is decided about instances, on every engine."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import context, errors, ids, states
from minicloud.cloud import (
    flavors,
    groups,
    images,
    instances,
    keypairs,
    quotas,
    shown,
    volumes,
    zones,
)
from minicloud.context import Context
from minicloud.db import models, session
from minicloud.db.session import Tx, reading, transaction
from tests.databases import database  # noqa: F401

Caller = Callable[[], Context]


def run(ctx: Context, **wish: Any) -> list[instances.InstanceView]:
    usual = {"image": "ami-tty", "count_min": 1, "count_max": 1, "flavor": "m1.nano"}
    return instances.run(ctx, **{**usual, **wish})


@transaction
def put(tx: Tx, id: str, **values: Any) -> None:
    """A daemon's work, in short."""
    tx.changed(sa.update(models.Instance).where(models.Instance.id == id).values(**values))


@reading
def everything(tx: Tx, model: type[models.Base]) -> list[Any]:
    return list(tx.scalars(sa.select(model)))


@contextlib.contextmanager
def sent() -> Iterator[list[Any]]:
    """The nudges that went out meanwhile."""
    nudges: list[Any] = []
    session.send_with(nudges.extend)
    yield nudges
    session.send_with(lambda nudges: None)


@contextlib.contextmanager
def statements() -> Iterator[list[str]]:
    """The SQL statements executed meanwhile."""
    seen: list[str] = []

    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    sa.event.listen(session.engine(), "before_cursor_execute", listen)
    yield seen
    sa.event.remove(session.engine(), "before_cursor_execute", listen)


# --- run ------------------------------------------------------------------------------------


def test_run_books_all_an_instance_needs_and_tells_the_scheduler(caller: Caller) -> None:
    pair, _ = keypairs.create(caller(), "mine", "ed25519")
    data = base64.b64encode(b"#!/bin/sh\n").decode()
    with sent() as nudges:
        [view] = run(caller(), key_name="mine", user_data=data, zone="nova", name="web")
    row = view.row
    assert (row.state, row.rest, row.host) == ("scheduling", None, None)
    assert (row.vcpus, row.memory_mib, row.disk_gib, row.flavor) == (1, 96, 0, "m1.nano")
    assert (row.name, row.public_key, row.user_data) == ("web", pair.public_key, data)
    assert view.image_ec2_id == "ami-tty"
    assert [name for _, name in view.groups] == ["default"]
    [shown] = view.addresses
    [address] = everything(models.Address)
    assert (shown.id, shown.address, shown.network) == (address.id, "10.0.0.2", "private")
    assert (address.address, row.hostname, address.hostname) == (
        "10.0.0.2",
        "ip-10-0-0-2",
        "ip-10-0-0-2",
    )
    assert address.mac.startswith("02:16:3e:")
    assert len(address.tap) == 15
    assert address.tap.startswith("mc-test-")
    [network] = everything(models.Network)
    assert (network.last_number & 255, address.since) == (2, network.wanted)
    assert "place_instances" in [nudge.method.__name__ for nudge in nudges]


def test_a_joined_group_is_applied_anew(caller: Caller) -> None:
    [before] = everything(models.SecurityGroup)
    run(caller())
    [after] = everything(models.SecurityGroup)
    assert after.wanted == before.wanted + 1


def test_instances_of_one_request_are_one_reservation_in_order(caller: Caller) -> None:
    views = run(caller(), count_min=3, count_max=3)
    assert [view.row.launch_index for view in views] == [0, 1, 2]
    assert len({view.row.reservation_id for view in views}) == 1
    assert [view.addresses[0].address for view in views] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]


def test_run_takes_as_many_as_fit(caller: Caller) -> None:
    quotas.change(context.admin(), "proj", "ram", 5 * 96 + 50)
    assert len(run(caller(), count_min=1, count_max=8)) == 5
    with pytest.raises(errors.QuotaExceeded) as raised:
        run(caller(), count_min=1, count_max=8)
    assert raised.value.facts == {"resource": "ram", "limit": 530, "used": 480, "wanted": 96}


def test_cores_are_refused_by_their_own_code(caller: Caller) -> None:
    quotas.change(context.admin(), "proj", "cores", 7)
    with pytest.raises(errors.VcpuLimitExceeded):
        run(caller(), flavor="m1.xlarge")


def test_what_is_terminated_or_never_got_a_host_counts_no_more(caller: Caller) -> None:
    quotas.change(context.admin(), "proj", "instances", 2)
    first, second = run(caller(), count_min=2, count_max=2)
    with pytest.raises(errors.QuotaExceeded):
        run(caller())
    instances.terminate(caller(), [first.row.id])
    put(second.row.id, state="error")
    assert len(run(caller(), count_min=2, count_max=2)) == 2


WRONG_WISHES: list[tuple[dict[str, Any], type[errors.Error]]] = [
    ({"image": "ami-nix"}, errors.ImageNotFound),
    ({"image": "ami-0123456789abcdef0"}, errors.ImageNotFound),
    ({"image": "aki-tty"}, errors.ImageNotFound),
    ({"image": "ami-"}, errors.InvalidImageIdMalformed),
    ({"image": "ami-'; drop"}, errors.InvalidImageIdMalformed),
    ({"kernel": "ami-tty"}, errors.ImageNotFound),
    ({"flavor": "m9.huge"}, errors.FlavorNotFound),
    ({"flavor": "M1.NANO"}, errors.FlavorNotFound),
    ({"key_name": "nobody's"}, errors.KeyPairNotFound),
    ({"groups": ["default", "none"]}, errors.GroupNotFound),
    ({"group_ids": ["sg-0123456789abcdef0"]}, errors.GroupNotFound),
    ({"group_ids": ["sg-1"]}, errors.InvalidGroupIdMalformed),
    ({"zone": "mars"}, errors.ZoneNotFound),
    ({"count_min": 0}, errors.InvalidValue),
    ({"count_min": 3, "count_max": 2}, errors.InvalidValue),
    ({"count_max": 1001}, errors.InvalidValue),
    ({"user_data": "%%%"}, errors.BadRequest),
    ({"user_data": base64.b64encode(bytes(16385)).decode()}, errors.BadRequest),
    ({"token": "x" * 65}, errors.InvalidValue),
    ({"name": "a\x00b"}, errors.InvalidValue),
    ({"flavor": "m1.tiny", "count_min": 254, "count_max": 300}, errors.QuotaExceeded),
]


def test_a_wrong_wish_is_refused_and_leaves_no_trace(caller: Caller) -> None:
    tables = (models.Instance, models.Address, models.Request, models.Event)
    before = [len(everything(model)) for model in tables]
    for wish, error in WRONG_WISHES:
        with pytest.raises(error):
            run(caller(), **wish)
        assert [len(everything(model)) for model in tables] == before, wish


def test_the_largest_user_data_is_taken(caller: Caller) -> None:
    data = base64.encodebytes(bytes(16384)).decode()  # with line breaks, as old clients send it
    assert run(caller(), user_data=data)[0].row.user_data == data


def test_a_dry_run_says_so_and_changes_nothing(caller: Caller) -> None:
    before = len(everything(models.Request))
    with pytest.raises(errors.DryRun):
        run(dataclasses.replace(caller(), dry_run=True))
    assert everything(models.Instance) == []
    assert len(everything(models.Request)) == before


def test_a_client_token_answers_with_what_it_started(caller: Caller) -> None:
    [first] = run(caller(), token="t")
    [again] = run(caller(), token="t")
    assert first.row.id == again.row.id
    with pytest.raises(errors.IdempotentMismatch):
        run(caller(), token="t", flavor="m1.tiny")


def test_a_request_that_is_run_again_reads_what_it_did(caller: Caller) -> None:
    ctx = caller()
    assert run(ctx)[0].row.id == run(ctx)[0].row.id
    assert len(everything(models.Instance)) == 1


def test_another_projects_things_do_not_exist(caller: Caller) -> None:
    [mine] = run(caller())
    keypairs.create(caller(), "mine", "ed25519")
    stranger = dataclasses.replace(caller(), project_id=ids.new(), user_id=ids.new())
    for ask in (
        lambda: instances.get(stranger, mine.row.id),
        lambda: instances.find(stranger, ids=[shown.instance_id(mine.row)]),
        lambda: instances.console_output(stranger, shown.instance_id(mine.row)),
    ):
        with pytest.raises(errors.InstanceNotFound):
            ask()
    stranger = dataclasses.replace(stranger, request_id=context.new_request_id())
    with pytest.raises(errors.InstanceNotFound):
        instances.terminate(stranger, [mine.row.id])
    assert instances.find(stranger).items == []
    assert keypairs.find(stranger).items == []
    assert groups.find(stranger).items == []


def test_without_a_project_nothing_runs() -> None:
    with pytest.raises(errors.Forbidden):
        run(context.admin())


def test_a_zone_is_there_while_its_hosts_are_down(caller: Caller) -> None:
    @transaction
    def register(tx: Tx) -> None:
        for host, zone, age_s in (("h1", "nova", 0), ("h2", "west", 60), ("h3", "east", -60)):
            row = {"id": f"compute@{host}", "host": host, "daemon": "compute", "zone": zone}
            tx.execute(sa.insert(models.Host).values(machine_id="m", **row))
            beat = models.now(-age_s)
            tx.changed(
                sa.update(models.Host).where(models.Host.host == host).values(heartbeat=beat)
            )

    assert zones.find(caller()) == [zones.Zone("nova", False)]
    register()
    assert zones.find(caller()) == [
        zones.Zone("east", False),  # a heartbeat from the future has no age
        zones.Zone("nova", True),
        zones.Zone("west", False),
    ]
    assert run(caller(), zone="west")[0].row.wanted_zone == "west"


def _counted(caller: Caller, count: int) -> int:
    with statements() as seen:
        views = run(caller(), count_min=count, count_max=count, token=f"token-{count}")
    assert len(views) == count
    return len(seen)


def test_the_number_of_statements_does_not_depend_on_the_number_of_things(
    caller: Caller,
) -> None:
    for resource in quotas.RESOURCES:
        quotas.change(context.admin(), "proj", resource, -1)
    few, many = _counted(caller, 1), _counted(caller, 200)
    assert many == few
    assert few <= 45
    with statements() as seen:
        assert len(instances.find(caller()).items) == 201
    everything_listed = len(seen)
    with statements() as seen:
        instances.find(caller(), limit=1)
    assert len(seen) == everything_listed <= 6


# --- find -----------------------------------------------------------------------------------


def test_pages_show_each_instance_once(caller: Caller) -> None:
    started = {view.row.id for view in run(caller(), count_min=7, count_max=7)}
    found: list[str] = []
    page = instances.find(caller(), limit=3)
    sizes = [len(page.items)]
    found += [view.row.id for view in page.items]
    while page.next:
        page = instances.find(caller(), limit=3, after=page.next)
        sizes.append(len(page.items))
        found += [view.row.id for view in page.items]
    assert (sizes, sorted(found)) == ([3, 3, 1], sorted(started))
    with pytest.raises(errors.InvalidNextToken):
        instances.find(caller(), after="'")


def test_unknown_ids_are_all_named(caller: Caller) -> None:
    [view] = run(caller())
    good, bad = shown.instance_id(view.row), ["i-0123456789abcdef0", "i-00000000"]
    with pytest.raises(errors.InstanceNotFound, match=", ".join(bad)):
        instances.find(caller(), ids=[good, *bad])
    with pytest.raises(errors.InvalidInstanceIdMalformed):
        instances.find(caller(), ids=[good, "i-x"])
    short = good[:10]
    for name in (good, short, view.row.id):
        assert instances.get(caller(), name).row.id == view.row.id


def test_a_thousand_ids_can_be_asked_for(caller: Caller) -> None:
    [view] = run(caller())
    many = [f"i-{number:017x}" for number in range(999)]
    with pytest.raises(errors.InstanceNotFound):
        instances.find(caller(), ids=[shown.instance_id(view.row), *many])
    with pytest.raises(errors.BadRequest):
        instances.find(caller(), ids=[*many, *many])


def test_filters_find_what_they_say(caller: Caller) -> None:
    groups.create(caller(), "web[x]*", "x")
    keypairs.create(caller(), "Key_1%", "ed25519")
    [first] = run(caller(), key_name="Key_1%", groups=["web[x]*"], token="Token")
    [second] = run(caller(), flavor="m1.tiny")
    put(second.row.id, state="running", rest="running", host="h1", zone="west")
    both = {first.row.id, second.row.id}
    one, two = {first.row.id}, {second.row.id}
    expected = [
        ("instance-id", [shown.instance_id(first.row)], one),
        ("instance-id", ["i-*"], both),
        ("instance-id", ["i-zzz", shown.instance_id(second.row)[:-1] + "?"], two),
        ("instance-state-name", ["pending"], one),
        ("instance-state-name", ["running", "stopped"], two),
        ("instance-state-name", ["RUNNING"], set()),
        ("instance-state-name", ["*ing"], both),
        ("instance-state-code", ["16"], two),
        ("image-id", ["ami-tty"], both),
        ("image-id", ["ami-t?y"], both),
        ("image-id", ["ami-tt"], set()),
        ("kernel-id", ["*"], set()),
        ("instance-type", ["m1.nano"], one),
        ("instance-type", ["M1.nano"], set()),
        ("instance-type", ["m1.*"], both),
        ("key-name", ["Key_1%"], one),
        ("key-name", ["Key?1%"], one),
        ("key-name", ["*_1*"], one),
        ("key-name", ["?e*_?%"], one),
        ("key-name", ["Keyx1%", "Key_1", "%", "Key_%", "*_%1*"], set()),
        ("key-name", ["key*"], set()),
        ("key-name", ["K\\*"], set()),
        ("private-ip-address", ["10.0.0.2"], one),
        ("private-dns-name", ["ip-10-0-0-*"], both),
        ("availability-zone", ["west"], two),
        ("availability-zone", ["nova"], one),
        ("reservation-id", [shown.reservation_id(first.row)], one),
        ("client-token", ["Token"], one),
        ("launch-index", ["0"], both),
        ("launch-index", ["zero", "99999999999999999999"], set()),
        ("owner-id", [first.row.project_id], both),
        ("owner-id", ["żółw"], set()),
        ("instance.group-name", ["web[x]\\*"], one),
        ("instance.group-name", ["w*[x]?"], one),
        ("instance.group-name", ["w*[?]\\*"], one),
        ("instance.group-name", ["w*[?]\\?"], set()),
        ("instance.group-name", ["w*x?"], set()),
        ("group-id", [ids.ec2("sg", first.groups[0][0])], one),
        ("architecture", ["x86_64"], both),
        ("client-token", ["\x00", "\ud800"], set()),
    ]
    for name, values, wanted in expected:
        found = instances.find(caller(), filters={name: values}).items
        assert {view.row.id for view in found} == wanted, (name, values)
    combined = {"instance-type": ["m1.*"], "instance-state-name": ["running"]}
    assert [v.row.id for v in instances.find(caller(), filters=combined).items] == [second.row.id]


def test_every_filter_answers_whatever_it_is_given(caller: Caller) -> None:
    run(caller())
    keypairs.create(caller(), "key", "ed25519")
    values = ("", "*", "?", "[", "%", "_", "!", "\\", "'", "ż", "*" * 255, "a*" * 127, "-1")
    volumes.create(caller(), size_gib=1, zone="nova")
    for noun in (instances, images, groups, keypairs, flavors, volumes):
        assert noun.find(caller()).items != []
        for name in noun.FILTERS:
            for value in values:
                noun.find(caller(), filters={name: [value]})


def test_a_filter_that_is_none_is_refused(caller: Caller) -> None:
    with pytest.raises(errors.InvalidFilter):
        instances.find(caller(), filters={"tag:": ["x"]})


# --- verbs ----------------------------------------------------------------------------------


def test_terminating_what_no_host_has_frees_all_at_once(caller: Caller) -> None:
    [view] = run(caller())
    [change] = instances.terminate(caller(), [shown.instance_id(view.row)])
    assert (change.before, change.after) == (
        ("scheduling", None),
        ("terminated", "terminated"),
    )
    [row] = everything(models.Instance)
    assert row.terminated_at is not None
    [address] = everything(models.Address)
    [network] = everything(models.Network)
    assert address.leaving == network.wanted
    assert everything(models.GroupMember) == []
    [again] = instances.terminate(caller(), [view.row.id])
    assert again.before == again.after == ("terminated", "terminated")


def test_terminating_what_a_host_has_is_the_hosts_work(caller: Caller) -> None:
    [view] = run(caller())
    put(view.row.id, state="running", rest="running", host="h1")
    with sent() as nudges:
        [change] = instances.terminate(caller(), [view.row.id])
    assert change.after == ("terminating", "running")
    assert [(nudge.method.__name__, nudge.host) for nudge in nudges] == [
        ("terminate_instance", "h1")
    ]
    [address] = everything(models.Address)
    assert address.leaving is None


def test_the_terminated_are_shown_for_an_hour(caller: Caller) -> None:
    [view] = run(caller())
    instances.terminate(caller(), [view.row.id])
    [seen] = instances.find(caller(), ids=[shown.instance_id(view.row)]).items
    assert (seen.row.state, seen.addresses, seen.groups) == ("terminated", [], [])
    put(view.row.id, terminated_at=models.now(-3601))
    assert instances.find(caller()).items == []
    with pytest.raises(errors.InstanceNotFound):
        instances.terminate(caller(), [view.row.id])


def test_one_wrong_instance_keeps_all_as_they_are(caller: Caller) -> None:
    first, second = run(caller(), count_min=2, count_max=2)
    put(first.row.id, state="running", rest="running", host="h1")
    asked = [shown.instance_id(first.row), shown.instance_id(second.row)]
    with pytest.raises(errors.WrongInstanceState, match=asked[1]):
        instances.stop(caller(), asked)
    with pytest.raises(errors.InstanceNotFound):
        instances.stop(caller(), [asked[0], "i-0123456789abcdef0"])
    assert instances.get(caller(), asked[0]).row.state == "running"


def test_each_verb_moves_answers_or_refuses_in_each_state(caller: Caller) -> None:
    [view] = run(caller())
    all_states = sorted(states.INSTANCE.states)
    for state, host in itertools.product(all_states, (None, "h1")):
        for verb, ask in (
            (instances.START, instances.start),
            (instances.STOP, instances.stop),
            (instances.REBOOT, instances.reboot),
            (instances.TERMINATE, instances.terminate),
        ):
            put(view.row.id, state=state, host=host, terminated_at=None)
            may = state in states.INSTANCE.asked(verb.to) and host is not None
            if state in verb.there:
                [change] = ask(caller(), [view.row.id])
                assert change.before == change.after
            elif may or verb is instances.TERMINATE:
                [change] = ask(caller(), [view.row.id])
                assert change.after[0] == (verb.to if host else "terminated")
            else:
                with pytest.raises(errors.WrongInstanceState):
                    ask(caller(), [view.row.id])


def test_words_and_their_conditions_are_one_table(caller: Caller) -> None:
    [view] = run(caller())
    all_states = sorted(states.INSTANCE.states | {"unheard-of"})

    @reading
    def matching(tx: Tx) -> list[str]:
        return [
            word
            for word in shown.INSTANCE_CODES
            if tx.scalars(sa.select(models.Instance.id).where(shown.instance_in(word))).first()
        ]

    for state in all_states:
        for rest in (None, "running", "stopped", "terminated", "unheard-of"):
            put(view.row.id, state=state, rest=rest)
            assert matching() == [shown.instance_state(state, rest)], (state, rest)
    assert shown.instance_state("error", None) == "terminated"
    assert shown.instance_state("rebooting", "running") == "running"


def test_the_console_of_what_has_no_host_is_empty(caller: Caller) -> None:
    [view] = run(caller())
    output, at = instances.console_output(caller(), shown.instance_id(view.row))
    assert output == b""
    assert abs((at - view.row.created_at).total_seconds()) < 60


def test_the_console_of_a_guest_whose_host_is_down_is_refused_at_once(caller: Caller) -> None:
    [view] = run(caller())
    put(view.row.id, state="running", host="h1")
    with pytest.raises(errors.Unavailable, match="host h1 is down"):
        instances.console_output(caller(), shown.instance_id(view.row))
