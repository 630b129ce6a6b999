"""Another project's things are answered like things that never were, by every route.

The routes come from the services, the server actions from Compute's table: a new one needs a row
in `ways` (or these tests name it).  There are two roles, `member` and `admin`, and nobody is
disabled: who may not act any more is a member no longer, or gone.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import context, ids
from minicloud.api.openstack.compute import service as compute
from minicloud.auth import tokens
from minicloud.cloud import networks, projects, users
from minicloud.db import models
from minicloud.db.session import Tx, reading, transaction
from tests import tenancy
from tests.functional.openstack.conftest import PREFIXES, SERVICES, Door, Who, account
from tests.tenancy import instead
from tests.world import host_is_there

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGEDTTpvsyTYBzNrMVZkW2lyqcjxEr5CiwTfwLjB3XtB"
BYTES = "application/octet-stream"


@dataclasses.dataclass(frozen=True)
class Things:
    """What a project has, as OpenStack calls it: ids, and names that no other project uses."""

    user: str
    user_id: str
    project: str
    project_id: str
    token: str
    server: str
    stopped: str
    server_name: str
    reservation: str
    address: str
    image: str
    kernel: str
    waiting: str  # an image that waits for its bytes
    image_name: str
    group: str
    group_name: str
    source: str  # a group that a rule of another names
    spare: str  # one that nothing names
    rule: str
    key_name: str
    network: str
    hypervisor: str  # nobody's: only admins may know of it


@dataclasses.dataclass(frozen=True)
class Ask:
    """A request below the service's prefix; `own` is the status of the answer when all in it is
    the asker's own, None for any success."""

    path: str
    body: Any = None
    own: int | None = None
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def ways(its: Things, password: str, token: str) -> dict[str, list[Ask]]:
    """Service, method and path of a route → requests that say all its ways to name a thing."""
    found = {
        **{f"identity {key}": asks for key, asks in _identity(its, password, token).items()},
        **{f"compute {key}": asks for key, asks in _compute(its).items()},
        **{f"compute {key}": asks for key, asks in _rest_of_compute(its).items()},
        **{f"image {key}": asks for key, asks in _image(its).items()},
    }
    return {key: [_as_ask(ask) for ask in asks] for key, asks in found.items()}


def _as_ask(given: Any) -> Ask:
    return Ask(given) if isinstance(given, str) else given


def _identity(its: Things, password: str, token: str) -> dict[str, list[Any]]:
    subject = {"X_Subject_Token": its.token}
    here = {"id": "default"}
    change = {"user": {"password": "x" * 20, "original_password": "wrong"}}

    def log_in(user: dict[str, Any], scope: dict[str, Any]) -> Ask:
        identity = {"methods": ["password"], "password": {"user": {**user, "password": password}}}
        return Ask("/auth/tokens", {"auth": {"identity": identity, "scope": {"project": scope}}})

    by_token = {"methods": ["token"], "token": {"id": token}}
    return {
        "GET /": [],
        "GET /v3": [],
        "GET /auth/catalog": ["/auth/catalog"],
        "GET /auth/domains": ["/auth/domains"],
        "GET /auth/projects": ["/auth/projects", f"/auth/projects?name={its.project}"],
        "GET /auth/tokens": [Ask("/auth/tokens", headers=subject)],
        "POST /auth/tokens": [
            log_in({"id": its.user_id}, {"id": its.project_id}),
            log_in({"name": its.user, "domain": here}, {"name": its.project, "domain": here}),
            _elsewhere(by_token, {"id": its.project_id}),
            _elsewhere(by_token, {"name": its.project, "domain": here}),
        ],
        "DELETE /auth/tokens": [Ask("/auth/tokens", headers=subject)],
        "GET /domains": ["/domains"],
        "GET /domains/{domain_id}": ["/domains/default"],
        "GET /endpoints": ["/endpoints"],
        "GET /endpoints/{id}": [Ask("/endpoints/none", own=404)],
        "GET /projects": [Ask(f"/projects?name={its.project}", own=403)],
        "GET /projects/{project_id}": [f"/projects/{its.project_id}"],
        "GET /regions": ["/regions"],
        "GET /regions/{id}": ["/regions/nova"],
        "GET /roles": ["/roles"],
        "GET /roles/{role_id}": ["/roles/member"],
        "GET /services": ["/services"],
        "GET /services/{id}": [Ask("/services/none", own=404)],
        "GET /users": [Ask(f"/users?name={its.user}", own=403)],
        "GET /users/{user_id}": [f"/users/{its.user_id}"],
        "POST /users/{user_id}/password": [Ask(f"/users/{its.user_id}/password", change, own=401)],
        "GET /users/{user_id}/projects": [f"/users/{its.user_id}/projects"],
    }


