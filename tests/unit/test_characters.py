"""Texts with characters that a database, or its driver, refuses: nobody's, on every engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from minicloud import errors
from minicloud.auth import database as accounts
from minicloud.auth.database import Scope
from minicloud.cloud import instances
from minicloud.cloud.instances import Search
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import Tx, reading, transaction
from tests.databases import database  # noqa: F401

REFUSED = ("a\0b", "\0", "a\ud800")
WORDS = (*REFUSED, "a\x1fb", "ü")


@pytest.mark.parametrize("word", WORDS, ids=ascii)
def test_nobody_is_called_so(caller: Callable[[], Context], word: str) -> None:
    for who in ({"name": word}, {"user_id": word}, {"name": "alice"}):
        with pytest.raises(errors.WrongPassword):
            accounts.by_password("x", Scope(project=word), **who)
    assert accounts.by_access_key(word, None) is None
    assert accounts.by_access_key("S0", word) is None


@pytest.mark.usefixtures("caller")
@pytest.mark.parametrize("word", REFUSED, ids=ascii)
@pytest.mark.parametrize("decorator", [reading, transaction])
def test_a_question_about_it_finds_nothing_or_is_a_bad_request(
    decorator: Callable[..., Callable[[], list[str]]], word: str
) -> None:
    @decorator
    def ask(tx: Tx) -> list[str]:
        return list(tx.scalars(sa.select(models.Image.name).where(models.Image.name == word)))

    try:
        assert ask() == []
    except errors.BadRequest as error:
        assert "cannot be stored" in str(error)  # noqa: PT017  what it may raise, not must


@pytest.mark.parametrize("word", REFUSED, ids=ascii)
def test_an_id_like_that_is_no_instances(caller: Callable[[], Context], word: str) -> None:
    try:
        assert instances.search(caller(), Search(ids=[word])).items == []
    except errors.BadRequest as error:
        assert "cannot be stored" in str(error)  # noqa: PT017
