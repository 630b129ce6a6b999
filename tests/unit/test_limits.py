"""Bounds of what a tenant gives that no other test tries: what is at one is taken, what is beyond
it is refused by name.  docs/limits.md lists them all."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Callable
from typing import Any
from wsgiref import util

import pytest

from minicloud import context, errors, wsgi
from minicloud.api.openstack import wire
from minicloud.auth import passwords, s3
from minicloud.cloud import groups, instances, keypairs, volumes
from minicloud.context import Context
from minicloud.objectstore import bodies, formats, requests
from tests.world import World, world

__all__ = ["world"]  # a fixture

Caller = Callable[[], Context]

# --- JSON and queries -----------------------------------------------------------------------

SERVICE = wire.Service("limits", "/v1", wire.fault)


@SERVICE.route("GET", "/things/{id}", public=True)
def look(ctx: Context, req: wire.Request, id: str) -> dict[str, Any]:
    return {"id": id}


@SERVICE.route("POST", "/things", schema={}, public=True)
def make(ctx: Context, req: wire.Request) -> dict[str, Any]:
    return {}


def ask(method: str, path: str, query: str = "", body: bytes = b"") -> int:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "RAW_PATH_INFO": path}
    environ |= {"QUERY_STRING": query, "wsgi.input": io.BytesIO(body)}
    environ["CONTENT_LENGTH"] = str(len(body))
    util.setup_testing_defaults(environ)
    told: list[str] = []
    list(SERVICE.app()(environ, lambda status, headers: told.append(status)))
    return int(told[0].split()[0])


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_json_is_not_deeper_than_it_may_be() -> None:
    assert ask("POST", "/v1/things", body=nested(wire.DEEPEST)) == 200
    assert ask("POST", "/v1/things", body=nested(wire.DEEPEST + 1)) == 400
    assert ask("POST", "/v1/things", body=nested(100_000)) == 400
    in_text = json.dumps(nested(1000).decode()).encode()
    assert ask("POST", "/v1/things", body=in_text) == 200


def test_a_query_has_so_many_fields_and_a_path_such_words() -> None:
    assert ask("GET", "/v1/things/1", "&".join(["a=b"] * wire.FIELDS)) == 200
    assert ask("GET", "/v1/things/1", "&".join(["a=b"] * (wire.FIELDS + 1))) == 400
    assert ask("GET", "/v1/things/" + "x" * wire.LONGEST) == 200
    assert ask("GET", "/v1/things/" + "x" * (wire.LONGEST + 1)) == 404


def test_a_page_has_so_many_things_whatever_is_asked_for() -> None:
    def limit(query: dict[str, str]) -> int:
        return wire.Request("", query, None, wsgi.Request({}, 1)).limit()

    assert limit({"limit": "1001"}) == limit({"limit": "0"}) == limit({}) == wire.LIMIT
    assert limit({"limit": "7"}) == 7
    with pytest.raises(errors.InvalidBody):
        limit({"limit": "9" * 19})


# --- keys and passwords ---------------------------------------------------------------------


def rsa_line(bits: int) -> str:
    """The line of a public key of this form and length, which nobody has the other half of."""
    parts = b"ssh-rsa", b"\1\0\1", b"\0" + b"\xff" * (bits // 8)
    blob = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return f"ssh-rsa {base64.b64encode(blob).decode()}"


def test_an_imported_key_has_a_length_that_openssh_takes(caller: Caller) -> None:
    low, high = keypairs.BITS_TAKEN
    for bits in (low, high):
        assert keypairs.import_(caller(), f"of {bits}", rsa_line(bits)).kind == "rsa"
    for bits in (low - 8, high + 8):
        with pytest.raises(errors.InvalidKey):
            keypairs.import_(caller(), "other", rsa_line(bits))


def test_a_password_has_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    for length in (passwords.SHORTEST, passwords.LONGEST):
        passwords.check_new("x" * length)
    for length in (passwords.SHORTEST - 1, passwords.LONGEST + 1):
        with pytest.raises(errors.BadRequest):
            passwords.check_new("x" * length)
    monkeypatch.setattr(passwords, "_scrypt", pytest.fail)  # nobody's time is spent on it
    assert not passwords.fits("x" * (passwords.LONGEST + 1), None)


# --- counts and sizes -----------------------------------------------------------------------


def test_an_instance_is_in_so_many_groups(world: World, caller: Caller) -> None:
    made = [world.group() for _ in range(groups.PER_INSTANCE + 1)]
    run = {"image": "ami-tty", "flavor": "m1.nano", "count_min": 1, "count_max": 1}
    instances.run(caller(), **run, groups=made[:-1])
    with pytest.raises(errors.InstanceGroupsLimitExceeded):
        instances.run(caller(), **run, groups=made)


def test_a_request_has_so_many_rules(world: World, caller: Caller) -> None:
    rules = [groups.RuleSpec("tcp", 1, 1, "10.0.0.0/8")] * (groups.PER_REQUEST + 1)
    with pytest.raises(errors.BadRequest, match="1000 rules"):
        groups.authorize(caller(), name=world.group(), rules=rules)


def test_a_volume_has_a_size(caller: Caller, world: World) -> None:
    assert volumes.create(caller(), size_gib=volumes.LARGEST_GIB, zone="nova").row.id
    for size in (0, -1, volumes.LARGEST_GIB + 1):
        with pytest.raises(errors.InvalidValue, match="16384 GiB"):
            volumes.create(caller(), size_gib=size, zone="nova")


def test_an_instance_has_so_many_volumes(caller: Caller, world: World) -> None:
    [instance] = world.running(1)
    for _ in volumes.LETTERS:
        volumes.attach(caller(), world.volume(), instance, None)
    with pytest.raises(errors.AttachmentLimitExceeded):
        volumes.attach(caller(), world.volume(), instance, None)


# --- S3 -------------------------------------------------------------------------------------


def test_metadata_of_an_object_has_a_size() -> None:
    name = f"{requests.META}a"
    fits = {name: "x" * (requests.META_BYTES - len(name))}
    assert requests.kept(fits) == fits
    with pytest.raises(errors.MetadataTooLarge):
        requests.kept({name: fits[name] + "x"})


def body(length: int, payload: str = s3.UNSIGNED, **headers: str) -> bodies.Body:
    given = {"content-length": str(length), **headers}
    environ = {"REQUEST_METHOD": "PUT", "headers_raw": given.items(), "wsgi.input": io.BytesIO()}
    return bodies.Body(wsgi.Request(environ, 1), s3.Signed(context.Context("req-1"), payload))


def test_a_request_carries_at_most_what_s3_lets_it() -> None:
    assert body(bodies.LARGEST).length == bodies.LARGEST
    with pytest.raises(errors.EntityTooLarge):
        body(bodies.LARGEST + 1)
    said = {"x-amz-decoded-content-length": str(bodies.LARGEST + 1)}
    with pytest.raises(errors.EntityTooLarge):
        body(1, "STREAMING-UNSIGNED-PAYLOAD-TRAILER", **said)


@pytest.mark.parametrize(
    "text",
    [b"0" * (bodies.LINE + 1), b"0\r\n" + b"".join(b"a%d:b\r\n" % n for n in range(30)) + b"\r\n"],
    ids=["a line between chunks", "trailing headers"],
)
def test_what_is_between_chunks_is_bounded(text: bytes) -> None:
    given = {"content-length": str(len(text)), "x-amz-decoded-content-length": "0"}
    environ = {"REQUEST_METHOD": "PUT", "headers_raw": given.items()}
    request = wsgi.Request({**environ, "wsgi.input": io.BytesIO(text)}, 1)
    payload = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    made = bodies.Body(request, s3.Signed(context.Context("req-1"), payload))
    with pytest.raises(errors.IncompleteBody):
        assert made.read(1) or made.verify()


def test_a_document_has_a_size() -> None:
    limit = 100
    for length, given in ((limit, {}), (limit, {"transfer-encoding": "chunked"})):
        assert len(document(length, limit, given)) == limit
        with pytest.raises(errors.EntityTooLarge):
            document(length + 1, limit, given)


def document(length: int, limit: int, given: dict[str, str]) -> bytes:
    """The body that a client sends, with a length or in chunks."""
    headers = given or {"content-length": str(length)}
    environ = {"REQUEST_METHOD": "PUT", "headers_raw": headers.items()}
    request = wsgi.Request({**environ, "wsgi.input": io.BytesIO(b"x" * length)}, limit)
    return bodies.small(request, s3.Signed(context.Context("req-1"), s3.UNSIGNED))


# --- images ---------------------------------------------------------------------------------


def qcow2(virtual_size: int) -> bytes:
    """The first bytes of such an image."""
    head = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, *[0] * 2, 16, virtual_size, *[0] * 8,
                       0, 0, 4, 104)  # fmt: skip
    return head + bytes(65536)


def test_a_kernel_is_not_larger_than_what_a_host_takes_into_its_memory() -> None:
    for kind in ("kernel", "ramdisk"):
        most = formats.BOOT_BYTES
        assert formats.inspect(kind, most, b"\x1f\x8b", 1 << 40) == ("raw", most)
        with pytest.raises(errors.BadRequest, match=f"A {kind} has at most {most} bytes"):
            formats.inspect(kind, most + 1, b"\x1f\x8b", 1 << 40)


def test_the_disk_in_an_image_is_not_larger_than_an_image_may_be() -> None:
    limit = 1 << 30
    head = qcow2(limit)
    assert formats.inspect("machine", len(head), head, limit) == ("qcow2", limit)
    for virtual_size in (limit + 512, 1 << 50):
        lying = qcow2(virtual_size)
        with pytest.raises(errors.BadRequest, match=f"{virtual_size} bytes, {limit} are allowed"):
            formats.inspect("machine", len(lying), lying, limit)
