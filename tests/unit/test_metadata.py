"""The metadata service: paths, tokens, who is asking; and the feed of sockets it serves."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import io
import json
import logging
import os
import pathlib
import socket
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from minicloud import errors, ids
from minicloud.api import metadata
from minicloud.cloud import metadata as facts
from minicloud.cloud.metadata import GuestFacts
from minicloud.context import Context
from minicloud.db import models
from minicloud.db.session import Tx, engine, transaction
from minicloud.network import metadata_sockets

GUEST = GuestFacts(
    id="i-0123456789abcdef0",
    project_id="ec2-project",
    reservation_id="r-0123456789abcdef0",
    launch_index=3,
    launched_at=datetime.datetime(2026, 11, 20, 9, 0, 5),
    image_id="ami-tty",
    kernel_id="aki-tty",
    ramdisk_id=None,
    architecture="x86_64",
    instance_type="m1.nano",
    hostname="ip-10-0-0-5.novalocal",
    address="10.0.0.5",
    cidr="10.0.0.0/24",
    mac="02:00:00:00:00:05",
    groups=("default", "ssh"),
    zone="nova",
    region="nova",
    key_name="mykey",
    public_key="ssh-ed25519 AAAA me",
    user_data=base64.b64encode(b"#!/bin/sh\n\xff").decode(),
)
BARE = dataclasses.replace(GUEST, key_name=None, public_key=None, user_data=None)
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    path: str,
    headers: dict[str, str] | None = None,
    method: str = "GET",
    guest: GuestFacts | None = GUEST,
    peer: str = "10.0.0.5",
) -> Answer:
    """What the service of network "n1" answers to `peer`."""

    def lookup(network_id: str, address: str) -> GuestFacts | None:
        return guest if (network_id, address) == ("n1", "10.0.0.5") else None

    environ: dict[str, object] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "REMOTE_ADDR": peer,
        "wsgi.input": io.BytesIO(),
    }
    for name, value in (headers or {}).items():
        environ["HTTP_" + name.upper().replace("-", "_")] = value
    begun: list[tuple[str, dict[str, str]]] = []
    serve = metadata.application("n1", lookup)
    body = b"".join(serve(environ, lambda status, items: begun.append((status, dict(items)))))
    [(status, answered)] = begun
    return Answer(int(status.split()[0]), answered, body)


@pytest.fixture(autouse=True)
def settings(options: Callable[..., None]) -> Callable[..., None]:
    return options


def tree(path: str = "/latest/meta-data") -> Iterator[tuple[str, str]]:
    """Every key and its value, found as a client does: by following the lists."""
    for line in ask(f"{path}/").text.splitlines():
        name = f"{line.split('=')[0]}/" if path.endswith("/public-keys") else line
        if name.endswith("/"):
            yield from tree(f"{path}/{name[:-1]}")
        else:
            yield f"{path}/{name}".removeprefix("/latest/meta-data/"), ask(f"{path}/{name}").text


def test_following_the_lists_finds_every_key_of_the_guest() -> None:
    assert dict(tree()) == metadata.metadata(GUEST)


def test_the_keys_say_what_is_true_of_the_guest() -> None:
    found = dict(tree())
    mac = "network/interfaces/macs/02:00:00:00:00:05"
    assert {key: found[key] for key in ("ami-id", "ami-launch-index", "instance-id")} == {
        "ami-id": "ami-tty",
        "ami-launch-index": "3",
        "instance-id": "i-0123456789abcdef0",
    }
    assert found["hostname"] == found["local-hostname"] == "ip-10-0-0-5.novalocal"
    assert found["local-ipv4"] == found[f"{mac}/local-ipv4s"] == "10.0.0.5"
    assert found["public-keys/0/openssh-key"] == "ssh-ed25519 AAAA me"
    assert found["security-groups"] == "default\nssh"
    assert found["placement/availability-zone"] == "nova"
    assert found["kernel-id"] == "aki-tty"


@pytest.mark.parametrize(
    "path",
    [
        "/latest/meta-data/ramdisk-id",  # this guest has none
        "/latest/meta-data/nothing",
        "/latest/meta-data/instance-id/x",
        "/latest/nothing",
        "/1999-01-01/meta-data/instance-id",
        "/latest/meta-data/../meta-data/instance-id",
        "/latest/meta-data/network/interfaces/macs/02:00:00:00:00:06/mac",
        "/openstack/latest/meta_data.json",
        "/latest/dynamic/instance-identity/signature",
    ],
)
def test_what_is_not_there_is_not_found(path: str) -> None:
    answer = ask(path)
    assert answer.status == 404
    assert answer.text == "404 - Not Found\n"


def test_a_guest_without_a_key_or_user_data_has_no_such_paths() -> None:
    for path in ("meta-data/public-keys/", "meta-data/public-keys/0/openssh-key", "user-data"):
        assert ask(f"/latest/{path}", guest=BARE).status == 404
    assert "public-keys/" not in ask("/latest/meta-data/", guest=BARE).text.splitlines()
    assert ask("/latest/", guest=BARE).text.splitlines() == ["dynamic", "meta-data"]


def test_the_list_of_keys_has_number_and_name() -> None:
    assert ask("/latest/meta-data/public-keys/").text == "0=mykey"
    assert ask("/latest/meta-data/public-keys/0/").text == "openssh-key"


@pytest.mark.parametrize("version", ["1.0", "2007-01-19", "2009-04-04", "2016-09-02", "latest"])
def test_old_and_new_versions_answer_alike(version: str) -> None:
    assert version in ask("/").text.splitlines()
    assert ask(f"/{version}/meta-data/instance-id").text == GUEST.id
    assert ask(f"//{version}//meta-data//instance-id/").text == GUEST.id


def test_user_data_comes_as_the_bytes_that_were_given() -> None:
    answer = ask("/latest/user-data")
    assert answer.body == b"#!/bin/sh\n\xff"
    for given in ("IyEvYmlu\nL3NoCv8=\n", "IyEvYmlu\r\nL3NoCv8=", "IyEvYmlu\x85\u2028L3NoCv8="):
        lines = dataclasses.replace(GUEST, user_data=given)
        assert ask("/latest/user-data", guest=lines).body == b"#!/bin/sh\n\xff"
    odd = dataclasses.replace(GUEST, user_data="not base64!")
    assert ask("/latest/user-data", guest=odd).text == "not base64!"


def test_answers_are_plain_text_of_the_length_they_say() -> None:
    answer = ask("/latest/meta-data/instance-id")
    assert answer.headers["Content-Type"] == "text/plain"
    assert int(answer.headers["Content-Length"]) == len(answer.body)
    head = ask("/latest/meta-data/instance-id", method="HEAD")
    assert (head.body, head.headers["Content-Length"]) == (b"", str(len(answer.body)))


def test_the_identity_document_is_json() -> None:
    document = json.loads(ask("/latest/dynamic/instance-identity/document").text)
    assert document["instanceId"] == GUEST.id
    assert document["pendingTime"] == "2026-11-20T09:00:05Z"
    assert document["privateIp"] == "10.0.0.5"


# --- who is asking --------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/latest/meta-data/instance-id", "/nothing"])
def test_a_stranger_is_told_nothing_at_all(path: str) -> None:
    assert ask(path, peer="10.0.0.6").status == 404
    token = ask("/latest/api/token", {TTL: "60"}, "PUT", peer="10.0.0.6")
    assert token.status == 404


def test_no_header_makes_a_stranger_the_guest() -> None:
    forged = {"X-Forwarded-For": "10.0.0.5", "X-Real-IP": "10.0.0.5", "Host": "10.0.0.5"}
    assert ask("/latest/meta-data/instance-id", forged, peer="10.0.0.6").status == 404
    assert ask("/latest/meta-data/instance-id", {"X-Forwarded-For": "10.0.0.6"}).text == GUEST.id


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (errors.Unavailable(reason="mysql://root:secret@db"), 503, "503 - Service Unavailable\n"),
        (RuntimeError("secret"), 500, "500 - Error\n"),
    ],
)
def test_what_went_wrong_inside_is_not_told(error: Exception, status: int, text: str) -> None:
    def lookup(network_id: str, address: str) -> GuestFacts | None:
        raise error

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.input": io.BytesIO()}
    begun: list[str] = []
    serve = metadata.application("n1", lookup)
    body = b"".join(serve(environ, lambda line, items: begun.append(line)))
    assert int(begun[0].split()[0]) == status
    assert body.decode() == text


# --- tokens ---------------------------------------------------------------------------------


def token(ttl_s: str = "60", guest: GuestFacts = GUEST) -> str:
    answer = ask("/latest/api/token", {TTL: ttl_s}, "PUT", guest)
    assert answer.status == 200
    return answer.text


def test_a_token_opens_the_paths_and_none_is_needed() -> None:
    assert ask("/latest/meta-data/mac", {TOKEN: token()}).text == GUEST.mac
    assert ask("/latest/meta-data/mac").text == GUEST.mac


def test_a_wrong_token_is_refused() -> None:
    good = token()
    other = token(guest=dataclasses.replace(GUEST, id="i-ffffffffffffffff0"))
    for wrong in ("", "x", "ä", good[:-4], good + "AAAA", "B" + good[1:], other):
        answer = ask("/latest/meta-data/mac", {TOKEN: wrong})
        assert answer.status == 401, wrong


def test_a_token_ends_with_its_time() -> None:
    assert metadata.token_holds(metadata.token(GUEST.id, int(time.time()) + 60), GUEST.id)
    over = metadata.token(GUEST.id, int(time.time()))
    assert ask("/latest/meta-data/mac", {TOKEN: over}).status == 401


def test_a_token_of_another_cloud_is_refused(settings: Callable[..., None]) -> None:
    good = token()
    settings("DEFAULT", secret_key="another")
    assert ask("/latest/meta-data/mac", {TOKEN: good}).status == 401


@pytest.mark.parametrize("ttl_s", ["", "0", "21601", "-1", "+5", "1e3", "6 0", "٣", "9" * 40])
def test_a_time_to_live_out_of_bounds_is_refused(ttl_s: str) -> None:
    assert ask("/latest/api/token", {TTL: ttl_s}, "PUT").status == 400


def test_a_token_is_asked_for_with_a_time_to_live() -> None:
    assert ask("/latest/api/token", method="PUT").status == 400
    assert ask("/latest/api/token", {TTL: "21600"}, "PUT").status == 200


def test_a_proxy_gets_no_token() -> None:
    asked = {TTL: "60", "X-Forwarded-For": "192.0.2.1"}
    assert ask("/latest/api/token", asked, "PUT").status == 403


def test_other_methods_are_refused() -> None:
    assert ask("/latest/meta-data/", method="POST").status == 405
    assert ask("/latest/api/token").status == 404
    assert ask("/latest/meta-data/mac", {TTL: "60"}, "PUT").status == 404


# --- the feed of sockets --------------------------------------------------------------------


def test_a_message_carries_its_descriptor() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe()
    with ours, theirs:
        metadata_sockets.send(ours, {"numbers": [1]})
        metadata_sockets.send(ours, {"number": 1, "network": "n1"}, writer)
        metadata_sockets.send(ours, {"number": 2})
        ours.shutdown(socket.SHUT_WR)
        first, second, third = metadata._messages(theirs)
    assert (first, third) == (({"numbers": [1]}, []), ({"number": 2}, []))
    message, [received] = second
    assert message == {"number": 1, "network": "n1"}
    os.write(received, b"x")
    assert os.read(reader, 1) == b"x"
    for descriptor in (reader, writer, received):
        os.close(descriptor)


def test_a_listener_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_sockets, "SEND_S", 0.05)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(b"{}", socket.MSG_DONTWAIT)
        with pytest.raises(TimeoutError):
            metadata_sockets.send(ours, {"number": 1})


def test_who_connects_to_the_feed_is_told_which_networks_there_are(
    tmp_path: pathlib.Path,
) -> None:
    path = tmp_path / "metadata-sockets"
    for numbers in ({1, 2}, {3}):  # a successor replaces what its predecessor left
        feed = metadata_sockets.Feed(path, lambda numbers=numbers: numbers)  # type: ignore[misc]
        feed.start()
        with metadata._connect(str(path)) as client:
            message, descriptors = next(metadata._messages(client))
            assert (message, descriptors) == ({"numbers": sorted(numbers)}, [])
            assert path.stat().st_mode & 0o777 == 0o660


# --- the facts ------------------------------------------------------------------------------


@transaction
def instance(tx: Tx, ctx: Context, state: str = "running", leaving: int | None = None) -> str:
    """An instance with the address 10.0.0.5 in the network `private`; the network's id."""
    network = tx.scalars(sa.select(models.Network)).one()
    image = tx.scalars(sa.select(models.Image)).one()
    row = models.Instance(
        id=ids.new(),
        state=state,
        request_id=ctx.request_id,
        project_id=ctx.project_id,
        user_id=ctx.user_id,
        reservation_id=ids.new(),
        name="",
        hostname="ip-10-0-0-5",
        image_id=image.id,
        flavor="m1.nano",
        vcpus=1,
        memory_mib=96,
        disk_gib=0,
    )
    booking = models.Address(
        id=ids.new(),
        network_id=network.id,
        number=0x0A000005,
        address="10.0.0.5",
        mac="02:00:00:00:00:05",
        tap="mc-test-t1",
        instance_id=row.id,
        hostname="ip-10-0-0-5",
        since=1,
        leaving=leaving,
    )
    group = models.SecurityGroup(
        id=ids.new(), project_id=ctx.project_id, name="web", description="web"
    )
    tx.add_all([row, booking, group])
    tx.flush()
    tx.add(models.GroupMember(group_id=group.id, instance_id=row.id))
    return network.id


