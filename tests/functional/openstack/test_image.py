"""Image v2, with the object store behind it."""

from __future__ import annotations

import hashlib
import http.client
import io
import socket
import threading
import urllib.parse

import pytest

from minicloud import context, daemon, errors, rpc, wsgi
from minicloud.api.openstack.image import data
from minicloud.cloud import image_bytes
from minicloud.objectstore import app as store_app
from minicloud.objectstore import manager as store_manager
from tests.functional.openstack.conftest import serving

DATA = b"\x00" * 70_000 + b"end"


@pytest.fixture
def store(door, options, tmp_path):
    """An object store of this cloud, with a life of its own."""
    options("objectstore", path=str(tmp_path / "objects"))
    made = store_manager.Manager()
    life = daemon.Life(made, "h1", "nova")
    options("rpc", transport_url="fake://")
    life.begin()
    with serving(store_app.app(made)) as url:
        options("objectstore", url=url)
        yield made
    life.end()
    rpc.forget_transport()


def create(door, who=None, **members):
    body = {"name": "mine", "disk_format": "raw", "container_format": "bare", **members}
    return door.ask("image", "POST", "/images", body, who=who)


def put(door, id, data=DATA, who=None, kind="application/octet-stream"):
    path = f"/v2/images/{id}/file"
    return door.send("image", "PUT", path, data, door.token(who), Content_Type=kind)


def ids(door, query="", who=None):
    answer = door.ask("image", "GET", f"/images{query}", who=who)
    assert answer.status == 200, answer.body
    return [one["id"] for one in answer.json["images"]]


def test_an_image_is_made_uploaded_fetched_and_deleted(door, store):
    made = create(door, hw_disk="virtio")
    assert made.status == 201
    id = made.json["id"]
    assert made.headers["Location"].endswith(f"/v2/images/{id}")
    assert (made.json["status"], made.json["hw_disk"]) == ("queued", "virtio")
    assert door.ask("image", "GET", f"/images/{id}/file").status == 204
    assert put(door, id).status == 204
    found = door.ask("image", "GET", f"/images/{id}").json
    assert (found["status"], found["size"], found["disk_format"]) == ("active", len(DATA), "raw")
    assert found["os_hash_value"] == hashlib.sha256(DATA).hexdigest()
    assert found["hw_disk"] == "virtio"
    fetched = door.ask("image", "GET", f"/images/{id}/file")
    assert fetched.body == DATA
    assert put(door, id).status == 409
    assert door.ask("image", "DELETE", f"/images/{id}").status == 204
    assert door.ask("image", "GET", f"/images/{id}").fault == "itemNotFound"
    assert door.ask("image", "GET", f"/images/{id}/file").status == 404


def test_an_upload_that_breaks_off_leaves_nothing(door, store, bare_cloud):
    id = create(door).json["id"]
    host = urllib.parse.urlsplit(door.urls["image"]).netloc
    connection = http.client.HTTPConnection(host, timeout=20)
    connection.putrequest("PUT", f"/v2/images/{id}/file")
    for name, value in (
        ("X-Auth-Token", door.token()),
        ("Content-Type", "application/octet-stream"),
        ("Content-Length", str(1 << 20)),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"x" * 1000)
    connection.close()
    bare_cloud.wait(lambda: door.ask("image", "GET", f"/images/{id}").status == 404)


def refused_before_the_body(door, id, who=None):
    """The answer to an upload of unknown length whose bytes never come."""
    host = urllib.parse.urlsplit(door.urls["image"]).netloc
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.putrequest("PUT", f"/v2/images/{id}/file")
    connection.putheader("X-Auth-Token", door.token(who))
    connection.putheader("Content-Type", "application/octet-stream")
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_nobodys_data_is_received_for_nothing(door, store, carol, root):
    full = create(door, who=root, visibility="public").json["id"]
    put(door, full, who=root)
    assert refused_before_the_body(door, "0" * 8) == 404
    assert refused_before_the_body(door, create(door).json["id"], who=carol) == 404
    assert refused_before_the_body(door, full) == 403
    assert refused_before_the_body(door, full, who=root) == 409


