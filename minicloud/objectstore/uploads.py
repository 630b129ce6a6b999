"""The life of uploads in the database: claimed, then active or given up.

None of these books anything, so none is remembered in `requests`: a client that lost an answer
asks for the image's row.
"""

from __future__ import annotations

import logging

from minicloud import errors, states
from minicloud.context import Context
from minicloud.db import images, models, objects
from minicloud.db.session import Tx, reading, transaction

LOG = logging.getLogger(__name__)

BATCH = 500  # names of one statement


@reading
def get(tx: Tx, id: str) -> models.Image:
    """The image; ImageNotFound."""
    return images.get(tx, id)


@transaction
def begin(tx: Tx, id: str, me: states.Daemon) -> models.Image:
    """This daemon takes the image's bytes from now on.

    ImageNotFound, WrongState when it is not waiting for an upload, Conflict when one is going on.
    """
    row = images.held(tx, id)
    if not images.claim(tx, row, me.host, me.epoch, me.alive()):
        raise errors.Fenced(daemon=me.id, epoch=me.epoch)
    return row


@transaction
def finish(
    tx: Tx,
    ctx: Context,
    image: models.Image,
    *,
    size: int,
    sha256: str,
    format: str,
    virtual_size: int,
) -> None:
    """The image is active with these facts; WrongState when somebody moved it meanwhile."""
    states.move(
        tx,
        states.IMAGE,
        image,
        "active",
        states.USER,
        ctx=ctx,
        size=size,
        sha256=sha256,
        format=format,
        virtual_size=virtual_size,
    )


@transaction
def give_up(tx: Tx, ctx: Context, id: str, reason: str, begun: bool = True) -> None:
    """An upload that will never be complete: its word is free, its bytes go.

    Nothing happens to an image that is not being uploaded any more; nor, for one that had not
    `begun`, if it has begun meanwhile.
    """
    row = images.held(tx, id)
    if row.state != "uploading" or (not begun and row.host is not None):
        return
    to = "deleted" if row.host is None else "deleting"
    states.move(tx, states.IMAGE, row, to, states.USER, ctx=ctx, reason=reason, word=None)
    LOG.warning("image %s: upload given up: %s", id, reason)


@reading
def here(tx: Tx, host: str) -> list[models.Image]:
    """The images that are being uploaded to this host, also by those that died."""
    return images.uploads(tx, host)


@reading
def never_begun(tx: Tx) -> list[models.Image]:
    """The images that wait for an upload which nobody will begin."""
    return images.never_begun(tx)


@reading
def whole_images(tx: Tx, host: str) -> list[models.Image]:
    """The images whose bytes are on this host, or were."""
    return images.whole(tx, host)


@reading
def whole_objects(tx: Tx, host: str) -> list[tuple[str, str, int | None]]:
    """(id, file, size) of all objects and parts that are complete and on this host."""
    return objects.whole(tx, host)


@transaction
def report(tx: Tx, me: states.Daemon, row: models.Image, state: str, reason: str) -> None:
    """The image is in `state` as its host shows it; WrongState when somebody moved it."""
    states.move(tx, states.IMAGE, row, state, me, reason=reason or None)


@reading
def orphans(tx: Tx, files: list[str]) -> list[str]:
    """Those of `files` that no row names: no image's, no object's, no part's."""
    named: set[str] = set()
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        named |= images.named(tx, some) | objects.named(tx, some)
    return sorted(set(files) - named)


# --- objects and parts ------------------------------------------------------------------------


@transaction
def give_up_object(tx: Tx, ctx: Context, id: str, reason: str) -> None:
    """The bytes of an object that did not all come, or are not right, go; nothing happens to one
    that is active or was given up."""
    row = objects.get(tx, id)
    if row is not None and row.state == "uploading":
        states.move(tx, states.OBJECT, row, "deleting", states.USER, ctx=ctx, reason=reason)
        LOG.info("object %s: given up: %s", id, reason)


@reading
def objects_here(tx: Tx, host: str) -> list[models.Object]:
    """The objects whose bytes come in at this host, or came when it died."""
    return objects.uploading(tx, host)


@transaction
def forget_parts(tx: Tx, host: str, ids: list[str]) -> None:
    """These parts, whose bytes nobody receives, have no rows."""
    objects.forget_parts(tx, host, ids)


@reading
def parts_here(tx: Tx, host: str) -> list[str]:
    """Ids of the parts whose bytes come in at this host, or came when it died."""
    return objects.incoming_parts(tx, host)
