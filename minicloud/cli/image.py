"""Images: what instances boot from."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from collections.abc import Iterator
from typing import IO

from minicloud import context, errors
from minicloud.cli import table
from minicloud.cli.commands import command

CHUNK = 1 << 20  # bytes in memory


@command("image register")
def image_register(
    name: str,
    file: str,
    kind: str = "machine",
    word: str = "",
    kernel: str = "",
    ramdisk: str = "",
    project: str = "admin",
    public: bool = False,
) -> None:
    """Upload FILE as an image and show its EC2 id; with --public every project may use it.

    KIND is machine, kernel or ramdisk.  WORD gives it an id like ami-WORD (aki-, ari-); when an
    image of that id has the same bytes, its id is shown and nothing happens.  KERNEL and RAMDISK
    are ids of what the machine image boots with.  It belongs to PROJECT.
    """
    print(register(name, file, kind, word, kernel, ramdisk, project, public))


def register(
    name: str,
    file: str,
    kind: str,
    word: str,
    kernel: str,
    ramdisk: str,
    project: str,
    public: bool,
) -> str:
    """The EC2 id of the image, which is there with its bytes: see `image_register`."""
    from minicloud.cloud import images, projects, shown

    admin = context.admin()
    owner = projects.get(admin, project)
    ctx = dataclasses.replace(admin, project_id=owner.id, project=owner.name)
    with open(file, "rb") as source:
        sha256 = hashlib.file_digest(source, "sha256").hexdigest()
        image = images.register(
            ctx,
            name=name,
            kind=kind,
            word=word or None,
            kernel=kernel or None,
            ramdisk=ramdisk or None,
            public=public,
        )
        id = shown.image_id(image)
        if image.state == "uploading":
            try:
                size = os.fstat(source.fileno()).st_size
                source.seek(0)
                _send(image.id, source, size, sha256)
            except BaseException:
                with contextlib.suppress(errors.Error):
                    images.delete(context.admin(), image.id)
                raise
        elif image.sha256 != sha256:
            raise errors.Conflict(reason=f"The image {id} is there already, with other bytes")
    return id


def _send(id: str, source: IO[bytes], size: int, sha256: str) -> None:
    """As `image_bytes.send`; who operates the cloud is told where its object store should be."""
    from minicloud.auth import internal
    from minicloud.cloud import image_bytes

    try:
        image_bytes.send(id, _chunks(source, size), size, sha256)
    except errors.Unavailable as error:
        where = f"{error.facts['reason']} ({internal.image_url(id)})"
        raise errors.Unavailable(reason=where) from error


def _chunks(source: IO[bytes], size: int) -> Iterator[bytes]:
    """`size` bytes, also when the file has grown since."""
    while size and (chunk := source.read(min(CHUNK, size))):
        size -= len(chunk)
        yield chunk


@command("image list")
def image_list(json: bool = False) -> None:
    """List the images of all projects."""
    from minicloud.cloud import images, shown

    columns = ("id", "name", "kind", "state", "public", "size", "format", "project_id", "uuid")
    rows = [
        (
            shown.image_id(row),
            row.name,
            row.kind,
            row.state,
            row.is_public,
            row.size,
            row.format,
            row.project_id,
            row.id,
        )
        for row in images.everything(context.admin())
    ]
    table.show(columns, rows, json)