@pytest.mark.parametrize("said", [("transfer-encoding", "chunked"), ("content-length", "101")])
def test_no_more_is_received_than_an_image_may_have(options, monkeypatch, said):
    monkeypatch.setattr(image_bytes, "max_bytes", lambda: 100)
    body = io.BytesIO(b"x" * 101)
    raw = wsgi.Request({"wsgi.input": body, "headers_raw": [said]}, 1 << 20)
    with pytest.raises(errors.RequestTooLarge), data.received(raw):
        pytest.fail("it was received")


def test_data_of_unknown_length_leave_the_last_of_the_disk_free(options):
    options("objectstore", min_free_gib=1 << 30)
    body = io.BytesIO(b"x")
    said = [("transfer-encoding", "chunked")]
    raw = wsgi.Request({"wsgi.input": body, "headers_raw": said}, 1 << 20)
    with pytest.raises(errors.Unavailable, match="stay free"), data.received(raw):
        pytest.fail("it was received")


def test_data_that_breaks_off_do_not_end_as_if_they_were_whole(door, store, options):
    id = create(door).json["id"]
    put(door, id)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            client, _ = listener.accept()
            with client:
                client.recv(65536)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 70003\r\n\r\nabc")

        thread = threading.Thread(target=answer)
        thread.start()
        options("objectstore", url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        bob = context.Context("req-1", door.bob.user_id, door.bob.project_id)
        _, chunks = image_bytes.download(bob, id)
        assert next(chunks) == b"abc"
        with pytest.raises(errors.Unavailable, match="broke off"):
            next(chunks)
        thread.join()


@pytest.mark.parametrize("bytes", [b"", b"QFI\xfb", b"KDMV" + b"\x01" * 600])
def test_bytes_that_no_guest_may_have_are_refused_with_the_reason(door, store, bytes):
    id = create(door).json["id"]
    answer = put(door, id, bytes)
    assert (answer.status, answer.fault) == (400, "badRequest")
    assert "The object store refused the image" in answer.message


def test_an_image_is_its_projects_alone_until_it_is_public(door, store, carol, root):
    id = create(door).json["id"]
    put(door, id)
    assert id not in ids(door, who=carol)
    assert door.ask("image", "GET", f"/images/{id}", who=carol).status == 404
    assert door.ask("image", "GET", f"/images/{id}/file", who=carol).status == 404
    assert door.ask("image", "DELETE", f"/images/{id}", who=carol).status == 404
    assert create(door, visibility="public").status == 403
    shared = create(door, who=root, visibility="public").json["id"]
    assert put(door, shared).status == 404
    assert put(door, shared, who=root).status == 204
    assert shared in ids(door)
    assert put(door, shared).status == 403
    assert door.ask("image", "DELETE", f"/images/{shared}").status == 403


def test_lists_are_filtered_as_clients_ask(door, store):
    [tty] = ids(door, "?name=tty")
    id = create(door).json["id"]
    assert ids(door, "?name=mine") == [id]
    assert ids(door, "?name=min") == []
    assert ids(door, f"?id=in:{id},{tty},none") == [id, tty]
    assert ids(door, "?status=queued") == [id]
    assert ids(door, "?status=saving") == []
    assert ids(door, "?status=active") == [tty]
    assert ids(door, "?visibility=public") == [tty]
    assert ids(door, f"?owner={door.bob.project_id}") == [id]
    assert ids(door, "?os_hidden=True") == []
    assert ids(door, "?os_hidden=False") == [id, tty]
    assert ids(door, "?sort=name:desc") == [tty, id]
    assert ids(door, "?disk_format=aki") == []
    assert ids(door, "?limit=1") == [id]
    page = door.ask("image", "GET", "/images?limit=1").json
    assert ids(door, page["next"].removeprefix("/v2/images")) == [tty]
    assert door.ask("image", "GET", "/images?marker=x").fault == "badRequest"
    assert door.ask("image", "GET", "/images?sort=size;drop").fault == "badRequest"
    assert "created_at" in door.ask("image", "GET", "/images?sort=status").message


@pytest.mark.parametrize(
    "order",
    [
        "sort=name:asc",
        "sort_key=name",
        "sort=size:asc,name",
        "sort=created_at:asc",
        "sort=updated_at:desc",
        "sort=id:asc",
    ],
)
def test_a_sorted_list_in_pages_holds_everything_once(door, store, order):
    for name in "bacab":
        create(door, name=name)
    found, query = [], f"?{order}&limit=2"
    while query:
        page = door.ask("image", "GET", f"/images{query}").json
        found += [one["id"] for one in page["images"]]
        query = page.get("next", "").removeprefix("/v2/images")
    assert found == ids(door, f"?{order}")
    assert len(set(found)) == 6


def test_a_list_is_in_the_order_asked_for(door, store):
    for name in "bac":
        create(door, name=name)
    by_name = door.ask("image", "GET", "/images?sort_key=name&sort_dir=asc").json["images"]
    assert [one["name"] for one in by_name] == ["a", "b", "c", "tty"]
    by_size = door.ask("image", "GET", "/images?sort=size,name:asc").json["images"]
    assert [one["name"] for one in by_size] == ["tty", "a", "b", "c"]


@pytest.mark.parametrize(
    "members",
    [
        {"name": ""},
        {"name": None},
        {"disk_format": "vmdk"},
        {"min_disk": 1},
        {"protected": True},
        {"tags": ["a"]},
        {"id": "ec2aaaaa-0000-0000-0000-000000000000"},
        {"kernel_id": "none"},
        {"architecture": "m68k"},
        {"p": 1},
        {"p": "x" * 256},
        {"p": "a\u0000"},
        {f"p{number}": "x" for number in range(200)},
    ],
)
def test_what_cannot_be_made_is_a_bad_request(door, members):
    answer = create(door, **members)
    assert (answer.status, answer.fault) == (400, "badRequest")
    assert len(ids(door)) == 1


def test_a_kernel_and_a_ramdisk_are_images_too(door, store):
    parts = {}
    for name in ("aki", "ari"):
        parts[name] = create(door, disk_format=name, container_format=name).json["id"]
        assert put(door, parts[name], b"bytes").status == 204
    made = create(door, kernel_id=parts["aki"], ramdisk_id=parts["ari"], disk_format="ami")
    assert (made.json["kernel_id"], made.json["ramdisk_id"]) == (parts["aki"], parts["ari"])
    assert made.json["disk_format"] == "ami"
    assert door.ask("image", "DELETE", f"/images/{parts['aki']}").fault == "conflictingRequest"


def test_the_data_of_an_image_are_bytes(door, store):
    id = create(door).json["id"]
    assert put(door, id, kind="application/json").fault == "badRequest"


def test_the_object_store_may_be_away(door, options):
    options("objectstore", url="http://127.0.0.1:9")
    id = create(door).json["id"]
    answer = put(door, id)
    assert (answer.status, answer.fault) == (503, "serviceUnavailable")
    assert door.ask("image", "GET", f"/images/{id}").json["status"] == "queued"


def test_versions_and_schemas(door):
    versions = door.send("image", "GET", "/", Host="a.example:9")
    assert versions.status == 300
    assert {one["links"][0]["href"] for one in versions.json["versions"]} == {
        "http://a.example:9/v2/"
    }
    made = create(door).json
    known = door.ask("image", "GET", "/schemas/image").json["properties"]
    assert set(made) - set(known) == {"architecture"}
