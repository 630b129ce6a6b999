"""Identity v3: tokens, the catalog, who is there."""

from __future__ import annotations

import dataclasses

import pytest

from minicloud import context
from minicloud.auth import tokens
from minicloud.cloud import projects, users


def test_a_password_gives_a_token_with_all_that_clients_read(door):
    answer = door.log_in(door.bob)
    assert answer.status == 201
    token = answer.json["token"]
    assert answer.headers["X-Subject-Token"]
    assert token["user"]["name"] == "bob"
    assert token["user"]["domain"] == {"id": "default", "name": "Default"}
    assert token["project"]["id"] == door.bob.project_id
    assert [role["name"] for role in token["roles"]] == ["member"]
    assert token["expires_at"].endswith("Z")
    assert "." in token["expires_at"]


def test_the_catalog_lists_what_answers_and_nothing_else(door):
    catalog = door.log_in(door.bob).json["token"]["catalog"]
    assert {(one["type"], one["name"]) for one in catalog} == {
        ("identity", "keystone"),
        ("compute", "nova"),
        ("image", "glance"),
    }
    for service in catalog:
        for endpoint in service["endpoints"]:
            base = door.urls[service["type"]]
            path = endpoint["url"].removeprefix(base) or "/"
            assert door.send(service["type"], "GET", path).status in (200, 300)


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "wrong"},
        {"user": "nobody"},
        {"user": "b\u00f6b"},
        {"project": "proj"},
        {"project": "none"},
    ],
)
def test_whatever_is_wrong_the_answer_is_the_same(door, wrong):
    answer = door.log_in(dataclasses.replace(door.bob, **wrong))
    assert answer.status == 401
    assert answer.json["error"]["code"] == 401
    assert answer.json["error"]["title"] == "Unauthorized"
    assert answer.json["error"]["message"] == "The user, the password or the project is wrong"


def test_another_domain_has_nobody(door):
    user = {"name": "bob", "domain": {"name": "other"}, "password": door.bob.password}
    identity = {"methods": ["password"], "password": {"user": user}}
    assert door.log_in(door.bob, identity=identity).status == 401


def test_a_user_may_be_named_by_id_and_the_domain_by_name(door):
    user = {"id": door.bob.user_id, "password": door.bob.password}
    scope = {"project": {"name": "bobs", "domain": {"name": "Default"}}}
    identity = {"methods": ["password"], "password": {"user": user}}
    assert door.log_in(door.bob, identity=identity, scope=scope).status == 201


def test_a_token_without_a_project_has_no_catalog_and_runs_nothing(door):
    answer = door.log_in(door.bob, scope="unscoped")
    assert "catalog" not in answer.json["token"]
    token = answer.headers["X-Subject-Token"]
    assert door.send("compute", "GET", "/v2.1/servers", token=token).status == 403
    found = door.send("identity", "GET", "/v3/auth/projects", token=token).json["projects"]
    assert [one["name"] for one in found] == ["bobs"]


def test_an_admin_without_a_project_is_none(door, root):
    token = door.log_in(root, scope="unscoped").headers["X-Subject-Token"]
    mine = door.token(root)
    for path in ("/servers/detail?all_tenants=1", "/os-hypervisors"):
        assert door.send("compute", "GET", f"/v2.1{path}", token=mine).status == 200
        assert door.send("compute", "GET", f"/v2.1{path}", token=token).status == 403


def test_a_token_can_be_changed_for_one_in_another_project_that_ends_no_later(door):
    projects.create(context.admin(), "second", "bob")
    first = door.log_in(door.bob)
    identity = {"methods": ["token"], "token": {"id": first.headers["X-Subject-Token"]}}
    scope = {"project": {"name": "second", "domain": {"id": "default"}}}
    second = door.log_in(door.bob, identity=identity, scope=scope)
    assert second.status == 201
    assert second.json["token"]["project"]["name"] == "second"
    assert second.json["token"]["expires_at"] <= first.json["token"]["expires_at"]
    scope["project"]["name"] = "proj"
    assert door.log_in(door.bob, identity=identity, scope=scope).status == 401


def test_a_token_is_looked_at_and_given_back(door):
    text = door.log_in(door.bob).headers["X-Subject-Token"]
    path = "/v3/auth/tokens"
    seen = door.send("identity", "GET", path, token=text, X_Subject_Token=text)
    assert seen.json["token"]["user"]["name"] == "bob"
    assert door.send("identity", "HEAD", path, token=text, X_Subject_Token=text).status == 200
    assert door.send("identity", "DELETE", path, token=text, X_Subject_Token=text).status == 204
    again = door.send("identity", "GET", path, token=text, X_Subject_Token=text)
    assert again.status == 401
    other = door.token()
    assert door.send("identity", "GET", path, token=other, X_Subject_Token=text).status == 404
    assert door.send("compute", "GET", "/v2.1/servers", token=text).status == 401


