"""The object store's daemon: makes the files on this host equal to its rows."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

from typing_extensions import override

from minicloud import auditing, context, errors, interfaces, states, work
from minicloud.checkpoint import checkpoint
from minicloud.context import Context
from minicloud.db import images, models, objects
from minicloud.findings import Finding
from minicloud.objectstore import comparing, registering, store, uploads
from minicloud.work import finishes

LOG = logging.getLogger(__name__)

OURS = re.compile(f"(?:{images.FILE.pattern})|(?:{objects.FILE.pattern})")


class Manager(interfaces.Objectstore):
    protocol = interfaces.Objectstore
    me: states.Daemon
    work: work.Queue
    trusted: bool
    still_trusted: Callable[[], bool]

    def __init__(self) -> None:
        self.ready = False  # `me` is known: requests may be served
        self.receiving: set[str] = set()  # ids of what is coming in now
        self._completing: set[tuple[str, str]] = set()  # buckets, and ids of uploads in them
        self._completed = threading.Condition()

    def start(self) -> None:
        """Predecessors' uploads are given up, and requests may come."""
        store.prepare()
        self._give_up_uploads()
        self.ready = True

    def let_go(self, host: str, *, everything: bool) -> None:
        """Bytes are never handed over: they are where they are."""

    def alive(self) -> dict[str, Any]:
        """Facts for the heartbeat: none."""
        return {}

    @contextlib.contextmanager
    def completing(self, bucket: str, upload_id: str) -> Iterator[None]:
        """Nobody else completes the upload meanwhile: a request that is sent again waits.  Whoever
        asks for it in another bucket does not: it is not there."""
        upload = (bucket, upload_id)
        with self._completed:
            self._completed.wait_for(lambda: upload not in self._completing)
            self._completing.add(upload)
        try:
            yield
        finally:
            with self._completed:
                self._completing.discard(upload)
                self._completed.notify_all()

    @override
    def ping(self, ctx: Context) -> dict[str, Any]:
        return work.pong(self.me)

    def found(self, machine: states.Machine, row: Any) -> str:
        raise NotImplementedError("no verb here looks at the host")

    @override
    @finishes(states.IMAGE, "deleting")
    def delete_image(self, ctx: Context, image: models.Image) -> None:
        """Make the image's bytes be gone; repeating it changes nothing."""
        store.remove(image.file)
        checkpoint("delete_image.file_gone")

    def sweep(self) -> None:
        """Give up the uploads that nobody goes on with, remove the files that no row names."""
        self._give_up_uploads()
        for image in uploads.never_begun():
            uploads.give_up(_context(), image.id, "the upload was never begun", begun=False)
        self._see()
        self._remove_orphans()

    @override
    @finishes(states.IMAGE, "registering")
    def register_image(self, ctx: Context, image: models.Image) -> dict[str, Any]:
        """Copy and inspect the object the image is registered from; repeating it begins anew."""
        check = work.checker(self, states.IMAGE, image)
        values = registering.fetch(image, self.me.host, check)
        checkpoint("register_image.copied")
        return values

    @override
    @finishes(states.OBJECT, "deleting")
    def delete_object(self, ctx: Context, object: models.Object) -> None:
        """Make the object's bytes be gone; repeating it changes nothing."""
        store.remove(object.file)
        checkpoint("delete_object.file_gone")

    @override
    def audit(self, ctx: Context) -> dict[str, Any]:
        return auditing.answer(self, {"files": self._compare})

    @override
    def mend(self, ctx: Context, *, trust: bool) -> None:
        auditing.mend(self, trust=trust)

    def _compare(self) -> list[Finding]:
        """All that a sweep mends; twice looked at, the order of reading does not matter."""
        host = self.me.host
        images = (*uploads.here(host), *uploads.never_begun())
        waiting = [row.id for row in uploads.objects_here(host)] + [row.id for row in images]
        waiting += uploads.parts_here(host)
        pictures, objects = uploads.whole_images(host), uploads.whole_objects(host)
        names = store.names()
        sizes = store.sizes([row.file for row in pictures] + [file for _, file, _ in objects])
        return [
            *comparing.cut_off(waiting, self.receiving),
            *comparing.images(pictures, sizes),
            *comparing.lost(objects, sizes),
            *_orphans(names),
        ]

    def _give_up_uploads(self) -> None:
        # rows first, then who is here: an upload is in `receiving` before it claims its row
        objects = [row.id for row in uploads.objects_here(self.me.host)]
        for finding in comparing.cut_off(objects, self.receiving):
            uploads.give_up_object(_context(), finding.id, "the upload was cut off")
        parts = comparing.cut_off(uploads.parts_here(self.me.host), self.receiving)
        if parts:
            uploads.forget_parts(self.me.host, [finding.id for finding in parts])
        images = [row.id for row in uploads.here(self.me.host)]
        for finding in comparing.cut_off(images, self.receiving):
            uploads.give_up(_context(), finding.id, "the upload was cut off")

    def _see(self) -> None:
        """Read the rows, then the disk, then swap with the generation read first."""
        rows = {row.id: row for row in uploads.whole_images(self.me.host)}
        sizes = store.sizes(row.file for row in rows.values())
        for finding in comparing.images(rows.values(), sizes):
            try:
                uploads.report(self.me, rows[finding.id], **finding.facts)
                LOG.warning("%s: now %s", finding.what, finding.facts["state"])
            except errors.WrongState:
                LOG.debug("image %s moved meanwhile", finding.id)

    def _remove_orphans(self) -> None:
        names = store.names()
        found = _orphans(names)
        if not self.still_trusted():
            return
        for finding in found[: max(3, len(names) // 20)]:
            LOG.warning("no row names the file %s: removed", finding.id)
            store.remove(finding.id)


def _orphans(names: list[str]) -> list[Finding]:
    """Files first, then rows: a file whose row was committed before it is never an orphan."""
    return comparing.orphans(uploads.orphans([one for one in names if OURS.fullmatch(one)]))


def _context() -> Context:
    return Context(context.new_request_id())
