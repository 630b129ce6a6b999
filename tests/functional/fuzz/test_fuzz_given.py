"""What tenants and guests give inside a request or beside one: disks, keys, manifests, user data,
questions to the metadata service, and what a guest says on its console."""

from __future__ import annotations

import base64
import dataclasses
import json
import pathlib
import re
import struct
import subprocess
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from minicloud import errors
from minicloud.api import metadata
from minicloud.cloud import instances, keypairs
from minicloud.compute.libvirt.disks import BOUNDED
from minicloud.context import Context
from minicloud.objectstore import formats, registering, xml
from tests.functional.fuzz import chance as chances
from tests.functional.fuzz.chance import Chance
from tests.functional.fuzz.doors import ENGINES, Answer, Ask, Loud, Rows, Watched
from tests.unit.test_metadata import GUEST, TOKEN, TTL

MIB = 1 << 20
SECTOR = 512  # bytes: QEMU leaves out what is less than one
LIMIT = 64 << 30
OTHER = "/nowhere/of-the-host"
LOOKS = 40  # of a tool that takes its time
SSH = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH

# --- disks ----------------------------------------------------------------------------------


def qcow2(
    extensions: bytes = b"", backing: bytes = b"", version: int = 3, incompatible: int = 0
) -> bytes:
    """The beginning of a disk of 8 MiB (QEMU, docs/interop/qcow2.txt)."""
    head = struct.pack(">4sIQIIQI", b"QFI\xfb", version, 0, len(backing), 16, 8 * MIB, 0)
    head += struct.pack(">IQQIIQ", 1, 3 << 16, 1 << 16, 1, 0, 0)
    head += struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    made = bytearray(head + extensions + bytes(8))
    if backing:
        made[8:16] = struct.pack(">Q", len(made))
        made += backing
    return bytes(made) + bytes(1 << 18)


def extension(kind: int, data: bytes) -> bytes:
    return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)


DISKS = (
    qcow2(),
    qcow2(version=2),
    qcow2(extension(0xE2792ACA, b"raw"), backing=OTHER.encode()),
    qcow2(extension(0x44415441, OTHER.encode()), incompatible=4),
    qcow2(extension(0x44415441, OTHER.encode())),
    qcow2(extension(0x6803F857, b"\0" * 48)),
    bytes(8192),
    bytes(446) + b"\x80" + bytes(3) + b"\x83" + bytes(59) + b"\x55\xaa" + bytes(8192),
    b"KDMV" + struct.pack("<III", 1, 3, 0) + bytes(4096),
    b"# Disk DescriptorFile\nversion=1\ncreateType=\"monolithicFlat\"\n" + bytes(4096),
    bytes.fromhex("636f6e6563746978") + bytes(4096),  # VHD, by its misspelt name
    b"vhdxfile" + bytes(1 << 18),
    b"<<< Oracle VM VirtualBox Disk Image >>>\n" + bytes(4096),
    bytes(0x8001) + b"CD001" + bytes(4096),
    b"\x1f\x8b\x08" + bytes(512),
    b"PK\x03\x04" + bytes(512),
    b"LUKS\xba\xbe\x00\x01" + bytes(4096),
)  # fmt: skip


def spoilt(chance: Chance, disk: bytes) -> bytes:
    """With fields of its header overwritten, or cut off."""
    made = bytearray(disk)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.choice((chance.randrange(0, 104, 4), chance.randrange(len(made) or 1)))
        word = chance.choice(
            (0, 1, 2, 4, 8, 16, 104, 2**16, 2**31, 2**32 - 1, chance.getrandbits(32))
        )
        made[at : at + 4] = struct.pack(chance.choice((">I", "<I")), word)
    if chance.random() < 0.2:
        del made[chance.choice((0, 3, 4, 8, 72, 103, 104, 112, 600)) :]
    return bytes(made)