def _elsewhere(identity: dict[str, Any], project: dict[str, Any]) -> Ask:
    return Ask("/auth/tokens", {"auth": {"identity": identity, "scope": {"project": project}}})


def _compute(its: Things) -> dict[str, list[Any]]:
    """Servers."""
    server = f"/servers/{its.server}"
    queries = (
        f"image={its.image}",
        f"key_name={its.key_name}",
        f"reservation_id={its.reservation}",
        f"ip={its.address}",
        f"name={its.server_name}",
        f"uuid={its.server}",
        f"marker={its.server}",
        f"project_id={its.project_id}",
        f"tenant_id={its.project_id}",
        f"user_id={its.user_id}",
    )
    admins = Ask(f"/servers?all_tenants=1&project_id={its.project_id}", own=403)
    actions = {
        "forceDelete": server,
        "os-getConsoleOutput": server,
        "os-start": f"/servers/{its.stopped}",
        "os-stop": server,
        "reboot": server,
    }
    return {
        "GET /": [],
        "GET /v2.1": [],
        "GET /servers": [f"/servers?{query}" for query in queries] + [admins],
        "GET /servers/detail": [f"/servers/detail?{query}" for query in queries],
        "POST /servers": [
            _server(its),
            _server(its, imageRef=f"http://elsewhere/images/{its.image}"),
            _server(its, networks=[{"uuid": its.network}], own=400),
            _server(its, block_device_mapping_v2=[{"uuid": its.image}], own=400),
        ],
        "GET /servers/{server_id}": [server],
        "DELETE /servers/{server_id}": [server],
        "POST /servers/{server_id}/action": [
            Ask(f"{path}/action", {name: {"type": "HARD"} if name == "reboot" else {}})
            for name, path in actions.items()
        ],
        "GET /servers/{server_id}/ips": [f"{server}/ips"],
        "GET /servers/{server_id}/metadata": [f"{server}/metadata"],
        "GET /servers/{server_id}/os-security-groups": [f"{server}/os-security-groups"],
    }


def _server(its: Things, own: int | None = None, **members: Any) -> Ask:
    made = {
        "name": "new",
        "imageRef": its.image,
        "flavorRef": "6",
        "key_name": its.key_name,
        "security_groups": [{"name": its.group_name}],
    }
    return Ask("/servers", {"server": {**made, **members}}, own)


