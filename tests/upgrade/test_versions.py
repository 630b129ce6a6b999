"""What a daemon of an older release cannot do is refused before anything is changed, and what
only a newer one can know is shown and cleaned up."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import errors, rpc, states
from minicloud.cloud import instances, statuses
from minicloud.context import Context
from minicloud.db import addresses, models
from minicloud.db.session import Tx, reading, transaction

Caller = Callable[[], Context]


def run(ctx: Context) -> str:
    [view] = instances.run(ctx, image="ami-tty", count_min=1, count_max=1, flavor="m1.nano")
    return view.row.id


@reading
def state(tx: Tx, id: str) -> str:
    return tx.scalars(sa.select(models.Instance.state).where(models.Instance.id == id)).one()


@reading
def everything(tx: Tx, model: type[models.Base]) -> list[Any]:
    return list(tx.scalars(sa.select(model)))


@transaction
def put(tx: Tx, model: type[models.Base], **values: Any) -> None:
    tx.changed(sa.update(model).values(**values))


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A verb of instances comes with version 1.7 of the interface of the daemon that ends it."""

    def bring(state: str) -> None:
        work = states.INSTANCE.work[state]

        def method(self: object, ctx: Context, id: str, /) -> None:
            """As before."""

        method.__name__ = work.name
        method = rpc.nudge(since="1.7")(method)
        method.rpc_topic = work.topic  # type: ignore[attr-defined]
        changed = dataclasses.replace(work, method=method)
        monkeypatch.setitem(states.INSTANCE.work, state, changed)  # type: ignore[arg-type]

    return bring


def test_a_verb_is_refused_until_the_daemon_that_does_it_is_new_enough(
    cloud: Any, caller: Caller, newer: Callable[[str], None]
) -> None:
    id = run(caller())
    cloud.wait(lambda: state(id) == "running")
    newer("stopping")
    with pytest.raises(
        errors.Unavailable, match="the compute daemon of h1 is of an older release"
    ):
        instances.stop(caller(), [id])
    assert state(id) == "running"
    put(models.Host, version="1.7")
    instances.stop(caller(), [id])
    cloud.wait(lambda: state(id) == "stopped")


def test_where_daemons_share_the_work_one_that_is_new_enough_is_enough(
    cloud: Any, caller: Caller, newer: Callable[[str], None]
) -> None:
    newer("scheduling")
    with pytest.raises(errors.Unavailable, match="scheduler daemon of every host is of an older"):
        run(caller())
    assert everything(models.Instance) == everything(models.Address) == []
    copy = {"daemon": "scheduler", "machine_id": "m", "boot_id": "b", "version": "1.7"}
    add(models.Host(id="scheduler@h2", host="h2", zone="nova", epoch=1, **copy))
    id = run(caller())
    cloud.wait(lambda: state(id) == "running")


@transaction
def add(tx: Tx, row: models.Base) -> None:
    tx.add(row)


def test_what_one_daemon_hands_to_another_waits_for_it_instead(
    cloud: Any, caller: Caller, newer: Callable[[str], None]
) -> None:
    newer("building")
    id = run(caller())
    cloud.wait(lambda: state(id) == "running")  # its nudge was refused: the sweep has done it


def test_an_instance_in_a_state_of_a_newer_release_is_listed_as_what_it_was(
    database: str, caller: Caller
) -> None:
    id = run(caller())
    put(models.Instance, state="pausing", rest="running")
    assert statuses.status("pausing", "running") == "ACTIVE"
    assert listed("ACTIVE") == [id]
    assert listed("SHUTOFF") == []


@reading
def listed(tx: Tx, word: str) -> list[str]:
    return list(tx.scalars(sa.select(models.Instance.id).where(statuses.condition([word]))))


def test_what_the_release_before_leaves_of_a_freed_address_is_forgotten(
    database: str, caller: Caller
) -> None:
    id = run(caller())
    for instance in (id, "freed by an older daemon"):
        add(models.GroupLeaving(group_id="group", instance_id=instance, since=2))
    forget()
    assert [one.instance_id for one in everything(models.GroupLeaving)] == [id]


@transaction
def forget(tx: Tx) -> None:
    addresses.forget_left(tx, network_id="any")
