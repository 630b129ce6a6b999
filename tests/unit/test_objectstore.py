"""The object store: image bytes in and out, and what is left when somebody dies."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pathlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from minicloud import checkpoint, context, errors, ids, states
from minicloud.auth import internal
from minicloud.cloud import image_bytes
from minicloud.db import images, models, session
from minicloud.objectstore import app, formats, store
from minicloud.objectstore.manager import Manager

ME = states.Daemon("objectstore@h1", "h1", 7)
GIB = 1 << 30


@pytest.fixture
def directory(options: Callable[..., None], database: str, tmp_path: pathlib.Path) -> pathlib.Path:
    options("objectstore", path=str(tmp_path / "files"))
    return tmp_path / "files"


@pytest.fixture
def manager(directory: pathlib.Path) -> Manager:
    register(ME)
    made = Manager()
    made.me = ME
    made.still_trusted = lambda: True
    made.start()
    return made


@session.transaction
def register(tx: session.Tx, daemon: states.Daemon) -> None:
    values = {"host": daemon.host, "daemon": "objectstore", "machine_id": "m"}
    tx.add(models.Host(id=daemon.id, epoch=daemon.epoch, **values))
    tx.flush()


@session.transaction
def new_image(tx: session.Tx, kind: str = "machine", word: str | None = None) -> str:
    id = ids.new()
    row = {"id": id, "state": "uploading", "name": "tty", "kind": kind, "word": word}
    row |= {"project_id": "p", "file": images.fresh_file(id)}
    states.create(tx, context.admin(), states.IMAGE, [row])
    return id


@session.reading
def image(tx: session.Tx, id: str) -> models.Image:
    return images.get(tx, id)


@session.transaction
def change(tx: session.Tx, id: str, **values: Any) -> None:
    tx.changed(sa.update(models.Image).where(models.Image.id == id).values(**values))


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    manager: Manager,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    signed: bool = True,
    length: int | None = None,
    **headers: str,
) -> Answer:
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_LENGTH": str(len(body) if length is None else length),
        "wsgi.input": io.BytesIO(body),
    }
    environ |= {f"HTTP_{name.upper()}": value for name, value in headers.items()}
    if signed:
        environ["HTTP_AUTHORIZATION"] = internal.headers(method, path)["Authorization"]
    started: list[Any] = []
    chunks = app.app(manager)(environ, lambda *given: started.extend(given))
    return Answer(int(started[0].split()[0]), dict(started[1]), b"".join(chunks))


def put(manager: Manager, id: str, body: bytes, **more: Any) -> Answer:
    return ask(manager, "PUT", internal.image_path(id), body, **more)


def get(manager: Manager, id: str, **more: Any) -> Answer:
    return ask(manager, "GET", internal.image_path(id), **more)


def qcow2(
    size: int = GIB, backing: int = 0, features: int = 0, version: int = 3, crypt: int = 0
) -> bytes:
    """A qcow2 header (QEMU, docs/interop/qcow2.txt) and nothing behind it."""
    head = struct.pack(">4sIQIIQ", b"QFI\xfb", version, backing, 0, 16, size)
    head += struct.pack(">I", crypt)
    head += bytes(0x48 - len(head)) + struct.pack(">Q", features)
    return head + bytes(1024 - len(head))


# --- in and out -------------------------------------------------------------------------------


def test_what_was_uploaded_is_read_back(manager: Manager) -> None:
    id, body = new_image(), b"a disk" * 300_000
    answer = put(manager, id, body)
    assert (answer.status, answer.body) == (200, b"")
    row, digest = image(id), hashlib.sha256(body).hexdigest()
    assert (row.state, row.size, row.virtual_size, row.format) == (
        "active",
        len(body),
        len(body),
        "raw",
    )
    assert row.sha256 == digest
    assert answer.headers["ETag"] == f'"{digest}"'
    read = get(manager, id)
    assert (read.status, read.body, read.headers["ETag"]) == (200, body, f'"{digest}"')
    assert read.headers["Content-Length"] == str(len(body))


def test_head_tells_the_size_and_sends_nothing(manager: Manager) -> None:
    id = new_image()
    put(manager, id, b"x" * 1000)
    answer = ask(manager, "HEAD", internal.image_path(id))
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "1000")


@pytest.mark.parametrize(
    ("header", "status", "body", "where"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=7-99", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=4-2", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_a_range_is_served(
    manager: Manager, header: str, status: int, body: bytes, where: str | None
) -> None:
    id = new_image()
    put(manager, id, b"0123456789")
    answer = get(manager, id, range=header)
    assert (answer.status, answer.body) == (status, body)
    assert answer.headers.get("Content-Range") == where


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=-0"])
def test_a_range_outside_is_refused(manager: Manager, header: str) -> None:
    id = new_image()
    put(manager, id, b"0123456789")
    answer = get(manager, id, range=header)
    assert answer.status == 416
    assert b"<Code>InvalidRange</Code>" in answer.body


def test_an_image_that_is_not_complete_is_not_there(manager: Manager) -> None:
    answer = get(manager, new_image())
    assert answer.status == 404
    assert b"<Code>NoSuchKey</Code>" in answer.body


def test_a_missing_file_is_said_and_changes_nothing(
    manager: Manager, directory: pathlib.Path
) -> None:
    id = new_image()
    put(manager, id, b"bytes")
    (directory / image(id).file).rename(directory / "elsewhere")
    assert get(manager, id).status == 503
    (directory / "elsewhere").rename(directory / image(id).file)
    assert get(manager, id).body == b"bytes"


# --- who may ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/", 403, "AccessDenied"),
        ("/v1/images/../../etc/passwd", 404, "NoSuchBucket"),
        ("/bucket/key", 404, "NoSuchBucket"),
        ("/%00<", 404, "NoSuchBucket"),
    ],
)
def test_strangers_get_an_error_of_s3(manager: Manager, path: str, status: int, code: str) -> None:
    answer = ask(manager, "GET", path, signed=False)
    assert answer.status == status
    assert f"<Error><Code>{code}</Code>".encode() in answer.body
    id = answer.headers["x-amz-request-id"]
    assert f"<RequestId>{id}</RequestId>".encode() in answer.body


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
def test_an_unsigned_request_learns_nothing(manager: Manager, method: str) -> None:
    known, unknown = new_image(), ids.new()
    answers = [
        ask(manager, method, internal.image_path(id), b"bytes", signed=False)
        for id in (known, unknown)
    ]
    assert [answer.status for answer in answers] == [403, 403]
    assert image(known).host is None


def test_other_methods_are_refused(manager: Manager) -> None:
    answer = ask(manager, "DELETE", internal.image_path(new_image()))
    assert (answer.status, b"MethodNotAllowed" in answer.body) == (405, True)


def test_before_the_start_it_says_unavailable(directory: pathlib.Path) -> None:
    answer = get(Manager(), ids.new())
    assert (answer.status, b"ServiceUnavailable" in answer.body) == (503, True)


# --- uploads that fail ------------------------------------------------------------------------


def refused(manager: Manager, id: str, answer: Answer, status: int = 400) -> str:
    """The upload was refused and the image is on its way out; the reason in its row."""
    assert answer.status == status, answer.body
    row = image(id)
    assert (row.state, row.word) == ("deleting", None)
    return row.reason or ""


def test_an_upload_that_breaks_off_is_given_up(manager: Manager) -> None:
    id = new_image(word="tty")
    answer = put(manager, id, b"half", length=8)
    assert "ended early" in refused(manager, id, answer)
    assert new_image(word="tty")


def test_a_body_with_another_digest_is_refused(manager: Manager) -> None:
    id = new_image()
    answer = put(manager, id, b"bytes", x_amz_content_sha256="0" * 64)
    assert "SHA-256" in refused(manager, id, answer)


def test_a_second_upload_is_refused_and_the_first_one_stays(manager: Manager) -> None:
    id = new_image()
    put(manager, id, b"first")
    assert put(manager, id, b"second").status == 409
    assert get(manager, id).body == b"first"


def test_an_upload_beside_another_is_refused_and_disturbs_nothing(manager: Manager) -> None:
    id = new_image()
    seen: list[int] = []
    checkpoint.hook = lambda name: (
        seen.append(put(manager, id, b"other").status) if name == "upload.written" else None
    )
    try:
        assert put(manager, id, b"bytes").status == 200
    finally:
        checkpoint.hook = None
    assert seen == [409]
    assert get(manager, id).body == b"bytes"


def test_a_larger_image_than_allowed_is_refused_before_it_is_read(manager: Manager) -> None:
    id = new_image()
    answer = put(manager, id, b"", length=image_bytes.max_bytes() + 1)
    assert (answer.status, b"EntityTooLarge" in answer.body) == (400, True)
    assert image(id).host is None


def test_an_upload_without_a_length_is_refused(manager: Manager) -> None:
    assert put(manager, new_image(), b"", transfer_encoding="chunked", length=None).status == 400


def test_a_full_disk_is_said_and_the_upload_given_up(
    manager: Manager, directory: pathlib.Path
) -> None:
    id = new_image()
    directory.rmdir()
    answer = put(manager, id, b"bytes")
    assert "cannot write" in refused(manager, id, answer, 503)


def test_the_last_of_the_disk_stays_free(manager: Manager, options: Callable[..., None]) -> None:
    options("objectstore", min_free_gib=1 << 30)
    id = new_image()
    answer = put(manager, id, b"bytes")
    assert "GiB stay free" in refused(manager, id, answer, 503)


def test_deleting_during_an_upload_wins(manager: Manager) -> None:
    id = new_image()

    @session.transaction
    def delete(tx: session.Tx) -> None:
        row = images.held(tx, id)
        states.move(tx, states.IMAGE, row, "deleting", states.USER, ctx=context.admin())

    checkpoint.hook = lambda name: delete() if name == "upload.written" else None
    try:
        assert put(manager, id, b"bytes").status == 409
    finally:
        checkpoint.hook = None
    assert image(id).state == "deleting"


# --- formats ----------------------------------------------------------------------------------


def test_a_qcow2_image_is_known_by_its_header(manager: Manager) -> None:
    id = new_image()
    assert put(manager, id, qcow2(size=5 * GIB)).status == 200
    assert (image(id).format, image(id).virtual_size) == ("qcow2", 5 * GIB)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "empty"),
        (qcow2(backing=600), "backing"),
        (qcow2(features=4), "data_file"),
        (qcow2(features=1 << 40), "features"),
        (qcow2(version=9), "version"),
        (qcow2(size=1 << 63), "are allowed"),
        (qcow2(size=0), "no size"),
        (qcow2(crypt=1), "encrypted"),
        (qcow2(crypt=2), "encrypted"),
        (qcow2()[:300], "within its header"),
        (b"QED\0" + bytes(600), "qed"),
        (b"KDMV" + bytes(2000), "vmdk|not clear"),
    ],
)
def test_an_image_no_guest_may_have_is_refused(manager: Manager, body: bytes, why: str) -> None:
    id = new_image()
    reason = refused(manager, id, put(manager, id, body))
    assert any(word in reason for word in why.split("|")), reason


def test_a_kernel_is_taken_as_it_is(manager: Manager) -> None:
    id = new_image(kind="kernel")
    assert put(manager, id, b"MZ" + bytes(508) + b"\x55\xaa").status == 200
    assert image(id).format == "raw"


def test_a_disk_with_a_partition_table_is_raw() -> None:
    table = bytes(446) + b"\x80" + bytes(63) + b"\x55\xaa"
    assert formats.inspect("machine", 4096, table + bytes(3584), GIB) == ("raw", 4096)


# --- death and cleaning up --------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("step", ["upload.written", "upload.committed"])
def test_a_restart_settles_what_a_killed_daemon_left(manager: Manager, step: str) -> None:
    id = new_image()

    def die(name: str) -> None:
        if name == step:
            raise Killed

    checkpoint.hook = die
    try:
        with pytest.raises(Killed):
            put(manager, id, b"bytes")
    finally:
        checkpoint.hook = None
    successor = Manager()
    successor.me = manager.me
    successor.start()
    assert image(id).state == ("active" if step == "upload.committed" else "deleting")


def test_a_deleted_images_file_is_gone(manager: Manager, directory: pathlib.Path) -> None:
    id = new_image()
    put(manager, id, b"bytes")
    delete: Callable[..., Any] = Manager.delete_image.apply  # type: ignore[attr-defined]
    for _ in range(2):
        delete(manager, context.admin(), image(id))
    assert list(directory.iterdir()) == []


def test_the_sweep_leaves_an_upload_alone_that_goes_on(manager: Manager) -> None:
    id = new_image()
    checkpoint.hook = lambda name: manager.sweep() if name == "upload.written" else None
    try:
        assert put(manager, id, b"bytes").status == 200
    finally:
        checkpoint.hook = None
    assert get(manager, id).body == b"bytes"


def test_the_sweep_removes_files_without_a_row_and_no_others(
    manager: Manager, directory: pathlib.Path
) -> None:
    id = new_image()
    put(manager, id, b"bytes")
    orphan = images.fresh_file(ids.new())
    (directory / orphan).write_bytes(b"lost")
    (directory / "README").write_bytes(b"not ours")
    manager.still_trusted = lambda: False
    manager.sweep()
    assert (directory / orphan).exists()
    manager.still_trusted = lambda: True
    manager.sweep()
    assert {path.name for path in directory.iterdir()} == {image(id).file, "README"}


def test_the_sweep_ends_an_upload_nobody_began(manager: Manager) -> None:
    old, young = new_image(word="tty"), new_image()
    change(old, created_at=models.now(-images.NEVER_BEGUN_S - 1))
    manager.sweep()
    assert [image(id).state for id in (old, young)] == ["deleted", "uploading"]


def test_a_replaced_daemon_takes_no_upload(manager: Manager) -> None:
    id = new_image()
    manager.me = dataclasses.replace(ME, epoch=6)
    assert put(manager, id, b"bytes").status == 500
    assert image(id).host is None


def test_the_store_never_writes_over_a_file(manager: Manager, directory: pathlib.Path) -> None:
    (directory / "name").write_bytes(b"old")
    with pytest.raises(errors.Unavailable):
        store.receive("name", io.BytesIO(b"new").read, 3)
    assert (directory / "name").read_bytes() == b"old"