def test_a_disk_is_taken_only_if_no_other_file_is_opened_with_it(tmp_path: pathlib.Path) -> None:
    """As QEMU's own tool shows, which also finds it to be of the size that we do."""
    taken, looked = 0, 0
    for chance in chances.examples(3000):
        disk = spoilt(chance, chance.choice(DISKS))
        try:
            format, size = formats.inspect("machine", len(disk), disk[:MIB], LIMIT)
        except errors.BadRequest:
            continue
        taken += 1
        assert 0 < size <= LIMIT, chance.example
        assert format in ("raw", "qcow2"), chance.example
        if format == "qcow2" and (looked := looked + 1) <= LOOKS:
            (tmp_path / "disk").write_bytes(disk)
            assert OTHER not in read(tmp_path), chance.example
            told = virtual_size(tmp_path)
            assert told in (None, size - size % SECTOR), chance.example
    assert taken > 100
    assert looked > 10


def test_the_tool_says_which_other_file_a_disk_names(tmp_path: pathlib.Path) -> None:
    for disk in (DISKS[2], DISKS[3]):
        (tmp_path / "disk").write_bytes(disk)
        assert OTHER in read(tmp_path)
        with pytest.raises(errors.BadRequest, match="not safe"):
            formats.inspect("machine", len(disk), disk, LIMIT)


def read(directory: pathlib.Path) -> str:
    """What the tool says against reading from the disk, with all the files that are part of it."""
    words = ["dd", "-f", "qcow2", "-O", "raw", "bs=512", "count=1"]
    return qemu_img(*words, f"if={directory}/disk", f"of={directory}/out").stderr


def virtual_size(directory: pathlib.Path) -> int | None:
    """In bytes; None when the tool does not open it."""
    done = qemu_img("info", "-f", "qcow2", "--output=json", f"{directory}/disk")
    return int(json.loads(done.stdout)["virtual-size"]) if done.returncode == 0 else None