def _rest_of_compute(its: Things) -> dict[str, list[Any]]:
    rule = {
        "parent_group_id": its.group,
        "group_id": its.source,
        "ip_protocol": "tcp",
        "from_port": 1,
        "to_port": 1,
    }
    pair = {"name": "new", "public_key": KEY, "user_id": its.user_id}
    host = f"/os-hypervisors/{its.hypervisor}"
    return {
        "GET /extensions": ["/extensions"],
        "GET /flavors": ["/flavors"],
        "GET /flavors/detail": ["/flavors/detail"],
        "GET /flavors/{flavor_id}": ["/flavors/6"],
        "GET /flavors/{flavor_id}/os-extra_specs": ["/flavors/6/os-extra_specs"],
        "GET /images": [f"/images?name={its.image_name}", f"/images?marker={its.image}"],
        "GET /images/detail": [f"/images/detail?name={its.image_name}"],
        "GET /images/{image_id}": [f"/images/{its.image}"],
        "GET /limits": [f"/limits?tenant_id={its.project_id}"],
        "GET /os-aggregates": [Ask("/os-aggregates", own=403)],
        "GET /os-availability-zone": ["/os-availability-zone"],
        "GET /os-availability-zone/detail": [Ask("/os-availability-zone/detail", own=403)],
        "GET /os-hypervisors": [Ask("/os-hypervisors", own=403)],
        "GET /os-hypervisors/detail": [Ask("/os-hypervisors/detail", own=403)],
        "GET /os-hypervisors/statistics": [Ask("/os-hypervisors/statistics", own=403)],
        "GET /os-hypervisors/{id}": [Ask(host, own=403)],
        "GET /os-hypervisors/{id}/uptime": [Ask(f"{host}/uptime", own=403)],
        "GET /os-keypairs": ["/os-keypairs", f"/os-keypairs?user_id={its.user_id}"],
        "POST /os-keypairs": [Ask("/os-keypairs", {"keypair": pair})],
        "GET /os-keypairs/{name}": [f"/os-keypairs/{its.key_name}"],
        "DELETE /os-keypairs/{name}": [f"/os-keypairs/{its.key_name}"],
        "GET /os-quota-sets/{project_id}": [f"/os-quota-sets/{its.project_id}"],
        "GET /os-quota-sets/{project_id}/defaults": [f"/os-quota-sets/{its.project_id}/defaults"],
        "GET /os-security-groups": [f"/os-security-groups?all_tenants=1&x={its.group}"],
        "POST /os-security-groups": [
            Ask("/os-security-groups", {"security_group": {"name": "new"}})
        ],
        "GET /os-security-groups/{group_id}": [f"/os-security-groups/{its.group}"],
        "DELETE /os-security-groups/{group_id}": [f"/os-security-groups/{its.spare}"],
        "POST /os-security-group-rules": [
            Ask("/os-security-group-rules", {"security_group_rule": rule})
        ],
        "DELETE /os-security-group-rules/{rule_id}": [f"/os-security-group-rules/{its.rule}"],
        "GET /os-services": [Ask("/os-services", own=403)],
    }


def _image(its: Things) -> dict[str, list[Any]]:
    image = f"/images/{its.image}"
    new = {"name": "new", "disk_format": "raw", "container_format": "bare"}
    given = {"Content_Type": BYTES}
    queries = (
        f"id={its.image}",
        f"id=in:{its.image},{its.kernel}",
        f"name={its.image_name}",
        f"owner={its.project_id}",
        f"marker={its.image}",
    )
    return {
        "GET /": [],
        "GET /images": [f"/images?{query}" for query in queries],
        "POST /images": [
            Ask("/images", {**new, "kernel_id": its.kernel}),
            Ask("/images", {**new, "owner": its.project_id}),
            Ask("/images", {**new, "id": its.image}, own=400),
        ],
        "GET /images/{image_id}": [image],
        "DELETE /images/{image_id}": [f"/images/{its.waiting}", image],
        "GET /images/{image_id}/file": [f"{image}/file"],
        "PUT /images/{image_id}/file": [
            Ask(f"/images/{its.waiting}/file", b"bytes", headers=given)
        ],
        "GET /images/{image_id}/members": [f"{image}/members"],
        "GET /schemas/image": ["/schemas/image"],
        "GET /schemas/images": ["/schemas/images"],
    }


# --- what there is ----------------------------------------------------------------------------


