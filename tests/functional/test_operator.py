"""Ending everything and beginning anew: nothing is left on any host."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from minicloud import errors, states
from minicloud.cloud import operator
from minicloud.context import admin
from minicloud.db import models
from minicloud.db.session import Tx, reading
from tests.conftest import InProcessCloud
from tests.databases import database
from tests.functional.conftest import Verbs
from tests.functional.test_volumes import Storage, guest, storage

__all__ = ["database", "guest", "storage"]  # fixtures

Options = Callable[..., None]


@reading
def count(tx: Tx, model: type[models.Base]) -> int:
    return tx.scalars(sa.select(sa.func.count()).select_from(model)).one()


def ended() -> bool:
    """Ask again, as the launcher does, until everything has ended."""
    operator.terminate_all(admin())
    return not any(operator.living(admin(), of) for of in (states.INSTANCE, states.VOLUME))


def test_what_is_attached_is_taken_off_and_deleted_and_can_be_forgotten(
    cloud: InProcessCloud, storage: Storage, guest: str, verbs: Verbs
) -> None:
    storage.attached(storage.created(), guest)
    storage.created()
    [stopped] = verbs.run()
    cloud.wait(lambda: verbs.state(stopped) == "running")
    storage.attached(storage.created(), stopped)
    verbs.stop(stopped)
    with pytest.raises(errors.InUse):
        operator.forget(admin())
    cloud.wait(ended)
    assert cloud.hypervisors["h1"].domains() == {}
    assert cloud.stores["h1"].volumes() == set()
    assert cloud.stores["h1"].present() == {}
    operator.forget(admin())
    assert [count(model) for model in operator.TENANTS] == [0] * len(operator.TENANTS)


def test_a_volume_that_failed_or_has_no_host_ends_too(
    cloud: InProcessCloud, verbs: Verbs, storage: Storage, options: Options
) -> None:
    options("simulated_volume", failing=["create"])
    failed = storage.create()
    cloud.wait(lambda: storage.state(failed) == "error")
    cloud.stop("volume@h1")
    waiting = storage.create()
    operator.terminate_all(admin())
    assert storage.state(failed) == "deleting"
    assert storage.state(waiting) in ("deleting", "deleted")
    cloud.volume("h1")
    cloud.wait(ended)
