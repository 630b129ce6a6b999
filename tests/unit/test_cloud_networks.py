"""Networks and the addresses they give, round-robin, from the smallest to the largest."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa

from minicloud import context, errors, ids
from minicloud.cloud import instances, networks, projects
from minicloud.context import Context
from minicloud.db import addresses, models, session
from minicloud.db.session import Tx, transaction

Caller = Callable[[], Context]


def create(name: str, cidr: str, project: str | None = None) -> models.Network:
    return networks.create(context.admin(), name=name, cidr=cidr, project=project)


def test_a_network_has_the_smallest_number_and_its_first_address_as_gateway(
    database: str,
) -> None:
    one, two = create("one", "10.1.0.0/24"), create("two", "10.2.0.0/16")
    assert [(net.number, net.gateway, net.mtu) for net in (one, two)] == [
        (1, "10.1.0.1", 1500),
        (2, "10.2.0.1", 1500),
    ]


WRONG_FACTS: list[dict[str, object]] = [
    {"cidr": "10.0.0.1/24"},
    {"cidr": "10.0.0.0/15"},
    {"cidr": "10.0.0.0/30"},
    {"cidr": "169.254.0.0/16"},
    {"cidr": "127.0.0.0/24"},
    {"cidr": "224.0.0.0/24"},
    {"cidr": "fd00::/64"},
    {"cidr": ""},
    {"kind": "vlan"},
    {"mtu": 100},
    {"dns": "8.8.8.8,dns.example.org"},
    {"dns": "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4,1.1.1.5"},
    {"host": "a b"},
    {"name": "a b"},
]


def test_a_wrong_network_is_refused(database: str) -> None:
    for facts in WRONG_FACTS:
        with pytest.raises(errors.InvalidValue):
            networks.create(context.admin(), **{"name": "n", "cidr": "10.0.0.0/24", **facts})  # type: ignore[arg-type]
    assert networks.find(context.admin()) == []


def test_networks_of_two_projects_may_use_the_same_addresses(caller: Caller) -> None:
    projects.create(context.admin(), "two", "alice")
    create("one", "10.5.0.0/24", "proj")
    create("other", "10.5.0.0/24", "two")
    for cidr, project in (("10.5.0.0/25", "two"), ("10.5.0.0/28", None), ("10.0.0.0/16", "two")):
        with pytest.raises(errors.InUse):
            create("wrong", cidr, project)
    with pytest.raises(errors.NameTaken):
        create("one", "10.6.0.0/24")


def test_a_project_s_own_network_comes_before_the_shared_one(caller: Caller) -> None:
    own = create("own", "10.5.0.0/24", "proj")
    assert run(caller())[0].addresses[0].network == own.name


def run(ctx: Context, count: int = 1) -> list[instances.InstanceView]:
    return instances.run(ctx, image="ami-tty", count_min=count, count_max=count, flavor="m1.nano")


@transaction
def remove_networks(tx: Tx) -> None:
    tx.changed(sa.delete(models.Network))


def test_without_a_network_nothing_runs(caller: Caller) -> None:
    remove_networks()
    with pytest.raises(errors.NoNetwork):
        run(caller())


@transaction
def book(tx: Tx, network_id: str, numbers: Sequence[int], last: int = 0) -> None:
    """The numbers are taken, as if somebody had them."""
    rows = [
        {
            "id": ids.new(),
            "network_id": network_id,
            "number": number,
            "address": str(ipaddress.IPv4Address(number)),
            "mac": f"{number:012x}",
            "tap": f"{number:x}",
            "instance_id": ids.new(),
            "hostname": "",
            "since": 1,
        }
        for number in numbers
    ]
    if rows:
        tx.execute(sa.insert(models.Address), rows)
    network = models.Network
    tx.changed(sa.update(network).where(network.id == network_id).values(last_number=last))


def free(network_id: str, most: int) -> tuple[list[str], int]:
    """Addresses found free, and the statements it took."""
    seen: list[str] = []

    @session.reading
    def ask(tx: Tx) -> list[int]:
        row = tx.scalars(sa.select(models.Network).where(models.Network.id == network_id)).one()
        seen.clear()
        return addresses.free(tx, row, most)

    def listen(connection: object, cursor: object, statement: str, *rest: object) -> None:
        seen.append(statement)

    sa.event.listen(session.engine(), "before_cursor_execute", listen)
    found = [str(ipaddress.IPv4Address(number)) for number in ask()]
    sa.event.remove(session.engine(), "before_cursor_execute", listen)
    return found, len(seen)


def number(address: str) -> int:
    return int(ipaddress.IPv4Address(address))


def test_all_but_three_addresses_of_a_network_are_given(database: str) -> None:
    net = create("n", "10.0.0.0/29")
    found, _ = free(net.id, 100)
    assert found == [f"10.0.0.{last}" for last in range(2, 7)]


def test_the_address_given_is_the_one_free_the_longest(database: str) -> None:
    net = create("n", "10.0.0.0/29")
    book(net.id, [number("10.0.0.4")], last=number("10.0.0.3"))
    assert free(net.id, 100)[0] == ["10.0.0.5", "10.0.0.6", "10.0.0.2", "10.0.0.3"]
    assert free(net.id, 3)[0] == ["10.0.0.5", "10.0.0.6", "10.0.0.2"]
    book(net.id, [], last=number("10.0.0.6"))
    assert free(net.id, 1)[0] == ["10.0.0.2"]


def test_the_one_free_address_of_a_large_network_is_found(database: str) -> None:
    net = create("n", "10.8.0.0/16")
    everything = range(number("10.8.0.2"), number("10.8.255.255"))
    left = number("10.8.77.7")
    book(net.id, [one for one in everything if one != left], last=number("10.8.77.8"))
    found, statements = free(net.id, 10)
    assert found == ["10.8.77.7"]
    assert statements <= 10
    book(net.id, [left])
    assert free(net.id, 1)[0] == []


def test_a_large_network_is_asked_a_few_times_only(database: str) -> None:
    net = create("n", "10.8.0.0/16")
    assert free(net.id, 1000)[1] == 1


def test_an_address_comes_back_only_when_its_host_let_go(caller: Caller) -> None:
    first = run(caller(), 3)
    instances.terminate(caller(), [view.row.id for view in first])
    assert [view.addresses[0].address for view in run(caller(), 2)] == ["10.0.0.5", "10.0.0.6"]
    [network] = networks.find(context.admin())
    assert network.last_number == number("10.0.0.6")
