"""Two that come at once: one wins, on every engine."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

import pytest
import sqlalchemy as sa

from minicloud import context, errors
from minicloud.cloud import groups, images, instances, keypairs, networks, quotas, users
from minicloud.cloud.groups import RuleSpec
from minicloud.context import Context
from minicloud.db import models, session
from minicloud.db.session import Tx, reading, transaction
from tests.databases import database  # noqa: F401

ASKERS = 12
ROUNDS = 4

Caller = Callable[[], Context]


def run(ctx: Context, count: int = 1, token: str | None = None) -> list[str]:
    views = instances.run(
        ctx, image="ami-tty", count_min=count, count_max=count, flavor="m1.nano", token=token
    )
    return [view.row.id for view in views]


def at_once(*functions: Callable[[], object]) -> list[object]:
    """What each function returned or raised, all started together on native threads."""
    outcomes: list[object] = [None] * len(functions)
    barrier = threading.Barrier(len(functions))

    def call(index: int) -> None:
        barrier.wait()
        try:
            outcomes[index] = functions[index]()
        except Exception as error:
            outcomes[index] = error

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def won(outcomes: list[object]) -> list[object]:
    return [outcome for outcome in outcomes if not isinstance(outcome, Exception)]


def lost(outcomes: list[object]) -> set[str]:
    return {type(error).__name__ for error in outcomes if isinstance(error, Exception)}


def overtaken(slow: Callable[[], object], text: str, quick: Callable[[], object]) -> list[object]:
    """What both returned or raised when `slow` stops before its first statement that has `text`,
    and goes on when `quick` has ended, or after a second if `quick` cannot end before it."""
    stopped, ended = threading.Event(), threading.Event()

    def stop(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if text in statement and not stopped.is_set() and threading.current_thread() is first:
            stopped.set()
            ended.wait(1)

    def call(index: int, function: Callable[[], object]) -> None:
        try:
            outcomes[index] = function()
        except Exception as error:
            outcomes[index] = error

    outcomes: list[object] = [None, None]
    first = threading.Thread(target=call, args=(0, slow))
    sa.event.listen(session.engine(), "before_cursor_execute", stop)
    first.start()
    assert stopped.wait(20), f"no statement has {text}"
    call(1, quick)
    ended.set()
    first.join()
    sa.event.remove(session.engine(), "before_cursor_execute", stop)
    return outcomes


@reading
def count(tx: Tx, model: type[models.Base], *conditions: object) -> int:
    statement = sa.select(sa.func.count()).select_from(model).where(*conditions)  # type: ignore[arg-type]
    return tx.scalars(statement).one()


def test_the_last_quota_unit_goes_to_one_asker(caller: Caller) -> None:
    quotas.change(context.admin(), "proj", "instances", 1)
    for _ in range(ROUNDS):
        outcomes = at_once(*[lambda: run(caller())] * ASKERS)
        assert len(won(outcomes)) == 1, outcomes
        assert lost(outcomes) == {"QuotaExceeded"}
        instances.terminate(caller(), won(outcomes)[0])  # type: ignore[arg-type]
        assert count(models.Instance, models.Instance.state != "terminated") == 0


def test_who_has_read_its_quota_is_not_overtaken(caller: Caller) -> None:
    quotas.change(context.admin(), "proj", "instances", 1)
    outcomes = overtaken(lambda: run(caller()), "FROM images", lambda: run(caller()))
    assert len(won(outcomes)) == 1, outcomes
    assert count(models.Instance) == 1


def test_an_image_that_was_chosen_is_not_deleted_before_it_is_booted(caller: Caller) -> None:
    operator = dataclasses.replace(context.admin(), project_id=caller().project_id)
    outcomes = overtaken(
        lambda: run(caller()),
        "FROM security_groups",
        lambda: images.delete(operator, "ami-tty"),
    )
    assert lost(outcomes) == {"InUse"}, outcomes


def test_a_group_that_was_chosen_is_not_deleted_before_it_is_joined(caller: Caller) -> None:
    groups.create(caller(), "web", "a group")

    def join() -> object:
        wish = {"image": "ami-tty", "flavor": "m1.nano", "groups": ["web"]}
        return instances.run(caller(), count_min=1, count_max=1, **wish)  # type: ignore[arg-type]

    outcomes = overtaken(join, "FROM networks", lambda: groups.delete(caller(), name="web"))
    assert lost(outcomes) == {"GroupInUse"}, outcomes


def test_many_that_fit_into_the_quota_all_get_in(caller: Caller) -> None:
    outcomes = at_once(*[lambda: run(caller())] * 10)
    assert lost(outcomes) == set()
    assert count(models.Instance) == 10
    assert count(models.Address) == 10


def test_the_last_address_goes_to_one_asker(caller: Caller) -> None:
    for resource in quotas.RESOURCES:
        quotas.change(context.admin(), "proj", resource, -1)
    for number in range(ROUNDS):
        own = f"own{number}"
        _only_network(own, f"192.168.{number}.0/29")  # 6 hosts, one is the gateway
        run(caller(), 4)
        outcomes = at_once(*[lambda: run(caller())] * ASKERS)
        assert len(won(outcomes)) == 1, outcomes
        assert lost(outcomes) == {"NoMoreAddresses"}


def _only_network(name: str, cidr: str) -> None:
    made = networks.create(context.admin(), name=name, cidr=cidr)

    @transaction
    def others_first(tx: Tx) -> None:
        tx.changed(sa.update(models.Network).values(host=None))
        tx.changed(sa.update(models.Network).where(models.Network.id == made.id).values(host="h"))

    others_first()


def test_one_client_token_starts_one_launch_however_many_ask(caller: Caller) -> None:
    for number in range(ROUNDS):
        before = count(models.Instance)
        outcomes = at_once(*[lambda t=f"token-{number}": run(caller(), 2, t)] * ASKERS)
        assert lost(outcomes) == set(), outcomes
        assert len({tuple(ids) for ids in outcomes}) == 1  # type: ignore[arg-type]
        assert count(models.Instance) == before + 2


def test_a_group_is_deleted_or_joined_but_not_both(caller: Caller) -> None:
    for number in range(ROUNDS):
        name = f"group{number}"
        groups.create(caller(), name, "a group")

        def join(name: str = name) -> object:
            return instances.run(
                caller(),
                image="ami-tty",
                count_min=1,
                count_max=1,
                flavor="m1.nano",
                groups=[name],
            )

        outcomes = at_once(join, lambda name=name: groups.delete(caller(), name=name))
        assert len(won(outcomes)) == 1, outcomes
        assert lost(outcomes) <= {"GroupInUse", "GroupNotFound"}


def test_an_image_is_deleted_or_booted_but_not_both(caller: Caller) -> None:
    operator = dataclasses.replace(context.admin(), project_id=caller().project_id)
    outcomes = at_once(lambda: run(caller()), lambda: images.delete(operator, "ami-tty"))
    assert len(won(outcomes)) == 1, outcomes
    assert lost(outcomes) <= {"InUse", "ImageNotFound"}


def test_one_name_is_taken_once(caller: Caller) -> None:
    public = keypairs.create(caller(), "first", "ed25519")[0].public_key
    for function, error in (
        (lambda: users.create(context.admin(), "bob"), "NameTaken"),
        (lambda: groups.create(caller(), "web", "a group"), "GroupExists"),
        (lambda: keypairs.import_(caller(), "key", public), "KeyPairExists"),
    ):
        outcomes = at_once(*[function] * ASKERS)
        assert len(won(outcomes)) == 1, outcomes
        assert lost(outcomes) == {error}


def test_one_rule_is_authorized_once(caller: Caller) -> None:
    rule = RuleSpec("tcp", 22, 22, cidr="0.0.0.0/0")
    outcomes = at_once(
        *[lambda: groups.authorize(caller(), name="default", rules=[rule])] * ASKERS
    )
    assert len(won(outcomes)) == 1, outcomes
    assert lost(outcomes) == {"RuleExists"}


def test_networks_made_at_once_share_no_number_and_no_address(caller: Caller) -> None:
    def create(name: str, cidr: str) -> Callable[[], object]:
        return lambda: networks.create(context.admin(), name=name, cidr=cidr)

    outcomes = at_once(
        *[create(f"same{number}", "172.16.0.0/24") for number in range(4)],
        *[create(f"other{number}", f"172.17.{number}.0/24") for number in range(4)],
    )
    assert lost(outcomes) == {"InUse"}
    assert len(won(outcomes)) == 5, outcomes


def test_terminate_and_start_of_one_instance_at_once_end_in_one_state(caller: Caller) -> None:
    [id] = run(caller())
    outcomes = at_once(*[lambda: instances.terminate(caller(), [id])] * ASKERS)
    assert lost(outcomes) == set()
    assert instances.get(caller(), id).row.state == "terminated"
    moves = sum(
        1
        for changes in outcomes
        for change in changes  # type: ignore[attr-defined]
        if change.before != change.after
    )
    assert moves == 1


def test_what_was_refused_leaves_no_trace(caller: Caller) -> None:
    quotas.change(context.admin(), "proj", "instances", 0)
    before = count(models.Request)
    with pytest.raises(errors.QuotaExceeded):
        run(caller(), token="refused")
    assert count(models.Request) == before
    quotas.change(context.admin(), "proj", "instances", 1)
    assert len(run(caller(), token="refused")) == 1