def qemu_img(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [*BOUNDED, "qemu-img", *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, 1), (done.returncode, done.stderr)
    return done


# --- manifests ------------------------------------------------------------------------------

MANIFEST = (
    b'<?xml version="1.0"?><manifest><version>2007-10-10</version><image><name>n</name>'
    b"<type>machine</type><size>10</size><parts count='1'><part index='0'><filename>p.0</filename>"
    b"<digest algorithm='SHA1'>" + b"0" * 40 + b"</digest></part></parts></image></manifest>"
)


def test_a_manifest_is_understood_or_refused() -> None:
    for chance in chances.examples(1000):
        words = re.split(rb"([<>/ ='])", MANIFEST)
        at = chance.choice((chance.randrange(len(words)), words.index(b"p.0")))
        words[at] = chances.text(chance, words[at].decode()).encode(errors="surrogatepass")
        text = b"".join(words)
        if chance.random() < 0.3:
            text = chances.garbled_bytes(chance, text)
        try:
            parts = registering._parts(xml.parse(text, "manifest"), b"folder/x.manifest.xml")
        except errors.BadRequest:
            continue
        for part in parts:
            assert part.key.startswith(b"folder/"), chance.example
            assert part.key.count(b"/") == 1, chance.example


# --- keys -----------------------------------------------------------------------------------

KEYS = (
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
    ec.generate_private_key(ec.SECP256R1()),
)
KINDS = (
    *("ssh-rsa", "ssh-ed25519", "ssh-dss", "ecdsa-sha2-nistp256", "ssh-rsa-cert-v01@openssh.com"),
    *("ssh-ed25519-cert-v01@openssh.com", "sk-ssh-ed25519@openssh.com", "rsa-sha2-256", ""),
)


def line(chance: Chance) -> str:
    """A public key in OpenSSH's form, with a defect."""
    kind, blob = chance.choice(KEYS).public_key().public_bytes(*SSH).decode().split()
    if chance.random() < 0.2:
        return f"{kind} {chances.garbled(chance, blob)} comment"
    raw = bytearray(base64.b64decode(blob))
    if chance.random() < 0.5:  # a length that lies, or a number that is none
        at = chance.randrange(len(raw) - 4)
        raw[at : at + 4] = struct.pack(">I", chance.choice((0, 1, 255, 2**16, 2**31, 2**32 - 1)))
    else:
        raw = bytearray(chances.garbled_bytes(chance, bytes(raw)))
    if chance.random() < 0.4:
        kind = chance.choice(KINDS)
    made = f"{kind} {base64.b64encode(raw).decode()} comment"
    return chances.garbled(chance, made) if chance.random() < 0.2 else made


@ENGINES
def test_a_public_key_is_taken_or_refused(caller: Callable[[], Context], rows: Rows) -> None:
    rows.keep()
    for chance in chances.examples(400):
        given = line(chance)
        try:
            row = keypairs.import_(caller(), "key", given)
        except errors.InvalidKey:
            assert not rows.wrote, chance.example
            continue
        assert row.public_key.isascii(), chance.example
        assert "\n" not in row.public_key, chance.example
        rows.back()


# --- user data and the metadata service -----------------------------------------------------


@ENGINES
def test_user_data_that_is_taken_reaches_its_guest_as_the_bytes_it_stands_for(
    caller: Callable[[], Context], rows: Rows
) -> None:
    rows.keep()
    given = base64.b64encode(b"#!/bin/sh\nexit 0\n").decode()
    taken = 0
    for chance in chances.examples(250):
        text = chances.garbled(chance, given)
        right = {"image": "ami-tty", "count_min": 1, "count_max": 1, "flavor": "m1.nano"}
        try:
            [view] = instances.run(caller(), **right, user_data=text)
        except errors.BadRequest:
            assert not rows.wrote, chance.example
            continue
        taken += 1
        guest = dataclasses.replace(GUEST, user_data=view.row.user_data)
        expected = base64.b64decode("".join(text.split()), validate=True)
        assert metadata.user_data(guest) == expected, f"{chance.example}: {text!r}"
        rows.back()
    assert taken > 5


PATHS = (
    *("/", "/latest", "/latest/meta-data/", "/2009-04-04/meta-data/instance-id"),
    *("/latest/user-data", "/latest/dynamic/instance-identity/document", "/latest/api/token"),
    *("/latest/meta-data/public-keys/0/openssh-key", "/1.0/meta-data/placement/"),
)


def bare(ask: Ask, answer: Answer) -> None:
    assert answer.headers["content-type"] in ("text/plain", "application/octet-stream")
    if answer.status >= 400 and ask.method != "HEAD":
        assert re.fullmatch(rb"[0-9]{3} - [A-Za-z ]+\n", answer.body)


@ENGINES
def test_a_guest_that_asks_nonsense_gets_a_bare_line(
    options: Callable[..., None], rows: Rows, loud: Loud
) -> None:
    rows.keep()
    door = Watched(metadata.application("n1", lambda network, address: GUEST), bare, rows, loud)
    token = door.plain(Ask("PUT", "/latest/api/token", {TTL: "60"})).body.decode()
    for chance in chances.examples(800):
        path = chance.choice(PATHS)
        headers = {"Host": "169.254.169.254"} | chance.choice(({}, {TOKEN: token}, {TTL: "60"}))
        if chance.random() < 0.6:
            words = path.split("/")
            at = chance.randrange(len(words))
            word = chances.text(chance, words[at])[:2000].encode(errors="surrogatepass")
            words[at] = "".join(f"%{byte:02x}" for byte in word)
            path = "/".join(words) if chance.random() < 0.9 else chances.garbled(chance, path)
            path = path.encode(errors="surrogatepass").decode("latin-1")
        else:
            names = (TOKEN, TTL, "X-Forwarded-For", "Content-Length", "Host")
            chances.changed_header(chance, headers, names)
        method = chance.choice(("GET", "GET", "GET", "PUT", "HEAD", "POST", "\xff"))
        door.ask(chance, Ask(method, path, headers))
    door.met(200, 400, 401, 404, 405)
