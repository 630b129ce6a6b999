"""Requests for every EC2 action that no client would make, over the service's own model."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import re
import urllib.parse
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from botocore import auth, awsrequest, credentials, parsers, serialize

from minicloud.api.aws import protocol
from minicloud.api.ec2 import actions, app
from minicloud.cloud import instances, projects
from tests.functional.ec2.conftest import Door, door
from tests.functional.ec2.test_ec2_every_action import Things, furnished, members, ways
from tests.functional.fuzz import chance as chances
from tests.functional.fuzz.chance import Chance, Pairs
from tests.functional.fuzz.doors import ENGINES, Answer, Ask, Loud, Rows, Watched, query

__all__ = ["door"]  # a fixture
pytestmark = ENGINES

VERSIONS = ("2016-11-15", "2009-04-04", "2010-08-31", "1.0", "2014-10-01", "9999-99-99")
NOW = datetime.datetime(2011, 1, 1)
PATHS = ("/services/Cloud", "/services/Cloud/", "/")
REQUEST_ID = re.compile("req-[0-9a-f-]{36}")
FORM = {"Content-Type": "application/x-www-form-urlencoded", "Host": "cloud:8773"}
SERIALIZER = serialize.create_serializer("ec2", include_validation=False)
PARSER = parsers.create_parser("ec2")


def judge(ask: Ask, answer: Answer) -> None:
    """The answer is XML as EC2's clients read it, an error or the action's result."""
    if answer.headers["content-type"] == "text/plain":  # "I live"
        assert (ask.method, answer.status) == ("GET", 200)
        return
    assert answer.headers["content-type"] == "text/xml;charset=UTF-8"
    document = ET.fromstring(answer.body)
    if answer.status != 200:
        assert document.tag == "Response"
        assert re.fullmatch("[A-Za-z.]+", document.findtext("Errors/Error/Code") or "")
        assert document.findtext("Errors/Error/Message")
        id = document.findtext("RequestID")
    else:
        name = document.tag.rpartition("}")[2].removesuffix("Response")
        shape = protocol.operation(actions.SERVICE, name).output_shape
        whole = {"status_code": 200, "headers": {}, "body": answer.body}
        id = PARSER.parse(whole, shape)["ResponseMetadata"]["RequestId"]
    assert id == answer.headers["x-amzn-requestid"]
    assert REQUEST_ID.fullmatch(id)


@dataclasses.dataclass
class Cloud:
    """The API's door, what bob has behind it, and the right requests for it."""

    door: Watched
    keys: projects.Credentials
    things: tuple[str, ...]
    right: dict[str, Pairs]

    def pairs(self, chance: Chance, name: str) -> Pairs:
        """A request for the action, right or made from its model, with something wrong."""
        pairs = [("Action", name), *chance.choice(([], [("Version", chance.choice(VERSIONS))]))]
        if chance.random() < 0.7:
            pairs += self.right[name]
        for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
            more = lambda: [self.member(chance, name)]  # noqa: E731
            pairs = chances.changed_pairs(chance, pairs, self.things, more)
        return pairs

    def member(self, chance: Chance, name: str) -> tuple[str, str]:
        """A parameter of the model, most often with a value of its type."""
        known = members(name)
        member = chance.choice(list(known))
        shape, at = known[member], member
        at = shape.serialization.get("queryName") or shape.serialization.get("name", member)
        at = at[0].upper() + at[1:]
        for _ in range(8):
            if shape.type_name == "list":
                shape, at = shape.member, f"{at}.{chance.choice(chances.PARTS)}"
            elif shape.type_name == "structure" and shape.members:
                inner = chance.choice(list(shape.members))
                shape = shape.members[inner]
                word = shape.serialization.get("queryName") or shape.serialization.get(
                    "name", inner
                )
                at = f"{at}.{word[0].upper()}{word[1:]}"
        return at, self.value(chance, shape)

    def value(self, chance: Chance, shape: Any) -> str:
        right = {
            "boolean": ("true", "false", "1", "0"),
            "integer": ("0", "1", "5", "1000", "-1", "2147483647"),
            "long": ("0", "1", "9223372036854775807"),
            "double": ("0", "1.5", "1e99", "-1e-99"),
            "timestamp": ("2011-01-01T00:00:00Z", "9999-12-31T23:59:59Z"),
            "blob": ("YQ==", ""),
        }.get(shape.type_name) or (*(getattr(shape, "enum", None) or ()), *self.things)
        return chance.choice(right) if chance.random() < 0.6 else chances.text(chance)

    def signed(self, ask: Ask) -> Ask:
        """The request as it is, with a signature of bob's over it."""
        request = awsrequest.AWSRequest(
            ask.method, "http://cloud:8773" + ask.target, data=ask.body, headers=ask.headers
        )
        who = credentials.Credentials(self.keys.access_key, self.keys.secret)
        auth.SigV4Auth(who, "ec2", "nova").add_auth(request)
        return dataclasses.replace(ask, headers=dict(request.headers.items()))


@pytest.fixture
def cloud(door: Door, rows: Rows, loud: Loud) -> Cloud:
    things = furnished(door)
    rows.keep()
    watched = Watched(app.app(), judge, rows, loud, away=b"host h1 is down")
    made = Cloud(watched, door.keys, dataclasses.astuple(things), right(things))
    kinds = ("Instances", "Tags", "KeyPairs", "SecurityGroups", "Volumes", "Images")
    watched.looks = lambda done: (
        made.signed(Ask("GET", f"/?Action=Describe{kind}", dict(FORM))) for kind in kinds
    )
    return made


