"""Requests for every route of the OpenStack APIs with something wrong in them."""

from __future__ import annotations

import dataclasses
import json
import re
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest

from minicloud.api.openstack.compute import app as compute
from minicloud.api.openstack.compute import service as compute_service
from minicloud.api.openstack.identity import app as identity
from minicloud.api.openstack.image import app as image
from minicloud.api.openstack.wire import STATUS
from minicloud.cloud import instances
from tests.functional.ec2.test_ec2_every_action import settle
from tests.functional.fuzz import chance as chances
from tests.functional.fuzz.chance import Chance, Pairs
from tests.functional.fuzz.doors import ENGINES, Answer, Ask, Loud, Row, Rows, Watched, query
from tests.functional.openstack.conftest import PREFIXES, Door, account, door

__all__ = ["door"]  # a fixture
pytestmark = ENGINES

SERVICES = {"identity": identity, "compute": compute, "image": image}
# statuses that the services' names of faults do not have
OTHERS = {300, 408, 409, 411, 412, 413, 416}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ5jDl6+YAHjXOzQhWkfGwO4XC1ueUCxIW0FJ7cGBhh6 x"
HEADERS = (
    *("X-Auth-Token", "X-Subject-Token", "Content-Type", "Content-Length", "Transfer-Encoding"),
    *("Host", "Accept", "Accept-Language", "X-Forwarded-Proto", "OpenStack-API-Version", "Range"),
    *("X-OpenStack-Nova-API-Version", "Expect", "If-Match", "Content-Encoding", "X-Roles"),
)
QUERIES = (
    *(
        "limit",
        "marker",
        "name",
        "status",
        "image",
        "flavor",
        "changes-since",
        "all_tenants",
        "ip",
    ),
    *("sort_key", "sort_dir", "sort", "size_min", "size_max", "id", "visibility", "protected"),
    *("os_hidden", "owner", "disk_format", "tag", "deleted", "host", "project_id", "uuid"),
    *("key_name", "reservation_id", "availability_zone", "enabled", "domain_id", "is_public"),
    *("minDisk", "minRam", "interface", "service_id", "type", "nocatalog", "usage_type", "server"),
)

Right = tuple[str, str, str, Any]  # service, method, path of a route, body


