"""Verbs as a user asks them, on the in-process cloud."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from minicloud.cloud import instances
from minicloud.context import Context
from minicloud.db import hosts, models
from minicloud.db.session import Tx, reading
from tests.plans import Plans


@reading
def rows(tx: Tx, model: type[models.Base]) -> list[models.Base]:
    return list(tx.scalars(sa.select(model)))


@reading
def instance(tx: Tx, id: str) -> models.Instance:
    return tx.scalars(sa.select(models.Instance).where(models.Instance.id == id)).one()


@pytest.fixture
def still_hearts(
    options: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Once it is called, daemons beat when they begin and not again; none is down for that,
    however slow the test is."""

    def still() -> None:
        options("daemon", heartbeat_s=3600)
        monkeypatch.setattr(hosts, "DOWN_AFTER_S", 3600)

    return still


@pytest.fixture(scope="session")
def plans() -> Iterator[Plans]:
    made = Plans()
    sa.event.listen(sa.Engine, "before_cursor_execute", made)
    yield made
    sa.event.remove(sa.Engine, "before_cursor_execute", made)


@pytest.fixture(autouse=True)
def no_query_reads_a_whole_table_that_grows(plans: Plans) -> Iterator[None]:
    """Whatever the product asks in any of these tests (each statement is looked at once)."""
    yield
    assert plans.new_scans() == []


class Verbs:
    """Each call is a new request of the same user."""

    def __init__(self, caller: Callable[[], Context]) -> None:
        self.caller = caller

    def run(self, count: int = 1, flavor: str = "m1.nano", token: str | None = None) -> list[str]:
        """Ids of the instances accepted."""
        views = instances.run(
            self.caller(),
            image="ami-tty",
            count_min=count,
            count_max=count,
            flavor=flavor,
            kernel=None,
            ramdisk=None,
            key_name=None,
            groups=[],
            group_ids=[],
            user_data=None,
            zone=None,
            token=token,
        )
        return [view.row.id for view in views]

    def terminate(self, *ids: str) -> None:
        instances.terminate(self.caller(), list(ids))

    def stop(self, *ids: str) -> None:
        instances.stop(self.caller(), list(ids))

    def start(self, *ids: str) -> None:
        instances.start(self.caller(), list(ids))

    def reboot(self, *ids: str) -> None:
        instances.reboot(self.caller(), list(ids))

    @staticmethod
    def state(id: str) -> str:
        return instance(id).state


@pytest.fixture
def verbs(caller: Callable[[], Context]) -> Verbs:
    return Verbs(caller)
