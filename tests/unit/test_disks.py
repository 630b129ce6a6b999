"""Images fetched, checked, cached and forgotten; overlays; consoles.  With the real qemu-img."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.server
import os
import pathlib
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from typing_extensions import override

from minicloud import errors, ids, shell
from minicloud.auth import internal
from minicloud.compute import images
from minicloud.compute.driver import BootImage, Check, Guest
from minicloud.compute.libvirt.disks import CONVERT_S, Disks
from tests.integration.running import TOP, wait

pytestmark = pytest.mark.skipif(
    shutil.which("qemu-img") is None, reason="qemu-img is not installed"
)

MIB = 1024**2


def no_check() -> None:
    pass


def qemu_img(*words: str) -> str:
    return subprocess.run(["qemu-img", *words], check=True, capture_output=True, text=True).stdout


class Source:
    """An objectstore in memory: what `fetch` of these tests reads from."""

    def __init__(self) -> None:
        self.bytes: dict[str, bytes] = {}
        self.fetched: list[str] = []

    def add(self, data: bytes, format: str = "raw", virtual_size: int | None = None) -> BootImage:
        sha256 = hashlib.sha256(data).hexdigest()
        image = BootImage(ids.new(), len(data), sha256, format, virtual_size or len(data))
        self.bytes[image.id] = data
        return image

    def fetch(self, image: BootImage, to: pathlib.Path, check: Check) -> None:
        self.fetched.append(image.id)
        with to.open("xb") as file:
            file.write(self.bytes[image.id])


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def disks(tmp_path: pathlib.Path, source: Source) -> Disks:
    made = Disks(tmp_path / "instances", source.fetch)
    (tmp_path / "instances").mkdir()
    made.prepare()
    return made


def guest(image: BootImage, disk_gib: int = 0, **changes: BootImage | None) -> Guest:
    id = ids.new()
    made = Guest(
        id=id,
        ec2_id=ids.ec2("i", id),
        name="",
        hostname="",
        project_id="",
        generation=1,
        vcpus=1,
        memory_mib=96,
        disk_gib=disk_gib,
        image=image,
        kernel=None,
        ramdisk=None,
        ports=(),
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def ensure(disks: Disks, made: Guest, check: Check = no_check) -> None:
    with disks.cached(made, check):
        disks.ensure_overlay(made)


def files(disks: Disks) -> set[str]:
    base = disks.base(BootImage("x", 0, "", "", 0)).parent
    return {path.name for path in base.iterdir()}


def qcow2(directory: pathlib.Path, *options: str, size: str = "8M") -> bytes:
    path = directory / f"{ids.new()}.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", *options, str(path), size)
    return path.read_bytes()


def test_a_disk_is_an_overlay_of_the_cached_image(disks: Disks, source: Source) -> None:
    made = guest(source.add(os.urandom(MIB)), disk_gib=1)
    ensure(disks, made)
    described = qemu_img("info", str(disks.disk(made.id)))
    assert str(disks.base(made.image)) in described
    assert "virtual size: 1 GiB" in described
    assert files(disks) == {made.image.id}


def test_a_guest_that_had_a_disk_gets_no_empty_one_in_its_place(
    disks: Disks, source: Source
) -> None:
    made = guest(source.add(bytes(MIB)))
    ensure(disks, made)
    ran = dataclasses.replace(made, has_disk=True)
    disks.require(ran)
    assert disks.with_disk() == {made.id}
    disks.disk(made.id).unlink()
    with pytest.raises(errors.DiskGone):
        disks.require(ran)
    assert disks.with_disk() == set()
    disks.require(made)


def test_a_disk_is_never_smaller_than_its_image(disks: Disks, source: Source) -> None:
    made = guest(source.add(bytes(3 * MIB)))
    ensure(disks, made)
    assert "virtual size: 3 MiB" in qemu_img("info", str(disks.disk(made.id)))


def test_repeating_fetches_nothing_and_keeps_the_disk(disks: Disks, source: Source) -> None:
    made = guest(source.add(bytes(MIB)))
    ensure(disks, made)
    before = disks.disk(made.id).stat()
    ensure(disks, made)
    assert disks.disk(made.id).stat().st_ino == before.st_ino
    assert source.fetched == [made.image.id]


def test_qemu_may_read_images_and_write_disks_by_its_group_alone(
    disks: Disks, source: Source
) -> None:
    before = os.umask(0o077)
    try:
        made = guest(source.add(bytes(MIB)))
        ensure(disks, made)
    finally:
        os.umask(before)
    assert disks.base(made.image).stat().st_mode & 0o777 == 0o640
    assert disks.disk(made.id).stat().st_mode & 0o777 == 0o660
    assert disks.directory(made.id).stat().st_mode & 0o7777 == 0o2750


def test_a_qcow2_is_converted_once(disks: Disks, source: Source, tmp_path: pathlib.Path) -> None:
    made = guest(source.add(qcow2(tmp_path), "qcow2", 8 * MIB))
    ensure(disks, made)
    assert disks.base(made.image).read_bytes() == bytes(8 * MIB)
    assert disks.base(made.image).stat().st_blocks * 512 < MIB
    assert files(disks) == {made.image.id}


def test_what_reads_a_strangers_image_has_bounded_time_and_memory(
    disks: Disks, source: Source, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run(argv: Sequence[str], **how: Any) -> str:
        ran.append(list(argv))
        return whole(argv, **how)

    whole = shell.run
    monkeypatch.setattr(shell, "run", run)
    ensure(disks, guest(source.add(qcow2(tmp_path), "qcow2", 8 * MIB)))
    [conversion] = [argv for argv in ran if "convert" in argv]
    assert conversion[:3] == ["prlimit", f"--as={2 << 30}", f"--cpu={CONVERT_S}"]


def backed(directory: pathlib.Path) -> bytes:
    return qcow2(directory, "-b", "/etc/passwd", "-F", "raw")


def with_data_file(directory: pathlib.Path) -> bytes:
    return qcow2(directory, "-o", f"data_file={directory / 'data'},data_file_raw=on")


@pytest.mark.parametrize("hostile", [backed, with_data_file])
def test_an_image_that_names_a_file_of_the_host_is_refused(
    disks: Disks,
    source: Source,
    tmp_path: pathlib.Path,
    hostile: Callable[[pathlib.Path], bytes],
) -> None:
    made = guest(source.add(hostile(tmp_path), "qcow2", 8 * MIB))
    with pytest.raises(errors.ImageBroken):
        ensure(disks, made)
    assert files(disks) == set()
    assert disks.instances() == set()


@pytest.mark.parametrize(("told", "virtual_size"), [("raw", 0), ("qcow2", 9 * MIB)])
def test_an_image_that_is_not_what_its_row_says_is_refused(
    disks: Disks, source: Source, tmp_path: pathlib.Path, told: str, virtual_size: int
) -> None:
    made = guest(source.add(qcow2(tmp_path), told, virtual_size))
    with pytest.raises(errors.ImageBroken):
        ensure(disks, made)
    assert files(disks) == set()


def test_bytes_without_a_format_are_no_qcow2(disks: Disks, source: Source) -> None:
    with pytest.raises(errors.ImageBroken):
        ensure(disks, guest(source.add(bytes(MIB), "qcow2", MIB)))


def test_an_image_larger_than_the_host_ends_it_with_both_numbers(
    disks: Disks, source: Source
) -> None:
    image = dataclasses.replace(source.add(b""), size=1 << 60)
    with pytest.raises(errors.Final, match=r"needs 1073741824\.0 GiB .* GiB are free"):
        ensure(disks, guest(image))
    assert source.fetched == []


def test_an_overtaken_build_leaves_no_part(disks: Disks, source: Source) -> None:
    def overtaken() -> None:
        raise errors.Overtaken(id="x")

    with pytest.raises(errors.Overtaken):
        ensure(disks, guest(source.add(bytes(MIB))), overtaken)
    assert not any(name.endswith((".part", ".lock")) for name in files(disks))


def test_what_a_killed_process_left_is_removed_by_the_next(
    disks: Disks, source: Source, tmp_path: pathlib.Path
) -> None:
    made = guest(source.add(bytes(MIB)))
    ensure(disks, made)
    left = [
        disks.base(made.image).with_suffix(".abcd.part"),
        disks.disk(made.id).with_suffix(".x.part"),
    ]
    for path in left:
        path.touch()
    Disks(tmp_path / "instances", source.fetch).prepare()
    assert not any(path.exists() for path in left)
    assert disks.disk(made.id).exists()


@pytest.mark.parametrize("left", [0, MIB - 1])
def test_a_cached_image_that_was_cut_short_is_fetched_anew(
    disks: Disks, source: Source, tmp_path: pathlib.Path, left: int
) -> None:
    kernel, raw = source.add(os.urandom(MIB)), source.add(os.urandom(MIB))
    packed = source.add(qcow2(tmp_path), "qcow2", 8 * MIB)
    ours = [guest(raw, kernel=kernel), guest(packed)]
    for made in ours:
        ensure(disks, made)
    whole = {image.id: disks.base(image).read_bytes() for image in (kernel, raw, packed)}
    for image in (kernel, raw, packed):
        os.truncate(disks.base(image), left)
    for made in ours:
        ensure(disks, made)  # as each start of a guest does
    assert {id: (disks.base(raw).parent / id).read_bytes() for id in whole} == whole
    assert sorted(source.fetched) == sorted([*whole, *whole])


STALLED = """\
#!/bin/sh
for last; do :; done
head -c 100000 /dev/urandom > "$last"
echo $$ > {mark}.new && mv {mark}.new {mark}
exec sleep 1000
"""


def test_a_conversion_dies_with_its_daemon_and_is_begun_anew_by_the_next(
    disks: Disks, source: Source, tmp_path: pathlib.Path
) -> None:
    data, mark, tools = qcow2(tmp_path), tmp_path / "tool", tmp_path / "tools"
    made = guest(source.add(data, "qcow2", 8 * MIB))
    tools.mkdir()
    (tools / "qemu-img").write_text(STALLED.format(mark=mark))
    (tools / "qemu-img").chmod(0o755)
    (tmp_path / "guest").write_bytes(pickle.dumps((made, data)))
    killed = subprocess.Popen(
        [sys.executable, "-c", "from tests.unit import test_disks; test_disks.build()"],
        env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "WHERE": str(tmp_path)},
        cwd=TOP,
    )
    try:
        wait(mark.exists, what="the tool has written a part")
    finally:
        killed.kill()
        killed.wait()
    tool = pathlib.Path("/proc", mark.read_text().strip(), "cmdline")
    wait(lambda: not tool.exists() or not tool.read_bytes(), what="the tool is dead too")
    successor = Disks(tmp_path / "instances", source.fetch)
    successor.prepare()
    ensure(successor, made)
    assert files(disks) == {made.image.id}
    assert disks.base(made.image).read_bytes() == bytes(8 * MIB)


def build() -> None:
    """What a compute daemon does, in a process of its own (the test above)."""
    where = pathlib.Path(os.environ["WHERE"])
    made, data = pickle.loads((where / "guest").read_bytes())
    source = Source()
    source.bytes[made.image.id] = data
    ensure(Disks(where / "instances", source.fetch), made)


def test_what_this_process_writes_is_not_taken_for_what_was_left(
    disks: Disks, source: Source
) -> None:
    """Whatever its time says: the clock may have been set back since the process began."""

    def fetch(image: BootImage, to: pathlib.Path, check: Check) -> None:
        source.fetch(image, to, check)
        os.utime(to, (1, 1))
        disks.remove_left()

    disks._fetch = fetch
    made = guest(source.add(os.urandom(MIB)))
    ensure(disks, made)
    assert disks.base(made.image).read_bytes() == source.bytes[made.image.id]


def test_two_builds_at_once_fetch_an_image_once(disks: Disks, source: Source) -> None:
    image = source.add(os.urandom(MIB))
    slow = threading.Event()

    def fetch(image: BootImage, to: pathlib.Path, check: Check) -> None:
        slow.wait(5)
        source.fetch(image, to, check)

    disks._fetch = fetch
    threads = [threading.Thread(target=ensure, args=(disks, guest(image))) for _ in range(3)]
    for thread in threads:
        thread.start()
    slow.set()
    for thread in threads:
        thread.join(20)
    assert source.fetched == [image.id]
    assert len(disks.instances()) == 3
    assert files(disks) == {image.id}


def test_forgetting_keeps_what_is_used_or_under_a_disk(disks: Disks, source: Source) -> None:
    first, second, third = (guest(source.add(os.urandom(MIB))) for _ in range(3))
    for made in (first, second, third):
        ensure(disks, made)
    disks.remove(second.id)
    disks.remove(third.id)
    assert disks.images() == {made.image.id for made in (first, second, third)}
    disks.forget({first.image.id, second.image.id})
    assert files(disks) == {first.image.id, third.image.id}


def test_an_image_that_is_being_used_for_a_disk_is_not_forgotten(
    disks: Disks, source: Source
) -> None:
    made = guest(source.add(bytes(MIB)))
    with disks.cached(made, no_check):
        forgetting = threading.Thread(target=disks.forget, args=({made.image.id},))
        forgetting.start()
        time.sleep(0.1)  # so that it is waiting; if it is not yet, the end is the same
        disks.ensure_overlay(made)
    forgetting.join(10)
    assert files(disks) == {made.image.id}


def test_removing_an_instance_removes_all_and_can_be_repeated(
    disks: Disks, source: Source
) -> None:
    made = guest(source.add(bytes(MIB)))
    ensure(disks, made)
    disks.console(made.id).write_text("hello")
    disks.remove(made.id)
    disks.remove(made.id)
    assert disks.instances() == set()


def trashed(disks: Disks) -> list[pathlib.Path]:
    return sorted(disks.directory("trash").glob("*"))


def test_what_is_set_aside_is_nobodys_but_whole_and_setting_aside_can_be_repeated(
    disks: Disks, source: Source
) -> None:
    made = guest(source.add(os.urandom(MIB)))
    disks.set_aside(made.id)
    ensure(disks, made)
    disk = disks.disk(made.id).read_bytes()
    disks.set_aside(made.id)
    disks.set_aside(made.id)
    assert disks.instances() == set()
    [kept] = trashed(disks)
    assert (kept / "disk").read_bytes() == disk
    ensure(disks, made)  # the id comes back, and becomes an orphan once more
    disks.set_aside(made.id)
    assert len(trashed(disks)) == 2


def test_trash_is_kept_for_a_day_however_old_its_disks_are(disks: Disks, source: Source) -> None:
    young, old = guest(source.add(bytes(MIB))), guest(source.add(bytes(MIB)))
    for made in (young, old):
        ensure(disks, made)
        os.utime(disks.directory(made.id), (1, 1))
        disks.set_aside(made.id)
    for path in trashed(disks):
        if path.stem == old.id:
            path.rename(path.with_suffix(f".{time.time_ns() - 86401 * 10**9}"))
    disks.empty_trash()
    assert [path.stem for path in trashed(disks)] == [young.id]


def test_the_image_under_a_disk_in_the_trash_is_not_forgotten(
    disks: Disks, source: Source
) -> None:
    made = guest(source.add(bytes(MIB)))
    ensure(disks, made)
    disks.set_aside(made.id)
    disks.forget({made.image.id})
    assert files(disks) == {made.image.id}
    [kept] = trashed(disks)
    kept.rename(kept.with_suffix(".1"))
    disks.empty_trash()
    disks.forget({made.image.id})
    assert files(disks) == set()


def test_what_somebody_else_put_into_the_trash_stays_and_stops_nobody(disks: Disks) -> None:
    trash = disks.directory("trash")
    trash.mkdir()
    foreign = {"notes", "disk.old", f"{ids.new()}.", "x.1"}
    for name in foreign:
        (trash / name).mkdir()
    (trash / f"{ids.new()}.1").mkdir()
    disks.empty_trash()
    assert {path.name for path in trashed(disks)} == foreign


def test_a_disk_that_goes_while_it_is_looked_at_stops_nobody(disks: Disks, source: Source) -> None:
    gone, unused = guest(source.add(os.urandom(MIB))), guest(source.add(os.urandom(MIB)))
    for made in (gone, unused):
        ensure(disks, made)
    disks.remove(unused.id)
    disks.disk(gone.id).unlink()
    disks.disk(gone.id).symlink_to("nowhere")
    disks.forget({unused.image.id})
    assert disks.images() == {gone.image.id}


@pytest.mark.parametrize("hostile", ["", "_base", "../x", "."])
def test_only_an_instance_can_be_removed(disks: Disks, hostile: str) -> None:
    with pytest.raises(ValueError):
        disks.remove(hostile)


def test_the_console_goes_on_behind_its_rotation(disks: Disks) -> None:
    id = ids.new()
    assert disks.tail(id, 100) == b""
    disks.directory(id).mkdir()
    disks.console(id).write_bytes(b"new")
    assert disks.tail(id, 100) == b"new"
    disks.console(id).with_name("console.log.0").write_bytes(b"the old ")
    assert disks.tail(id, 100) == b"the old new"
    assert disks.tail(id, 5) == b"d new"
    assert disks.tail(id, 2) == b"ew"


# --- over HTTP ------------------------------------------------------------------------------


class Answers(http.server.BaseHTTPRequestHandler):
    """What the objectstore of a test answers: status, bytes, and how many it promises."""

    status, body, promised = 200, b"", 0

    def do_GET(self) -> None:
        given = {key.lower(): value for key, value in self.headers.items()}
        internal.check("GET", self.path, given)
        self.send_response(self.status)
        self.send_header("Content-Length", str(self.promised or len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    @override
    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def answering(options: Callable[..., None], **answer: object) -> Iterator[None]:
    handler = type("Handler", (Answers,), answer)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        options("objectstore", url=f"http://127.0.0.1:{server.server_port}")
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_an_image_is_fetched_with_holes_for_its_zeros(
    options: Callable[..., None], source: Source, tmp_path: pathlib.Path
) -> None:
    data = bytes(2 * MIB) + os.urandom(MIB) + bytes(3 * MIB)
    to = tmp_path / "part"
    with answering(options, body=data):
        images.fetch(source.add(data), to, no_check)
    assert to.read_bytes() == data
    assert to.stat().st_blocks * 512 < 2 * MIB


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": 404}, errors.ImageBroken),
        ({"status": 503}, errors.TryLater),
        ({"body": b"other"}, errors.ImageBroken),
        ({"body": b"bytes and more"}, errors.ImageBroken),
        ({"body": b"byt", "promised": 5}, errors.TryLater),
        ({"body": b"byt"}, errors.TryLater),
    ],
)
def test_an_image_that_does_not_come_whole_is_an_error(
    options: Callable[..., None],
    source: Source,
    tmp_path: pathlib.Path,
    answer: dict[str, object],
    error: type[errors.Error],
) -> None:
    with answering(options, **answer), pytest.raises(error):
        images.fetch(source.add(b"bytes"), tmp_path / "part", no_check)


def test_an_objectstore_that_is_away_is_waited_for(
    options: Callable[..., None], source: Source, tmp_path: pathlib.Path
) -> None:
    options("objectstore", url="http://127.0.0.1:1")
    with pytest.raises(errors.TryLater):
        images.fetch(source.add(b"bytes"), tmp_path / "part", no_check)


def test_a_full_disk_is_said_in_words(
    options: Callable[..., None], source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = os.urandom(MIB)
    full = pathlib.Path("/dev/full").open
    monkeypatch.setattr(pathlib.Path, "open", lambda *_: full("wb"))
    with answering(options, body=data), pytest.raises(errors.Final, match="no room"):
        images.fetch(source.add(data), pathlib.Path("/nowhere"), no_check)