def right(its: dict[str, str], who: Any) -> list[Right]:
    """A request for each route and server action that is as a client makes it."""
    domain = {"id": "default", "name": "Default"}
    user = {"name": who.user, "domain": domain, "password": who.password}
    project = {"project": {"name": who.project, "domain": domain}}
    password = {"methods": ["password"], "password": {"user": user}}
    token = {"methods": ["token"], "token": {"id": its["token"]}}
    server = {
        "name": "n",
        "imageRef": its["tty"],
        "flavorRef": "1",
        "key_name": "key",
        "user_data": "YQ==",
        "min_count": 1,
        "max_count": "1",
        "availability_zone": "nova",
        "security_groups": [{"name": "default"}],
        "networks": "auto",
        "config_drive": False,
        "return_reservation_id": False,
        "block_device_mapping_v2": [
            {"source_type": "image", "destination_type": "local", "boot_index": "0"}
        ],
    }
    rule = {
        "parent_group_id": its["group"],
        "ip_protocol": "tcp",
        "from_port": 22,
        "to_port": "22",
    }
    cidr, source = {"cidr": "10.0.0.0/8"}, {"group_id": its["group"]}
    picture = {
        "name": "n",
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": "private",
        "architecture": "x86_64",
        "kernel_id": "",
        "min_disk": 0,
        "tags": [],
        "hw_disk": "virtio",
    }
    one = f"/v2.1/servers/{its['server']}"
    act = f"{one}/action"
    change = {"user": {"password": "new", "original_password": who.password}}
    return [
        *(("identity", "GET", path, None) for path in identity_paths(its)),
        (
            "identity",
            "POST",
            "/v3/auth/tokens",
            {"auth": {"identity": password, "scope": project}},
        ),
        (
            "identity",
            "POST",
            "/v3/auth/tokens",
            {"auth": {"identity": token, "scope": "unscoped"}},
        ),
        ("identity", "DELETE", "/v3/auth/tokens", None),
        ("identity", "POST", f"/v3/users/{its['user']}/password", change),
        *(("compute", "GET", path, None) for path in compute_paths(its)),
        ("compute", "POST", "/v2.1/servers", {"server": server}),
        ("compute", "POST", "/v2.1/servers", {"server": server, "os:scheduler_hints": {}}),
        ("compute", "DELETE", one, None),
        ("compute", "POST", act, {"reboot": {"type": "SOFT"}}),
        ("compute", "POST", act, {"os-start": None}),
        ("compute", "POST", act, {"os-stop": None}),
        ("compute", "POST", act, {"forceDelete": None}),
        ("compute", "POST", act, {"os-getConsoleOutput": {"length": 5}}),
        ("compute", "POST", "/v2.1/os-keypairs", {"keypair": {"name": "n", "public_key": KEY}}),
        ("compute", "DELETE", "/v2.1/os-keypairs/key", None),
        (
            *("compute", "POST", "/v2.1/os-security-groups"),
            {"security_group": {"name": "n", "description": "d"}},
        ),
        ("compute", "DELETE", f"/v2.1/os-security-groups/{its['group']}", None),
        ("compute", "POST", "/v2.1/os-security-group-rules", {"security_group_rule": rule | cidr}),
        (
            *("compute", "POST", "/v2.1/os-security-group-rules"),
            {"security_group_rule": rule | source},
        ),
        ("compute", "DELETE", f"/v2.1/os-security-group-rules/{its['rule']}", None),
        *(("image", "GET", path, None) for path in image_paths(its)),
        ("image", "POST", "/v2/images", picture),
        ("image", "PUT", f"/v2/images/{its['gone']}/file", "x"),
        ("image", "DELETE", f"/v2/images/{its['image']}", None),
    ]


def identity_paths(its: dict[str, str]) -> list[str]:
    words = """/ /v3 /v3/projects /v3/auth/projects /v3/projects/{project} /v3/users
        /v3/users/{user} /v3/users/{user}/projects /v3/roles /v3/roles/member /v3/domains
        /v3/auth/domains /v3/domains/default /v3/auth/tokens /v3/auth/catalog /v3/services
        /v3/services/x /v3/endpoints /v3/endpoints/x /v3/regions /v3/regions/nova"""
    return words.format(**its).split()


def compute_paths(its: dict[str, str]) -> list[str]:
    words = """/ /v2.1 /v2.1/extensions /v2.1/limits /v2.1/os-availability-zone
        /v2.1/os-availability-zone/detail /v2.1/os-security-groups
        /v2.1/os-security-groups/{group} /v2.1/os-keypairs /v2.1/os-keypairs/key
        /v2.1/os-quota-sets/{project} /v2.1/os-quota-sets/{project}/defaults /v2.1/images
        /v2.1/images/detail /v2.1/images/{image} /v2.1/os-services /v2.1/os-hypervisors
        /v2.1/os-hypervisors/detail /v2.1/os-hypervisors/statistics /v2.1/os-hypervisors/1
        /v2.1/os-hypervisors/1/uptime /v2.1/os-aggregates /v2.1/servers /v2.1/servers/detail
        /v2.1/servers/{server} /v2.1/servers/{server}/ips /v2.1/servers/{server}/metadata
        /v2.1/servers/{server}/os-security-groups /v2.1/flavors /v2.1/flavors/detail
        /v2.1/flavors/1 /v2.1/flavors/1/os-extra_specs"""
    return words.format(**its).split()


def image_paths(its: dict[str, str]) -> list[str]:
    words = """/ /v2/schemas/image /v2/schemas/images /v2/images /v2/images/{image}
        /v2/images/{image}/members /v2/images/{image}/file"""
    return words.format(**its).split()


