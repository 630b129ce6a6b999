"""Key pairs: the public halves of ssh keys.  A private half is shown once and never stored."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from cryptography import exceptions
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from minicloud import concurrency, errors, ids
from minicloud.auth import policy
from minicloud.cloud import filters, lookup, names, page, quotas
from minicloud.cloud import tags as labelling
from minicloud.cloud.page import Page
from minicloud.context import Context
from minicloud.db import models, rows
from minicloud.db import tags as labels
from minicloud.db.session import Tx, done, hold, once, reading, transaction, visible

KINDS = ("rsa", "ed25519")
TYPES = ("ssh-rsa", "ssh-ed25519")  # first words of a public key's line
BITS = 2048
BITS_TAKEN = (1024, 16384)  # of an imported RSA key, as OpenSSH takes them
LONGEST_KEY = 16384  # characters of an imported key

_pair = models.KeyPair
FILTERS: Mapping[str, filters.Match] = filters.Tagged(
    _pair.id,
    {
        "fingerprint": filters.text(_pair.fingerprint),
        "key-name": filters.text(_pair.name),
        "key-pair-id": filters.shown_id("key", _pair.id),
    },
)

Private = rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey
Public = rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@reading
def find(
    tx: Tx,
    ctx: Context,
    *,
    names: Sequence[str] = (),
    ids: Sequence[str] = (),
    filters: Mapping[str, Sequence[str]] = {},
    limit: int | None = None,
    after: str | None = None,
) -> Page[models.KeyPair]:
    """The project's key pairs, by id.

    With `ids` or `names` only those; KeyPairNotFound names the ones that are not there.
    """
    policy.require(ctx, "key pairs")
    conditions = [visible(ctx, _pair), *_conditions(filters)]
    if ids or names:
        by_name = lookup.by_name(tx, ctx, _pair, names, errors.KeyPairNotFound)
        wanted = [*_by_id(tx, ctx, ids), *by_name]
        conditions.append(_pair.id.in_([row.id for row in wanted]))
    return page.read(tx, _pair, conditions, limit, after)


def _conditions(given: Mapping[str, Sequence[str]]) -> list[Any]:
    return filters.conditions(given, FILTERS)


def _by_id(tx: Tx, ctx: Context, shown: Sequence[str]) -> list[models.KeyPair]:
    return lookup.by_id(
        tx,
        ctx,
        _pair,
        "key",
        shown,
        malformed=errors.MalformedId,
        missing=errors.KeyPairNotFound,
    )


def named(tx: Tx, ctx: Context, name: str) -> models.KeyPair:
    """The project's key pair of that name; KeyPairNotFound."""
    found: models.KeyPair
    [found] = lookup.by_name(tx, ctx, _pair, [name], errors.KeyPairNotFound)
    return found


# --- deciding -------------------------------------------------------------------------------


def create(
    ctx: Context,
    name: str,
    kind: str = "rsa",
    tags: Mapping[str, str] = {},
) -> tuple[models.KeyPair, str]:
    """A new key pair is there; its row and its private half as PEM.

    KeyPairExists; KeyPairLimitExceeded; InvalidValue.  Takes a good part of a second for RSA.
    """
    policy.require(ctx, "key pairs")
    names.check(name, "KeyName")
    labelling.check(tags)
    if kind not in KINDS:
        raise errors.InvalidValue(
            value=ascii(kind[:20])[1:-1], name="KeyType", reason=f"It is {' or '.join(KINDS)}."
        )
    private = concurrency.blocking("auth", _generate, kind)
    facts = {
        "name": name,
        "kind": kind,
        "fingerprint": _fingerprint_created(private),
        "public_key": _line(private.public_key(), name),
    }
    row = _insert(ctx, "CreateKeyPair", [name, kind], facts, tags)
    return row, _pem(private)


def import_(
    ctx: Context,
    name: str,
    public_key: str,
    tags: Mapping[str, str] = {},
) -> models.KeyPair:
    """The key pair of which the asker has the private half is there.

    `public_key` is one line of OpenSSH's form, RSA or Ed25519.  InvalidKey; KeyPairExists;
    KeyPairLimitExceeded; InvalidValue.
    """
    policy.require(ctx, "key pairs")
    names.check(name, "KeyName")
    labelling.check(tags)
    public = _parse(public_key)
    facts = {
        "name": name,
        "kind": "rsa" if isinstance(public, rsa.RSAPublicKey) else "ed25519",
        "fingerprint": _fingerprint_imported(public),
        "public_key": _line(public, name),
    }
    return _insert(ctx, "ImportKeyPair", [name, public_key], facts, tags)


