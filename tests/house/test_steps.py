"""Between two steps of an apply is a checkpoint, so that a death there can be tried."""

from __future__ import annotations

from tests.promises import places


def test_a_step_of_an_apply_is_followed_by_a_checkpoint() -> None:
    assert places.unnamed_steps() == []


def test_a_name_of_a_checkpoint_is_of_one_kind_only() -> None:
    own = {place.name for place in places.written()}
    for made in (places.transactions(), places.nudges(), places.frames()):
        assert not own & made


def test_a_pretended_driver_has_a_checkpoint_wherever_a_real_one_has() -> None:
    """The real one may have finer ones: what is played on pretended hosts is not less."""
    pretended = {place.name for place in places.written() if "simulated" in place.module}
    finer = {place.name for place in places.written() if place.real} - pretended
    assert finer == {
        *("serve.bridge", "serve.gateway", "serve.metadata"),
        *("export.target_made", "export.account_bound", "volume.part_made"),
    }