def judge(ask: Ask, answer: Answer) -> None:
    """The answer is JSON, and an error has the one form of all three services."""
    id = answer.headers["x-openstack-request-id"]
    assert id == answer.headers["x-amzn-requestid"]
    assert re.fullmatch("req-[0-9a-f-]{36}", id)
    if ask.method == "HEAD" or not answer.body:
        assert ask.method == "HEAD" or answer.status in (200, 202, 204), "no body"
        return
    if answer.headers["content-type"] == "application/octet-stream":
        assert answer.status == 200
        return
    assert answer.headers["content-type"] == "application/json"
    given = json.loads(answer.body, parse_constant=no_json)
    if answer.status >= 400:
        [(name, fault)] = given.items()
        assert fault["code"] == answer.status
        assert fault["message"]
        assert STATUS.get(name, answer.status) == answer.status
        assert name in STATUS or name == "error"


def no_json(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def remembered(table: str, row: Row) -> bool:
    """That a key pair is not there is the outcome of its deletion, and kept as one."""
    return table == "requests" and row["action"] == "DeleteKeyPair"


@dataclasses.dataclass
class Cloud:
    doors: dict[str, Watched]
    tokens: tuple[str, ...]
    things: tuple[str, ...]
    right: list[Right]

    def ask(self, chance: Chance, row: Right) -> None:
        """The request with some defects, by somebody."""
        service, method, path, body = row
        token = self.tokens[0] if chance.random() < 0.85 else chance.choice(self.tokens)
        headers = {"Host": f"{service}.cloud:80", "X-Auth-Token": token, "X-Subject-Token": token}
        target, sent = path, b""
        if body is not None:
            headers["Content-Type"] = "application/json"
            if body == "x":
                headers["Content-Type"] = "application/octet-stream"
            sent = json.dumps(body).encode()
        for _ in range(chance.choice((1, 1, 2))):
            way = chance.choice("bbbbbbtpqh" if body is not None else "ppqqh")
            if way == "b":
                body = chances.changed_json(chance, body, self.things)
                sent = json.dumps(body).encode()
            elif way == "t":
                change = chance.choice(chances.TEXTS)
                garble = chance.random() < 0.3
                sent = chances.garbled_bytes(chance, sent) if garble else change(sent)
            elif way == "p":
                target = self.path(chance, target)
            elif way == "q":
                target = f"{target}?{query(self.query(chance))}"
            else:
                chances.changed_header(chance, headers, HEADERS)
        if chance.random() < 0.05:
            method = chance.choice(
                ("HEAD", "PUT", "PATCH", "OPTIONS", "get", "POST", "DELETE", "")
            )
        if sent and not {"Content-Length", "Transfer-Encoding"} & headers.keys():
            headers["Content-Length"] = str(len(sent))
        self.doors[service].ask(chance, Ask(method, target, headers, sent))

    def path(self, chance: Chance, path: str) -> str:
        path, _, rest = path.partition("?")
        words = path.split("/")
        at = chance.randrange(len(words))
        word = chances.text(chance, words[at], self.things)[:2000].encode(errors="surrogatepass")
        words[at] = chance.choice((urllib.parse.quote, whole))(word)
        return "/".join(words) + (f"?{rest}" if rest else "")

    def query(self, chance: Chance) -> Pairs:
        count = chance.choice((1, 1, 2, 5, 300) if chance.random() < 0.2 else (1, 1, 2))
        return [
            (
                chance.choice(QUERIES) if chance.random() < 0.9 else chances.text(chance),
                chances.text(chance, "1", self.things),
            )
            for _ in range(count)
        ]


def whole(word: bytes) -> str:
    """Every byte percent-encoded, slashes and dots too."""
    return "".join(f"%{byte:02x}" for byte in word)


@pytest.fixture
def cloud(door: Door, rows: Rows, loud: Loud, options: Callable[..., None]) -> Cloud:
    bob, root = door.bob, account("root", "roots", admin=True)
    ask = door.ask
    tty = ask("image", "GET", "/images").json["images"][0]["id"]
    its = {"tty": tty, "project": bob.project_id, "user": bob.user_id, "token": door.token()}
    ask("compute", "POST", "/os-keypairs", {"keypair": {"name": "key", "public_key": KEY}})
    group = ask("compute", "POST", "/os-security-groups", {"security_group": {"name": "g"}}).json[
        "security_group"
    ]
    rule = {"parent_group_id": group["id"], "ip_protocol": "tcp", "from_port": 1, "to_port": 9}
    made = ask("compute", "POST", "/os-security-group-rules", {"security_group_rule": rule})
    its |= {"group": group["id"], "rule": made.json["security_group_rule"]["id"]}
    server = {"name": "n", "imageRef": tty, "flavorRef": "1", "key_name": "key"}
    its["server"] = ask("compute", "POST", "/servers", {"server": server}).json["server"]["id"]
    for name in ("image", "gone"):
        picture = {"name": name, "disk_format": "raw", "container_format": "bare"}
        its[name] = ask("image", "POST", "/images", picture).json["id"]
    settle()
    rows.keep()
    doors = {
        name: Watched(one.app(), judge, rows, loud, remembered, away)
        for name, one, away in (
            ("identity", identity, b"no such words"),
            ("compute", compute, b"host h1 is down"),
            ("image", image, b"object store"),
        )
    }
    headers = {"X-Auth-Token": door.token(), "Host": "cloud"}
    lists = {
        "compute": ("servers/detail", "os-keypairs", "os-security-groups", "images/detail"),
        "image": ("images",),
    }
    for name, words in lists.items():
        asks = [Ask("GET", f"{PREFIXES[name]}/{word}", headers) for word in words]
        doors[name].looks = lambda done, asks=asks: asks
    tokens = (door.token(), door.token(root), "", "x", door.token()[:-8] + "AAAAAAA=")
    return Cloud(doors, tokens, tuple(its.values()), right(its, bob))


def test_every_route_and_server_action_has_a_right_request(cloud: Cloud) -> None:
    acts = {name for *_, body in cloud.right if isinstance(body, dict) for name in body}
    assert set(compute_service.actions()) <= acts
    for service, module in SERVICES.items():
        asked = {(method, path) for name, method, path, _ in cloud.right if name == service}
        for template, method, function in module.SERVICE.routes():
            pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(template))
            assert any(
                re.fullmatch(pattern, path) for asked_, path in asked if asked_ == method
            ), f"{service}: {function}"