@transaction
def _insert(
    tx: Tx,
    ctx: Context,
    action: str,
    arguments: list[str],
    facts: dict[str, str],
    tags: Mapping[str, str],
) -> models.KeyPair:
    known = once(tx, ctx, action, None, [*arguments, dict(tags)])
    if known is None:
        if not hold(tx, models.Project, [ctx.project_id]):
            raise errors.ProjectNotFound(id=ctx.project)
        _refuse_more(tx, ctx, facts["name"])
        id = ids.new()
        row = {"id": id, "project_id": ctx.project_id, "user_id": ctx.user_id, **facts}
        rows.insert(tx, _pair, [row])
        labels.add(tx, ctx.project_id, "key-pair", [id], tags)
        known = [id]
        done(tx, ctx, known)
    return tx.scalars(sa.select(_pair).where(_pair.id == known[0])).one()


def _refuse_more(tx: Tx, ctx: Context, name: str) -> None:
    mine = visible(ctx, _pair)
    if tx.scalars(sa.select(_pair.id).where(mine, _pair.name == name)).first():
        raise errors.KeyPairExists(name=name)
    quotas.refuse_more(tx, mine, errors.KeyPairLimitExceeded, "key_pairs")


@transaction
def delete(
    tx: Tx, ctx: Context, *, name: str | None = None, id: str | None = None
) -> models.KeyPair | None:
    """No key pair of that id, else of that name, is there; the row it had, or None.

    What never was, or is gone, is a success, as for AWS.  Instances keep the key they have.
    """
    policy.require(ctx, "key pairs")
    if id is None and name is None:
        raise errors.MissingParameter(name="KeyName")
    if once(tx, ctx, "DeleteKeyPair", None, [name, id]) is not None:
        return None
    try:
        row = _by_id(tx, ctx, [id])[0] if id is not None else named(tx, ctx, str(name))
    except errors.KeyPairNotFound:
        row = None
    if row is not None:
        hold(tx, models.Project, [ctx.project_id])  # who tags it meanwhile waits, and finds none
        tx.changed(sa.delete(_pair).where(_pair.id == row.id))
        labels.forget(tx, [row.id])
    return row


# --- the keys themselves --------------------------------------------------------------------


def _generate(kind: str) -> Private:
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(public_exponent=65537, key_size=BITS)


def _pem(private: Private) -> str:
    """PKCS#1 for RSA, as AWS gives it and every client reads it; OpenSSH's own for Ed25519."""
    form = (
        serialization.PrivateFormat.TraditionalOpenSSL
        if isinstance(private, rsa.RSAPrivateKey)
        else serialization.PrivateFormat.OpenSSH
    )
    encryption = serialization.NoEncryption()
    return private.private_bytes(serialization.Encoding.PEM, form, encryption).decode("ascii")


def _openssh(public: Public) -> str:
    """`ssh-rsa AAAA…`, without comment."""
    form = serialization.PublicFormat.OpenSSH
    return public.public_bytes(serialization.Encoding.OpenSSH, form).decode("ascii")


def _line(public: Public, name: str) -> str:
    return f"{_openssh(public)} {name}"


def _parse(given: str) -> Public:
    line = given.strip()
    if len(given) > LONGEST_KEY:
        raise errors.InvalidKey(reason=f"it is longer than {LONGEST_KEY} characters")
    if not line.isascii() or len(line.splitlines()) != 1:
        raise errors.InvalidKey(reason="it is not one line of ASCII")
    if line.split()[0] not in TYPES:
        raise errors.InvalidKey(reason=f"it does not begin with {' or '.join(TYPES)}")
    try:
        public = serialization.load_ssh_public_key(line.encode("ascii"))
    except (ValueError, exceptions.UnsupportedAlgorithm) as error:
        raise errors.InvalidKey(reason="it cannot be read") from error
    if isinstance(public, ed25519.Ed25519PublicKey):
        return public
    if not isinstance(public, rsa.RSAPublicKey):
        raise errors.InvalidKey(reason="it is neither RSA nor Ed25519")
    if not BITS_TAKEN[0] <= public.key_size <= BITS_TAKEN[1]:
        raise errors.InvalidKey(reason=f"an RSA key of {public.key_size} bits")
    return public


# AWS EC2 user guide, "Verify the fingerprint of your key pair": SHA-1 of the private key (PKCS#8,
# DER) for an RSA key that was created, MD5 of the public key (DER) for one that was imported,
# SHA-256 as ssh-keygen has it for Ed25519.


def _fingerprint_created(private: Private) -> str:
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return _fingerprint_ed25519(private.public_key())
    der = private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return hashlib.sha1(der, usedforsecurity=False).digest().hex(":")


def _fingerprint_imported(public: Public) -> str:
    if isinstance(public, ed25519.Ed25519PublicKey):
        return _fingerprint_ed25519(public)
    der = public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.md5(der, usedforsecurity=False).digest().hex(":")


def _fingerprint_ed25519(public: Public) -> str:
    blob = base64.b64decode(_openssh(public).split()[1])
    return base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii")