def test_the_guest_is_who_has_the_address_in_that_network(ctx: Context) -> None:
    network_id = instance(ctx)
    found = facts.guest(network_id, "10.0.0.5")
    assert found is not None
    assert (found.image_id, found.groups) == ("ami-tty", ("web",))
    assert (found.hostname, found.mac) == ("ip-10-0-0-5.novalocal", "02:00:00:00:00:05")
    assert facts.guest(network_id, "10.0.0.6") is None
    assert facts.guest("another", "10.0.0.5") is None


@pytest.mark.parametrize("address", ["", "::1", "10.0.0.5 ", "10.0.0.05", "x"])
def test_what_is_no_address_is_nobody(ctx: Context, address: str) -> None:
    assert facts.guest(instance(ctx), address) is None


def test_an_address_that_leaves_is_nobody(ctx: Context) -> None:
    assert facts.guest(instance(ctx, leaving=2), "10.0.0.5") is None


def test_a_terminated_guest_is_nobody(ctx: Context) -> None:
    assert facts.guest(instance(ctx, state="terminated"), "10.0.0.5") is None


def test_a_look_at_a_guest_is_three_statements(ctx: Context) -> None:
    network_id = instance(ctx)
    seen: list[str] = []
    note = lambda *words: seen.append(words[2])  # noqa: E731
    sa.event.listen(engine(), "before_cursor_execute", note)
    try:
        facts.guest(network_id, "10.0.0.5")
    finally:
        sa.event.remove(engine(), "before_cursor_execute", note)
    assert len([statement for statement in seen if statement.startswith("SELECT")]) == 3


def test_a_guest_that_asks_and_asks_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert ask("/latest/meta-data/").status == 200
    assert caplog.records == []