@transaction
def add_image(tx: Tx, project_id: str, name: str, kind: str = "machine") -> str:
    id = ids.new()
    facts = {"state": "active", "rest": "active", "request_id": "req-test", "size": 1}
    names = {"name": name, "kind": kind, "file": id, "host": "h1", "virtual_size": 1}
    tx.add(models.Image(id=id, project_id=project_id, **names, **facts, sha256="0" * 64))
    return id


@transaction
def settle(tx: Tx, stopped: list[str]) -> None:
    """All instances run, or are stopped, as daemons would have made them."""
    instance = models.Instance
    placed = {"host": "h1", "zone": "nova"}
    for state in ("running", "stopped"):
        some = instance.id.in_(stopped) == (state == "stopped")
        tx.changed(sa.update(instance).where(some).values(state=state, rest=state, **placed))


@reading
def booked(tx: Tx, id: str) -> tuple[str, str]:
    """The reservation of an instance, and its address."""
    made, address = models.Instance, models.Address
    return (
        tx.scalars(sa.select(made.reservation_id).where(made.id == id)).one(),
        tx.scalars(sa.select(address.address).where(address.instance_id == id)).one(),
    )


def furnished(door: Door, who: Who, hypervisor: str) -> Things:
    """The project has one of everything, by names in which its own is not."""
    mark = who.project_id[:8]

    def ask(method: str, path: str, body: Any = None, service: str = "compute") -> Any:
        answer = door.ask(service, method, path, body, who)
        assert answer.status < 300, (path, answer.body)
        return answer.json

    def group(name: str) -> str:
        made = {"security_group": {"name": f"{name}-{mark}"}}
        return ask("POST", "/os-security-groups", made)["security_group"]["id"]

    number = len(projects.find(context.admin()))
    network = networks.create(
        context.admin(), name=f"net-{mark}", cidr=f"10.{number}.0.0/24", project=who.project
    )
    image, group_id = add_image(who.project_id, f"image-{mark}"), group("group")
    ask("POST", "/os-keypairs", {"keypair": {"name": f"key-{mark}", "public_key": KEY}})
    made = {"name": f"server-{mark}", "flavorRef": "6", "imageRef": image}
    made["key_name"] = f"key-{mark}"
    server, stopped = [ask("POST", "/servers", {"server": made})["server"]["id"] for _ in "12"]
    settle([stopped])
    reservation_id, address = booked(server)
    rule = {"parent_group_id": group_id, "from_port": 2, "to_port": 2, "ip_protocol": "tcp"}
    rules = ask("POST", "/os-security-group-rules", {"security_group_rule": rule})
    return Things(
        user=who.user,
        user_id=who.user_id,
        project=who.project,
        project_id=who.project_id,
        token=door.log_in(who).headers["X-Subject-Token"],
        server=server,
        stopped=stopped,
        server_name=f"server-{mark}",
        reservation=reservation_id,
        address=address,
        image=image,
        kernel=add_image(who.project_id, "kernel", "kernel"),
        waiting=ask("POST", "/images", {"name": "waits", "disk_format": "raw"}, "image")["id"],
        image_name=f"image-{mark}",
        group=group_id,
        group_name=f"group-{mark}",
        source=group("source"),
        spare=group("spare"),
        rule=rules["security_group_rule"]["id"],
        key_name=f"key-{mark}",
        network=network.id,
        hypervisor=hypervisor,
    )


@pytest.fixture
def bobs(door: Door, root: Who, options: Callable[..., None]) -> Things:
    options("objectstore", url="http://127.0.0.1:1")  # there is none
    host_is_there()
    [host] = door.ask("compute", "GET", "/os-hypervisors", who=root).json["hypervisors"]
    return furnished(door, door.bob, str(host["id"]))


@pytest.fixture
def ursula(door: Door) -> Who:
    """Somebody else, with another project besides."""
    made = account("ursula", "hers")
    projects.create(context.admin(), "second", "ursula")
    return made


def in_second(ursula: Who) -> Who:
    its = projects.credentials(context.admin(), "second", "ursula")
    return dataclasses.replace(ursula, project_id=its.project_id, project="second")


