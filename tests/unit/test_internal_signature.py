"""What daemons sign to the object store."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from oslo_config import cfg

from minicloud import errors
from minicloud.auth import internal

PATH = "/v1/images/ec212345-0000-0000-0000-000000000000"


@pytest.fixture(autouse=True)
def key(options: Callable[..., None]) -> None:
    options("DEFAULT", secret_key="k" * 44)


def received(method: str = "GET", path: str = PATH) -> dict[str, str]:
    """Headers as a front door hands them on."""
    return {name.lower(): value for name, value in internal.headers(method, path).items()}


def test_what_was_signed_is_accepted() -> None:
    internal.check("GET", PATH, received())


def test_another_method_is_refused() -> None:
    with pytest.raises(errors.Unauthorized):
        internal.check("PUT", PATH, received())


def test_another_path_is_refused() -> None:
    with pytest.raises(errors.Unauthorized):
        internal.check("GET", PATH + "1", received())


@pytest.mark.parametrize(
    "header", ["", "AWS4-HMAC-SHA256 x", f"{internal.SCHEME} 1:ab", f"{internal.SCHEME} é:ü"]
)
def test_anything_else_is_refused(header: str) -> None:
    with pytest.raises(errors.Unauthorized):
        internal.check("GET", PATH, {"authorization": header} if header else {})


@pytest.mark.parametrize("away_s", [-301, 301])
def test_a_signature_lasts_five_minutes_either_way(
    monkeypatch: pytest.MonkeyPatch, away_s: int
) -> None:
    monkeypatch.setattr(internal.time, "time", lambda: 1_800_000_000.0)
    headers = received()
    monkeypatch.setattr(internal.time, "time", lambda: 1_800_000_000.0 + away_s * 0.99)
    internal.check("GET", PATH, headers)
    monkeypatch.setattr(internal.time, "time", lambda: 1_800_000_000.0 + away_s)
    with pytest.raises(errors.Unauthorized, match="clock"):
        internal.check("GET", PATH, headers)


def test_another_clouds_key_is_refused() -> None:
    headers = received()
    cfg.CONF.set_override("secret_key", "j" * 44)
    with pytest.raises(errors.Unauthorized):
        internal.check("GET", PATH, headers)


def test_a_key_that_is_being_replaced_is_still_good(options: Callable[..., None]) -> None:
    before = received()
    options("DEFAULT", secret_key=f"{'j' * 44}, {'k' * 44}")
    internal.check("GET", PATH, before)
    after = received()
    internal.check("GET", PATH, after)
    options("DEFAULT", secret_key="k" * 44)
    with pytest.raises(errors.Unauthorized):
        internal.check("GET", PATH, after)


def test_without_a_key_nothing_is_signed_or_accepted() -> None:
    headers = received()
    cfg.CONF.set_override("secret_key", "")
    with pytest.raises(errors.Unauthorized, match="secret_key"):
        internal.headers("GET", PATH)
    with pytest.raises(errors.Unauthorized, match="secret_key"):
        internal.check("GET", PATH, headers)