def right(things: Things) -> dict[str, Pairs]:
    """Action → its parameters as botocore writes them."""
    made = {}
    for name, arguments in ways(things).items():
        operation = protocol.operation(actions.SERVICE, name)
        body = SERIALIZER.serialize_to_request(arguments, operation)["body"]
        made[name] = [
            (one, str(value)) for one, value in body.items() if one not in protocol.CONTROL
        ]
    return made


def test_each_action_given_nonsense_answers_in_its_protocol(cloud: Cloud) -> None:
    names = actions.names()
    for number, chance in enumerate(chances.examples(900)):
        pairs = cloud.pairs(chance, names[number % len(names)])
        written = query(pairs)
        if chance.random() < 0.05:
            written = chances.garbled_bytes(chance, written.encode()).decode("latin-1")
        if chance.random() < 0.2:
            ask = Ask("GET", "/?" + written.encode().decode("latin-1"), dict(FORM))
        else:
            body = written.encode("latin-1")
            ask = Ask(
                "POST", chance.choice(PATHS), FORM | {"Content-Length": str(len(body))}, body
            )
        cloud.door.ask(chance, cloud.signed(ask))
    cloud.door.met(200, 400)


def test_what_a_guest_writes_on_its_console_arrives_byte_by_byte(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = query([("Action", "GetConsoleOutput"), *cloud.right["GetConsoleOutput"]]).encode()
    for chance in chances.examples(40):
        said = chances.garbled_bytes(chance, chance.randbytes(200))
        monkeypatch.setattr(instances, "console_output", lambda *_, said=said: (said, NOW))
        ask = Ask("POST", "/", FORM | {"Content-Length": str(len(body))}, body)
        answer = cloud.door.ask(chance, cloud.signed(ask))
        assert base64.b64decode(ET.fromstring(answer.body).findtext("{*}output") or "") == said


def test_signatures_with_a_defect_are_refused_in_its_protocol(cloud: Cloud) -> None:
    for chance in chances.examples(400):
        cloud.door.ask(chance, chance.choice((header, presigned, version_2))(cloud, chance))
    cloud.door.met(200, 400, 401, 403)


def header(cloud: Cloud, chance: Chance) -> Ask:
    """Version 4, with a header that was changed behind it."""
    body = b"Action=DescribeRegions&Version=2016-11-15"
    ask = cloud.signed(Ask("POST", "/", FORM | {"Content-Length": str(len(body))}, body))
    others = ("Date", "X-Amz-Content-SHA256", "X-Amz-Security-Token", "Transfer-Encoding", "Host")
    if chance.random() < 0.5:
        others = ("Authorization", "X-Amz-Date")
        name = chance.choice(others)
        words = re.split("([ ,/;=])", ask.headers[name])
        at = chance.randrange(len(words))
        words[at] = chances.text(chance, words[at])
        line = "".join(words).encode(errors="surrogatepass").decode("latin-1")
        ask.headers[name] = line.replace("\n", " ").replace("\r", " ")[:8000]
    else:
        chances.changed_header(chance, ask.headers, others)
    return ask


def presigned(cloud: Cloud, chance: Chance) -> Ask:
    """Version 4 in the query, with a parameter of it changed."""
    url = f"http://cloud:8773{chance.choice(PATHS)}?Action=DescribeRegions&Version=2016-11-15"
    request = awsrequest.AWSRequest("GET", url)
    who = credentials.Credentials(cloud.keys.access_key, cloud.keys.secret)
    auth.SigV4QueryAuth(who, "ec2", "nova", expires=600).add_auth(request)
    path, _, given = request.url.removeprefix("http://cloud:8773").partition("?")
    pairs = urllib.parse.parse_qsl(given)
    return Ask("GET", f"{path}?{query(spoilt(chance, pairs))}", {"Host": "cloud:8773"})


def version_2(cloud: Cloud, chance: Chance) -> Ask:
    """Version 2, with a parameter changed before or after it was signed."""
    now = datetime.datetime.now(datetime.UTC)
    pairs = [
        ("Action", "DescribeRegions"),
        ("Version", "2010-08-31"),
        ("AWSAccessKeyId", cloud.keys.access_key),
        ("SignatureVersion", "2"),
        ("SignatureMethod", chance.choice(("HmacSHA256", "HmacSHA1"))),
        ("Timestamp", now.strftime("%Y-%m-%dT%H:%M:%SZ")),
    ]
    method = chance.choice(("GET", "POST"))
    who = credentials.Credentials(cloud.keys.access_key, cloud.keys.secret)
    request = awsrequest.AWSRequest(method, "http://cloud:8773/", data=dict(pairs))
    _, signature = auth.SigV2Auth(who).calc_signature(request, dict(pairs))
    written = query(spoilt(chance, [*pairs, ("Signature", signature)]))
    if method == "GET":
        return Ask("GET", f"/?{written}", {"Host": "cloud:8773"})
    body = written.encode()
    return Ask("POST", "/", FORM | {"Content-Length": str(len(body))}, body)


def spoilt(chance: Chance, pairs: Pairs) -> Pairs:
    if chance.random() < 0.1:
        return pairs
    return chances.changed_pairs(chance, pairs, (), lambda: [("X-Amz-Signature", "0" * 64)])