NOBODYS = {
    "user": "nob",
    "project": "nobs",
    "server_name": "server-00000000",
    "image_name": "image-00000000",
    "group_name": "group-00000000",
    "key_name": "key-00000000",
    "address": "10.99.0.2",
    "hypervisor": "1000000000",
}


def nobodys(field: str, theirs: str, dead: str) -> str:
    """What never was, and looks like it."""
    if field == "token":
        return dead
    return NOBODYS.get(field) or str(uuid.UUID(int=uuid.UUID(theirs).int ^ 0xFFFF))


def others(theirs: Things, dead: str) -> Iterator[tuple[str, str, str]]:
    """Field, what another project has, and what nobody has but looks alike."""
    for field, thing in dataclasses.asdict(theirs).items():
        yield field, thing, nobodys(field, thing, dead)


# --- what holds -------------------------------------------------------------------------------


def routes() -> list[str]:
    """Service, method and path below its prefix, of all that there are."""
    return sorted(
        f"{name} {method} {path if public else path.removeprefix(PREFIXES[name])}"
        for name, app in SERVICES.items()
        for path, method, _ in app.SERVICE.routes()
        for public in [path in ("/", PREFIXES[name])]
    )


NOTHING = Things(*[field.name for field in dataclasses.fields(Things)])


def test_every_route_and_action_has_a_row_here() -> None:
    known = ways(NOTHING, "", "")
    assert sorted(known) == routes()
    acts = known["compute POST /servers/{server_id}/action"]
    assert sorted(name for ask in acts for name in ask.body) == compute.actions()


def send(door: Door, route: str, ask: Ask, token: str) -> Any:
    service, method, _ = route.split(" ")
    path = PREFIXES[service] + ask.path
    return door.send(service, method, path, ask.body, token, **ask.headers)


def test_ones_own_things_are_there(door: Door, bobs: Things, subtests: Any) -> None:
    """So the requests below are refused for whose the things are, and for nothing else."""
    known = ways(bobs, door.bob.password, door.token()).items()
    each = [(route, ask) for route, asks in known for ask in asks]
    for route, ask in sorted(each, key=lambda one: one[0].split()[1] == "DELETE"):
        with subtests.test(f"{route} {ask.path}"):
            settle([bobs.stopped])
            told = send(door, route, ask, door.token())
            wanted = {ask.own} if ask.own else {200, 201, 202, 204, 503}  # no object store, host
            assert told.status in wanted, told.body


def compare(
    door: Door,
    who: Who,
    own: Things,
    theirs: Things,
    subtests: Any,
    services: tuple[str, ...] = tuple(SERVICES),
    known: tuple[str, ...] = (),
) -> int:
    """How many requests about another's thing were answered like those about nothing; who asks
    may know the things in the fields `known`."""
    token = door.token(who)
    # good in form and nobody's: its user is gone
    dead = tokens.sealed(tokens.fresh(str(uuid.UUID(int=1)), own.project_id, 0, ("password",)))
    tried, before = 0, tenancy.whole()
    asked = ways(own, who.password, token).items()
    for route, ask in [(route, ask) for route, asks in asked for ask in asks]:
        facts = dataclasses.asdict(ask)
        for field, foreign, missing in others(theirs, dead):
            mine = getattr(own, field)
            untouched = instead(facts, mine, foreign) == facts
            if untouched or field in known or route.split()[0] not in services:
                continue
            tried += 1
            with subtests.test(f"{who.project}: {route} {field}"):
                answers, did = [], []
                for thing in (foreign, missing):
                    kept = tenancy.remembered()
                    with tenancy.statements() as statements:
                        told = send(door, route, Ask(**instead(facts, mine, thing)), token)
                    seen = tenancy.seen(told.status, told.headers, told.body)
                    answers.append(instead(seen, thing, missing))
                    did.append((statements, tenancy.remembered() - kept))
                assert answers[0] == answers[1]
                if "auth/tokens" not in route:  # there the password's check takes the time
                    assert did[0] == did[1]
        assert tenancy.whole() == before, f"{route} changed something"
    return tried


