"""Passwords and tokens."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.fernet import Fernet

from minicloud import errors
from minicloud.auth import passwords, tokens

COST = passwords.N  # before a fixture makes it cheap


def test_what_is_stored_fits_its_password_alone(options):
    stored = passwords.stored("correct horse")
    assert "correct" not in stored
    assert stored != passwords.stored("correct horse")
    assert passwords.fits("correct horse", stored)
    assert not passwords.fits("correct horsf", stored)
    assert not passwords.fits("", stored)
    assert not passwords.fits("x" * 100_000, stored)
    assert not passwords.fits("\ud800", stored)


def test_a_password_costs_whoever_guesses_what_it_should():
    assert COST >= 1 << 14
    assert passwords.NOBODYS.startswith(f"scrypt${COST}$8$1$")


def test_nobody_has_the_password_of_nobody(options):
    assert not passwords.fits("", None)
    digests = [kept.split("$")[-1] for kept in (passwords.NOBODYS, passwords.stored("x"))]
    assert len(digests[0]) == len(digests[1])


def test_generated_passwords_are_long_and_never_the_same():
    made = {passwords.generate() for _ in range(100)}
    assert len(made) == 100
    assert {len(one) for one in made} == {passwords.GENERATED}


@pytest.fixture
def token(options):
    return tokens.fresh("u", "p", 3, ("password",))


def test_a_token_says_what_went_into_it(token):
    assert tokens.opened(tokens.sealed(token)) == token


def test_a_token_survives_a_new_key_beside_the_old_but_not_instead_of_it(token, options):
    text = tokens.sealed(token)
    first = str(tokens.config.CONF.secret_key)
    options("DEFAULT", secret_key=f"{Fernet.generate_key().decode()},{first}")
    assert tokens.opened(text) == token
    options("DEFAULT", secret_key=Fernet.generate_key().decode())
    with pytest.raises(errors.InvalidToken):
        tokens.opened(text)


def test_a_token_is_of_no_use_as_another_secret(token, options):
    """The key is derived: what `auth.secrets` encrypts is no token."""
    key = str(tokens.config.CONF.secret_key)
    with pytest.raises(errors.InvalidToken):
        tokens.opened(Fernet(key).encrypt(b"[]").decode())


def test_a_token_whose_time_is_over_is_none(token):
    old = dataclasses.replace(token, expires_at=token.issued_at - 1)
    with pytest.raises(errors.InvalidToken):
        tokens.opened(tokens.sealed(old))


def test_every_changed_character_breaks_it(token):
    text = tokens.sealed(token)
    for at in range(0, len(text), 7):
        other = "A" if text[at] != "A" else "B"
        with pytest.raises(errors.InvalidToken):
            tokens.opened(text[:at] + other + text[at + 1 :])
