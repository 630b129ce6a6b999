"""Users, projects, quotas: what the operator decides, and who a request's key stands for."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from cryptography.fernet import Fernet

from minicloud import context, errors
from minicloud.auth import database as identities
from minicloud.auth import secrets
from minicloud.cloud import groups, instances, keypairs, networks, projects, quotas, users
from minicloud.context import Context

Caller = Callable[[], Context]


def admin() -> Context:
    return context.admin()


def test_a_user_has_keys_and_the_secret_is_stored_encrypted(database: str) -> None:
    user = users.create(admin(), "bob")
    keys = users.keys(admin(), "bob")
    assert keys.access_key == user.access_key
    assert re.fullmatch("[A-Z0-9]{20}", keys.access_key)
    assert re.fullmatch("[A-Za-z0-9]{40}", keys.secret)
    assert keys.secret not in user.secret
    assert keys.secret not in repr(keys)
    with pytest.raises(errors.NameTaken):
        users.create(admin(), "bob")


def test_a_key_stands_for_a_user_in_a_project(database: str) -> None:
    bob = users.create(admin(), "bob")
    users.create(admin(), "eve")
    key = bob.access_key
    assert identities.by_access_key(key, None) is None
    projects.create(admin(), "first", "bob")
    projects.create(admin(), "other", "eve")
    found = identities.by_access_key(key, None)
    assert found is not None
    assert (found.user, found.project, found.is_admin) == ("bob", "first", False)
    assert found.secret == users.keys(admin(), "bob").secret
    assert found.secret not in repr(found)
    projects.create(admin(), "bob", "bob")
    own = identities.by_access_key(key, None)
    assert own is not None
    assert own.project == "bob"
    named = identities.by_access_key(key, "first")
    assert named is not None
    assert named.project == "first"
    for wrong in (("other", key), ("none", key), ("first", "A" * 20), ("first", "ż"), (None, "'")):
        assert identities.by_access_key(wrong[1], wrong[0]) is None


def test_an_admins_key_stands_for_it_in_every_project(database: str) -> None:
    root = users.create(admin(), "root", is_admin=True)
    users.create(admin(), "bob")
    projects.create(admin(), "acme", "bob")
    found = identities.by_access_key(root.access_key, "acme")
    assert found is not None
    assert (found.project, found.is_admin) == ("acme", True)
    assert identities.by_access_key(root.access_key, None) is None


def test_membership_can_be_given_and_taken_any_number_of_times(database: str) -> None:
    for name in ("bob", "eve"):
        users.create(admin(), name)
    projects.create(admin(), "acme", "bob")
    with pytest.raises(errors.Forbidden):
        projects.credentials(admin(), "acme", "eve")
    for _ in range(2):
        projects.add(admin(), "acme", "eve")
    assert [user.name for user in projects.members(admin(), "acme")] == ["bob", "eve"]
    found = projects.credentials(admin(), "acme", "eve")
    assert (found.user, found.project) == ("eve", "acme")
    assert found.secret == users.keys(admin(), "eve").secret
    for _ in range(2):
        projects.remove(admin(), "acme", "eve")
    assert [user.name for user in projects.members(admin(), "acme")] == ["bob"]
    with pytest.raises(errors.InUse):
        projects.remove(admin(), "acme", "bob")


def test_a_user_that_manages_is_kept(database: str) -> None:
    users.create(admin(), "bob")
    users.create(admin(), "eve")
    projects.create(admin(), "acme", "bob")
    projects.add(admin(), "acme", "eve")
    with pytest.raises(errors.InUse, match="acme"):
        users.delete(admin(), "bob")
    users.delete(admin(), "eve")
    assert [user.name for user in users.find(admin())] == ["bob"]


def test_a_project_with_resources_is_kept_and_names_them(caller: Caller) -> None:
    [view] = instances.run(caller(), image="ami-tty", count_min=1, count_max=1, flavor="m1.nano")
    keypairs.create(caller(), "key", "ed25519")
    groups.create(caller(), "web", "web")
    groups.authorize(caller(), name="web", rules=[groups.RuleSpec("-1", source_group="default")])
    quotas.change(admin(), "proj", "cores", 3)
    with pytest.raises(errors.InUse, match=view.row.id):
        projects.delete(admin(), "proj")


def test_a_project_takes_its_groups_keys_and_quotas_with_it(database: str) -> None:
    users.create(admin(), "bob")
    made = projects.create(admin(), "acme", "bob")
    ctx = Context(context.new_request_id(), made.manager_id, made.id, "bob", "acme")
    keypairs.create(ctx, "key", "ed25519")
    quotas.change(admin(), "acme", "cores", 3)
    networks.create(admin(), name="own", cidr="10.9.0.0/24", project="acme")
    with pytest.raises(errors.InUse, match="own"):
        projects.delete(admin(), "acme")
    users.create(admin(), "eve")
    projects.create(admin(), "free", "eve")
    quotas.change(admin(), "free", "cores", 3)
    projects.delete(admin(), "free")
    with pytest.raises(errors.ProjectNotFound):
        projects.get(admin(), "free")
    users.delete(admin(), "eve")


def test_quotas_have_the_defaults_of_2011_until_they_are_changed(caller: Caller) -> None:
    def limits() -> dict[str, int]:
        return {limit.resource: limit.limit for limit in quotas.find(admin(), "proj")}

    volumes = {"volumes": 10, "gigabytes": 1000}
    assert limits() == {"instances": 10, "cores": 20, "ram": 51200} | volumes
    quotas.change(admin(), "proj", "ram", -1)
    quotas.change(admin(), "proj", "ram", -1)
    quotas.change(admin(), "proj", "cores", 0)
    assert limits() == {"instances": 10, "cores": 0, "ram": -1} | volumes
    for resource, value in (("disks", 1), ("ram", -2), ("ram", 2**31)):
        with pytest.raises(errors.InvalidValue):
            quotas.change(admin(), "proj", resource, value)


WRONG_NAMES: list[str] = ["", "a b", "-a", "a/b", "ż", "a" * 64, "a\n", "a:b"]


def test_wrong_account_names_are_refused(database: str) -> None:
    for name in WRONG_NAMES:
        with pytest.raises(errors.InvalidValue):
            users.create(admin(), name)


def test_the_operators_verbs_are_closed_to_members(caller: Caller) -> None:
    for ask in (
        lambda: users.create(caller(), "bob"),
        lambda: users.find(caller()),
        lambda: projects.delete(caller(), "proj"),
        lambda: quotas.change(caller(), "proj", "ram", -1),
        lambda: networks.create(caller(), name="n", cidr="10.8.0.0/24"),
        lambda: projects.credentials(caller(), "proj", "alice"),
    ):
        with pytest.raises(errors.Forbidden):
            ask()


def test_a_secret_needs_its_key(options: Callable[..., None]) -> None:
    stored = secrets.encrypt("s3cret")
    assert secrets.decrypt(stored) == "s3cret"
    old = context_key()
    fresh = Fernet.generate_key().decode()
    options("DEFAULT", secret_key=f"{fresh},{old}")
    assert secrets.decrypt(stored) == "s3cret"
    renewed = secrets.encrypt("s3cret")
    options("DEFAULT", secret_key=fresh)
    assert secrets.decrypt(renewed) == "s3cret"
    with pytest.raises(errors.Unavailable, match="not the key"):
        secrets.decrypt(stored)
    for wrong in ("", "short"):
        options("DEFAULT", secret_key=wrong)
        with pytest.raises(errors.Unavailable, match="secret_key"):
            secrets.encrypt("s3cret")


def context_key() -> str:
    from minicloud import config

    return str(config.CONF.secret_key)