def test_anothers_thing_is_answered_like_one_that_is_not_there(
    door: Door, bobs: Things, ursula: Who, subtests: Any
) -> None:
    assert compare(door, ursula, furnished(door, ursula, "2000000001"), bobs, subtests) > 90


def test_a_token_of_another_project_of_ones_own_shows_no_more(
    door: Door, bobs: Things, ursula: Who, subtests: Any
) -> None:
    """Identity is left out: it tells users which projects they have."""
    theirs = furnished(door, ursula, "2000000002")
    second = in_second(ursula)
    door.tokens["ursula"] = door.log_in(second).headers["X-Subject-Token"]
    own = furnished(door, second, "2000000001")
    known = ("user", "user_id", "token")
    assert compare(door, second, own, theirs, subtests, ("compute", "image"), known) > 60


def test_an_admins_token_shows_no_more_but_by_the_routes_for_admins(
    door: Door, bobs: Things, root: Who, subtests: Any
) -> None:
    """They may look at every project and host, and boot from and delete every image."""
    own = furnished(door, root, "2000000001")
    known = ("user", "user_id", "project_id", "hypervisor", "image", "kernel")
    assert compare(door, root, own, bobs, subtests, ("compute", "image"), known) > 40


def ended(door: Door, who: Who) -> Iterator[tuple[str, str]]:
    """Tokens that were good once, and what became of them."""

    def token(user: str, project: str) -> str:
        made = account(user, project)
        return door.log_in(made).headers["X-Subject-Token"]

    operator = context.admin
    left = token("left", "lefts")
    users.create(operator(), "heir")
    projects.create(operator(), "left-behind", "heir")
    projects.add(operator(), "left-behind", "left")
    scope = {"project": {"name": "left-behind", "domain": {"id": "default"}}}
    identity = {"methods": ["token"], "token": {"id": left}}
    body = {"auth": {"identity": identity, "scope": scope}}
    inside = door.send("identity", "POST", "/v3/auth/tokens", body).headers["X-Subject-Token"]
    projects.remove(operator(), "left-behind", "left")
    yield "of one who is no member any more", inside
    orphan = token("orphan", "orphans")
    projects.delete(operator(), "orphans")
    yield "in a project that is gone", orphan
    users.delete(operator(), "orphan")
    yield "of a user who is gone", orphan
    changed = account("changed", "changes")
    before = door.log_in(changed).headers["X-Subject-Token"]
    new = {"user": {"password": "x" * 20, "original_password": changed.password}}
    path = f"/v3/users/{changed.user_id}/password"
    assert door.send("identity", "POST", path, new, before).status == 204
    yield "of before the password was changed", before
    back = door.log_in(who).headers["X-Subject-Token"]
    assert (
        door.send("identity", "DELETE", "/v3/auth/tokens", token=back, X_Subject_Token=back).status
        == 204
    )
    yield "that was given back", back


def test_a_token_that_is_good_no_more_opens_what_no_token_opens(
    door: Door, bobs: Things, root: Who, subtests: Any
) -> None:
    public = {f"{name} GET {path}" for name in SERVICES for path in ("/", PREFIXES[name])}
    dead = list(ended(door, door.bob))
    before = tenancy.whole()
    for route, asks in ways(bobs, "", "").items():
        if route in public or route == "identity POST /auth/tokens":
            continue
        none = send(door, route, asks[0], "none")
        assert none.status == 401
        for what, token in dead:
            with subtests.test(f"{route} with a token {what}"):
                told = send(door, route, asks[0], token)
                assert tenancy.seen(told.status, told.headers, told.body) == tenancy.seen(
                    none.status, none.headers, none.body
                )
    assert tenancy.whole() == before