def test_nobody_looks_at_or_revokes_a_strangers_token(door, carol, root):
    text, path = door.token(), "/v3/auth/tokens"
    for method in ("GET", "DELETE"):
        refused = door.send(
            "identity", method, path, token=door.token(carol), X_Subject_Token=text
        )
        assert refused.status == 404
    assert (
        door.send("identity", "GET", path, token=door.token(root), X_Subject_Token=text).status
        == 200
    )


@pytest.mark.parametrize("text", ["x", "gAAAAA", "\u00ff", "A" * 5000, "gAAAA\x7f"])
def test_what_is_no_token_opens_nothing(door, text):
    answer = door.send("compute", "GET", "/v2.1/servers", token=text.encode().decode("latin-1"))
    assert (answer.status, answer.fault) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Keystone uri=")


def test_a_token_ends_with_its_time(door, options):
    options("auth", token_s=60)
    text = door.log_in(door.bob).headers["X-Subject-Token"]
    token = tokens.opened(text)
    assert 55 < token.expires_at - token.issued_at <= 60
    old = dataclasses.replace(token, expires_at=token.issued_at - 1)
    answer = door.send("compute", "GET", "/v2.1/servers", token=tokens.sealed(old))
    assert answer.status == 401


def test_a_token_ends_with_the_membership_and_with_the_user(door, carol):
    text = door.token(carol)
    projects.add(context.admin(), "bobs", "carol")
    inside = door.log_in(dataclasses.replace(carol, project="bobs")).headers["X-Subject-Token"]
    assert door.send("compute", "GET", "/v2.1/servers", token=inside).status == 200
    projects.remove(context.admin(), "bobs", "carol")
    assert door.send("compute", "GET", "/v2.1/servers", token=inside).status == 401
    assert door.send("compute", "GET", "/v2.1/servers", token=text).status == 200
    projects.delete(context.admin(), "carols")
    users.delete(context.admin(), "carol")
    assert door.send("compute", "GET", "/v2.1/servers", token=text).status == 401


def test_a_password_of_ones_own_ends_all_tokens_and_is_not_handed_out(door):
    before = door.token()
    body = {"user": {"original_password": door.bob.password, "password": "correct horse"}}
    path = f"/users/{door.bob.user_id}/password"
    assert door.ask("identity", "POST", path, body).status == 204
    assert door.send("compute", "GET", "/v2.1/servers", token=before).status == 401
    assert door.log_in(door.bob).status == 401
    assert door.log_in(dataclasses.replace(door.bob, password="correct horse")).status == 201
    assert users.password(context.admin(), "bob") is None


@pytest.mark.parametrize(
    ("original", "new", "status"), [("wrong", "long enough", 401), (None, "short", 400)]
)
def test_a_password_is_not_changed_without_the_old_one_or_to_a_short_one(
    door, original, new, status
):
    body = {"user": {"original_password": original or door.bob.password, "password": new}}
    path = f"/users/{door.bob.user_id}/password"
    assert door.ask("identity", "POST", path, body).status == status
    assert door.log_in(door.bob).status == 201


def test_nobody_changes_anothers_password(door, carol):
    body = {"user": {"original_password": door.bob.password, "password": "long enough"}}
    path = f"/users/{door.bob.user_id}/password"
    assert door.ask("identity", "POST", path, body, who=carol).status == 403


def test_admins_list_projects_and_users_and_others_see_their_own(door, root):
    for plural, own in (("projects", door.bob.project_id), ("users", door.bob.user_id)):
        names = {
            one["name"] for one in door.ask("identity", "GET", f"/{plural}", who=root).json[plural]
        }
        assert len(names) == 3
        assert door.ask("identity", "GET", f"/{plural}").status == 403
        assert door.ask("identity", "GET", f"/{plural}/{own}").status == 200
        one = door.ask("identity", "GET", f"/{plural}?name=root", who=root).json[plural]
        assert len(one) == (1 if plural == "users" else 0)
    assert door.ask("identity", "GET", f"/projects/{door.bob.project}").status == 404
    assert [one["name"] for one in door.ask("identity", "GET", "/roles").json["roles"]] == [
        "admin",
        "member",
    ]


def test_links_of_the_discovery_carry_the_host_the_client_used(door):
    answer = door.send("identity", "GET", "/v3", Host="cloud.example:5000")
    assert answer.status == 200
    assert answer.json["version"]["links"] == [
        {"rel": "self", "href": "http://cloud.example:5000/v3/"}
    ]
    many = door.send("identity", "GET", "/", Host="a b<>")
    assert many.status == 300
    assert many.json["versions"]["values"][0]["links"][0]["href"] == "http://localhost/v3/"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"x",
        b"[]",
        b"{}",
        b"\xff",
        b'{"auth": 1}',
        b"[" * 100_000,
        b'{"auth":{"identity":{}}}',
    ],
)
def test_a_body_that_makes_no_sense_is_refused_in_the_protocols_form(door, body):
    answer = door.send("identity", "POST", "/v3/auth/tokens", body)
    assert answer.status == 400
    assert answer.json["error"]["code"] == 400
    assert answer.headers["x-openstack-request-id"].startswith("req-")
