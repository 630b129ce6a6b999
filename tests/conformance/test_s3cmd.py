"""s3cmd, which is told by options where the store is, and signs with version 4 or 2."""

from __future__ import annotations

import filecmp
import os
import pathlib
import urllib.request

import pytest

from tests.conformance.clients import User

PARTS = (20 << 20) + 1  # bytes: above 15 MiB it sends parts
SIGNATURES = pytest.mark.parametrize("version", ["4", "2"])


class Somebody:
    """A user of s3cmd, whose configuration is what docs/s3-clients.md shows."""

    def __init__(self, user: User, version: str = "4") -> None:
        self.user = user
        self.where = user.novarc["S3_URL"].removeprefix("http://")
        own = ("--signature-v2",) if version == "2" else ()
        self.words = (
            *("s3cmd", "--no-ssl", "--no-progress", f"--host={self.where}"),
            *(f"--host-bucket={self.where}", *own),
        )

    def says(self, *words: str) -> str:
        return self.user.says(*self.words, *words)

    def fails(self, *words: str) -> str:
        return self.user.fails(*self.words, *words)


@SIGNATURES
def test_files_go_there_and_back(user: User, version: str) -> None:
    s3, home = Somebody(user, version), user.home
    bucket = f"s3://s3cmd-{version}"
    (home / "small").write_text("words\n")
    (home / "large").write_bytes(os.urandom(PARTS))
    s3.says("mb", bucket)
    assert bucket in s3.says("ls")
    s3.says("put", "small", "large", f"{bucket}/of home/")
    s3.says("get", f"{bucket}/of home/large", "back")
    assert filecmp.cmp(home / "large", home / "back", shallow=False)
    s3.says("cp", f"{bucket}/of home/large", f"{bucket}/copied")
    s3.says("mv", f"{bucket}/of home/small", f"{bucket}/ü&+ x")
    listed = s3.says("ls", "--recursive", bucket)
    assert [line.split("  ")[-1].strip() for line in listed.splitlines()] == [
        *(f"{bucket}/copied", f"{bucket}/of home/large", f"{bucket}/ü&+ x"),
    ]
    assert str(2 * PARTS + len("words\n")) in s3.says("du", bucket)
    assert "BucketNotEmpty" in s3.fails("rb", bucket)
    s3.says("del", "--recursive", "--force", bucket)
    s3.says("rb", bucket)
    assert "NoSuchBucket" in s3.fails("ls", bucket)


def test_a_directory_is_synchronised_both_ways(user: User) -> None:
    s3, here, there = Somebody(user), user.home / "here", user.home / "there"
    for name in ("a", "b/c", "b/ü x+y&z"):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(name)
    there.mkdir()
    s3.says("mb", "s3://sync")
    assert "b/c" in s3.says("sync", "here/", "s3://sync/d/")
    assert "upload" not in s3.says("sync", "here/", "s3://sync/d/")  # nothing has changed
    s3.says("sync", "s3://sync/d/", "there/")
    same = filecmp.dircmp(here / "b", there / "b")
    assert (same.common_files, same.left_only) == (["c", "ü x+y&z"], [])
    (here / "a").unlink()
    assert "delete" in s3.says("sync", "--delete-removed", "here/", "s3://sync/d/")
    assert "s3://sync/d/a" not in s3.says("ls", "s3://sync/d/")
    s3.says("rb", "--recursive", "--force", "s3://sync")


def test_what_it_tells_of_an_object_and_who_may_read_it(
    user: User, tmp_path: pathlib.Path
) -> None:
    s3 = Somebody(user)
    (tmp_path / "a").write_text("a")
    s3.says("mb", "s3://acls")
    s3.says("put", "--acl-public", "--add-header=x-amz-meta-by:me", "a", "s3://acls/a")
    assert _read(f"http://{s3.where}/acls/a") == b"a"
    told = s3.says("info", "s3://acls/a")
    assert "x-amz-meta-by: me" in told
    assert "Policy:    none" in told
    s3.says("setacl", "--acl-private", "s3://acls/a")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        _read(f"http://{s3.where}/acls/a")
    assert _read(s3.says("signurl", "s3://acls/a", "+60").strip()) == b"a"
    assert "Versioning:none" in s3.says("info", "s3://acls").replace(" ", "")
    s3.says("rb", "--recursive", "--force", "s3://acls")


def _read(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        body: bytes = answer.read()
    return body


def test_what_is_not_built_says_so(user: User, tmp_path: pathlib.Path) -> None:
    s3 = Somebody(user)
    s3.says("mb", "s3://unbuilt")
    (tmp_path / "policy").write_text("{}")
    for words in (
        ("setpolicy", "policy", "s3://unbuilt"),
        ("setversioning", "s3://unbuilt", "enable"),
        ("expire", "--expiry-days=2", "s3://unbuilt"),
        ("ws-create", "s3://unbuilt"),
        ("setacl", "--acl-grant=read:somebody", "s3://unbuilt"),
    ):
        assert "501 (NotImplemented)" in s3.fails(*words), words
    stranger = user.run(*s3.words, "ls", AWS_ACCESS_KEY_ID="nobody")
    assert "InvalidAccessKeyId" in stranger.stderr
    s3.says("rb", "s3://unbuilt")
