"""Key pairs: made, taken in, named and fingerprinted as AWS does."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from minicloud import errors, ids
from minicloud.cloud import keypairs
from minicloud.context import Context

Caller = Callable[[], Context]


def openssh(private: object) -> str:
    public = private.public_key()  # type: ignore[attr-defined]
    form = serialization.PublicFormat.OpenSSH
    return str(public.public_bytes(serialization.Encoding.OpenSSH, form).decode())


def test_a_created_rsa_pair_fits_together(caller: Caller) -> None:
    pair, pem = keypairs.create(caller(), "mine")
    assert pem.startswith("-----BEGIN RSA PRIVATE KEY-----\n")
    private = serialization.load_pem_private_key(pem.encode(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.key_size == 2048
    assert pair.public_key == f"{openssh(private)} mine"
    der = private.private_bytes(
        serialization.Encoding.DER,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    assert pair.fingerprint.replace(":", "") == hashlib.sha1(der).hexdigest()


def test_a_created_ed25519_pair_fits_together(caller: Caller) -> None:
    pair, pem = keypairs.create(caller(), "mine", "ed25519")
    private = serialization.load_ssh_private_key(pem.encode(), None)
    assert pair.public_key == f"{openssh(private)} mine"
    blob = base64.b64decode(pair.public_key.split()[1])
    assert base64.b64decode(pair.fingerprint) == hashlib.sha256(blob).digest()


def test_an_imported_key_is_stored_without_what_came_with_it(caller: Caller) -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pair = keypairs.import_(caller(), "mine", f"  {openssh(private)} root@evil command=rm \n")
    assert pair.public_key == f"{openssh(private)} mine"
    der = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert (pair.kind, pair.fingerprint) == ("rsa", hashlib.md5(der).digest().hex(":"))
    other = ed25519.Ed25519PrivateKey.generate()
    assert keypairs.import_(caller(), "two", openssh(other)).kind == "ed25519"


GOOD = openssh(ed25519.Ed25519PrivateKey.generate())


NO_KEYS: list[str] = [
    "",
    "x",
    "ssh-rsa",
    "ssh-rsa AAAA",
    "ssh-ed25519 " + base64.b64encode(bytes(51)).decode(),
    f"{GOOD}\n{GOOD}",
    f"{GOOD}\r{GOOD}",
    f'command="id" {GOOD}',
    f"{GOOD} żółw",
    f"{GOOD} {'x' * 17000}",
    openssh(ec.generate_private_key(ec.SECP256R1())),
    openssh(rsa.generate_private_key(public_exponent=65537, key_size=1024))[:-8],
    "-----BEGIN RSA PRIVATE KEY-----",
    "ssh-dss AAAAB3NzaC1kc3M=",
    "ssh-ed25519-cert-v01@openssh.com AAAA",
]


def test_what_is_no_key_is_refused(caller: Caller) -> None:
    for key in NO_KEYS:
        with pytest.raises(errors.InvalidKey):
            keypairs.import_(caller(), "mine", key)
    assert keypairs.find(caller()).items == []


def test_names_are_taken_once_and_found_again(caller: Caller) -> None:
    pair = keypairs.import_(caller(), "mine", GOOD)
    with pytest.raises(errors.KeyPairExists):
        keypairs.create(caller(), "mine", "ed25519")
    keypairs.import_(caller(), "Mine", GOOD)
    assert [row.id for row in keypairs.find(caller(), names=["mine"]).items] == [pair.id]
    shown = ids.ec2("key", pair.id)
    assert [row.name for row in keypairs.find(caller(), ids=[shown]).items] == ["mine"]
    with pytest.raises(errors.KeyPairNotFound, match="yours, theirs"):
        keypairs.find(caller(), names=["yours", "mine", "theirs"])


def test_deleting_what_is_not_there_is_fine(caller: Caller) -> None:
    keypairs.import_(caller(), "mine", GOOD)
    deleted = keypairs.delete(caller(), name="mine")
    assert deleted is not None
    assert deleted.name == "mine"
    assert keypairs.delete(caller(), name="mine") is None
    assert keypairs.delete(caller(), id="key-0123456789abcdef0") is None
    with pytest.raises(errors.MalformedId):
        keypairs.delete(caller(), id="key")


def test_key_pairs_have_a_limit_and_kinds(caller: Caller, options: Callable[..., None]) -> None:
    options("quota", key_pairs=1)
    with pytest.raises(errors.InvalidValue):
        keypairs.create(caller(), "mine", "dsa")
    keypairs.import_(caller(), "mine", GOOD)
    with pytest.raises(errors.KeyPairLimitExceeded):
        keypairs.import_(caller(), "two", GOOD)