@pytest.mark.parametrize("service", list(SERVICES))
def test_each_route_given_nonsense_answers_in_its_protocol(cloud: Cloud, service: str) -> None:
    some = [row for row in cloud.right if row[0] == service]
    some += [row for row in some if row[3] is not None] * 4  # there is more to say of those
    for number, chance in enumerate(chances.examples(500)):
        cloud.ask(chance, some[number % len(some)])
    cloud.doors[service].met(200, 400, 401, 404)


def test_what_a_guest_writes_on_its_console_arrives_as_text(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control characters too: JSON holds them, and what shows them is the client."""
    [[service, method, path, body]] = [
        row for row in cloud.right if isinstance(row[3], dict) and "os-getConsoleOutput" in row[3]
    ]
    body = {"os-getConsoleOutput": {}}
    headers = {"X-Auth-Token": cloud.tokens[0], "Content-Length": str(len(json.dumps(body)))}
    for chance in chances.examples(40):
        said = chances.garbled_bytes(chance, chance.randbytes(200))
        monkeypatch.setattr(instances, "console_output", lambda *_, said=said: (said, None))
        ask = Ask(method, path, headers, json.dumps(body).encode())
        answer = cloud.doors[service].ask(chance, ask)
        assert json.loads(answer.body)["output"] == said.decode(errors="replace")
