"""APPLY for volumes: their bytes, and their exports to whoever they are attached to."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection
from typing import Any

from oslo_config import cfg
from typing_extensions import override

from minicloud import auditing, config, errors, interfaces, states, work
from minicloud.auth import secrets
from minicloud.checkpoint import checkpoint
from minicloud.context import Context
from minicloud.db import hosts, models, volumes
from minicloud.db.session import Tx, reading, transaction
from minicloud.findings import Finding
from minicloud.volume import comparing
from minicloud.volume import driver as drivers
from minicloud.work import applies, finishes

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "volume",
    [
        cfg.IntOpt(
            "cleanup_limit",
            default=3,
            min=0,
            help="Volumes without a row that one sweep puts aside at most (or 5 % of the host's,"
            " if that is more).",
        )
    ],
)


class Manager(interfaces.Volume):
    """One per volume host."""

    protocol = interfaces.Volume
    me: states.Daemon
    work: Any
    trusted = True
    still_trusted: Callable[[], bool]

    def __init__(self, store: drivers.Store, exports: drivers.Exports) -> None:
        self.store = store
        self.exports = exports
        self._served: dict[str, str] = {}  # export → volume, of what this process exports

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Every export is made anew, whatever `applied` says: the server may have forgotten."""
        self.store.prepare()
        self.exports.ping()
        self._apply_all()

    def let_go(self, host: str, *, everything: bool) -> None:
        """Nobody can enter a volume from here whose row gives it to another host, to none or to
        the past, nor by an export that no attachment names; with `everything` none at all.  The
        bytes of the former are put aside for a day."""
        self.store.prepare()
        present, exported = self.store.volumes(), self.exports.present()
        foreign, named = _foreign(host, present | set(exported.values()))
        for export_id, volume_id in exported.items():
            if everything or volume_id in foreign or export_id not in named:
                self.exports.withdraw(export_id)
        for volume_id in sorted(set() if everything else foreign & present):
            LOG.warning("volume %s is no longer this host's: putting it aside", volume_id)
            self.store.delete(volume_id, keep=True)

    def alive(self) -> dict[str, Any]:
        """A server that was killed and started knows no exports: it gets them back at the next
        heartbeat, not only at the next sweep."""
        self.exports.ping()
        lost = set(self._served) - {id for id, file in self.exports.present().items() if file}
        # the apply puts back what rows name
        for volume_id in {self._served.pop(id, None) for id in lost} - {None}:
            LOG.warning("the export of volume %s is gone: making it anew", volume_id)
            self.apply_exports(Context("heartbeat"), str(volume_id))
        return {"disk_gib": self.store.total_gib()}

    @override
    def ping(self, ctx: Context) -> dict[str, Any]:
        return work.pong(self.me)

    # --- verbs --------------------------------------------------------------------------------

    @override
    @finishes(states.VOLUME, "creating")
    def create_volume(self, ctx: Context, volume: models.Volume) -> dict[str, Any]:
        """The volume's bytes have a place here."""
        self.store.create(volume.id, volume.size_gib)
        checkpoint("create_volume.made")
        return {"portal": self.exports.portal}

    @override
    @finishes(states.VOLUME, "deleting")
    def delete_volume(self, ctx: Context, volume: models.Volume) -> None:
        """Nobody can enter the volume, and then its bytes are gone."""
        self._withdraw(volume.id)
        checkpoint("delete_volume.withdrawn")
        self.store.delete(volume.id)

    @override
    @applies(models.Volume)
    def apply_exports(self, id: str) -> None:
        """The volume is exported to those its attachments name; what is detached is not.

        A database that may be older than an attachment says nothing against its export until
        somebody asks for a change of the volume: the guest goes on.
        """
        found = _read(self.me.host, id)
        if found is None:
            return
        wanted, exports = found
        checkpoint("apply_exports.read")
        for export in exports:
            self.exports.serve(export)
            self._served[export.id] = id
            checkpoint("apply_exports.served")
        named = {export.id for export in exports}
        self._withdraw(id, named, lambda: self.still_trusted() or _asked(self.me, id, wanted))
        checkpoint("apply_exports.withdrawn")
        _store(self.me, id, wanted, self.exports.portal)

    @override
    def audit(self, ctx: Context) -> dict[str, Any]:
        return auditing.answer(self, {"volumes": self._compare})

    @override
    def mend(self, ctx: Context, *, trust: bool) -> None:
        auditing.mend(self, trust=trust)

    def found(self, machine: states.Machine, row: Any) -> str:
        return "available" if row.id in self.store.volumes() else "error"

    # --- the host ---------------------------------------------------------------------------

    def sweep(self) -> None:
        """Rows follow the files; exports follow the rows; what no row names goes."""
        present, exported = self.store.volumes(), self.exports.present()
        rows = {row.id: row for row in _mine(self.me.host)}
        self._see(rows)
        self._apply_all()
        stray = comparing.stray_exports(exported, _live(self.me.host))
        if not self.still_trusted():
            return
        for finding in stray:
            if exported[finding.id] not in rows:  # else its volume's apply withdraws it
                LOG.warning("%s: withdrawing it", finding.what)
                self.exports.withdraw(finding.id)
        self._clean(present, set(rows))
        self.store.empty_trash()

    def _apply_all(self) -> None:
        for id in _exported(self.me.host, sorted(set(self.exports.present().values()))):
            self.apply_exports(Context("sweep"), id)

    def _withdraw(
        self, volume_id: str, named: Collection[str] = (), may: Callable[[], bool] = lambda: True
    ) -> None:
        """The volume has no exports but the named, if it `may` be so."""
        present = self.exports.present().items()
        stray = [one for one, exported in present if exported == volume_id and one not in named]
        for export_id in stray if stray and may() else ():
            self._served.pop(export_id, None)
            self.exports.withdraw(export_id)

    def _compare(self) -> list[Finding]:
        """All that a sweep mends; twice looked at, the order of reading does not matter."""
        present, exported = self.store.volumes(), self.exports.present()
        rows, live = _mine(self.me.host), _live(self.me.host)
        return [
            *comparing.orphans(present, {row.id for row in rows}),
            *comparing.differing(rows, present),
            *comparing.stray_exports(exported, live),
            *comparing.missing_exports(exported, live, _applied(self.me)),
        ]

    def _see(self, rows: dict[str, models.Volume]) -> None:
        """The rows were read before the disk is looked at."""
        for finding in comparing.differing(rows.values(), self.store.volumes()):
            try:
                _report(self.me, rows[finding.id], **finding.facts)
                LOG.warning("%s: now %s", finding.what, finding.facts["state"])
            except errors.WrongState:
                LOG.debug("volume %s moved meanwhile", finding.id)

    def _clean(self, present: set[str], rows: set[str]) -> None:
        """`present` was listed before the rows were read."""
        limit = max(CONF.cleanup_limit, len(present) // 20)
        for finding in comparing.orphans(present, rows)[:limit]:
            LOG.warning("%s: putting it aside", finding.what)
            job = functools.partial(self._put_aside, finding.id)
            self.work.add(finding.id, "orphan", job, "ending")

    def _put_aside(self, id: str) -> None:
        if id in {row.id for row in _mine(self.me.host)} or not self.still_trusted():
            return
        self._withdraw(id)
        self.store.delete(id, keep=True)


@reading
def _mine(tx: Tx, host: str) -> list[models.Volume]:
    return volumes.of_host(tx, host)


@reading
def _live(tx: Tx, host: str) -> list[models.Attachment]:
    """The attachments of this host's volumes that are not detached."""
    return volumes.of_volumes(tx, [row.id for row in volumes.of_host(tx, host)])


@reading
def _applied(tx: Tx, me: states.Daemon) -> dict[str, int]:
    return hosts.all_applied(tx, me.id)


@reading
def _foreign(tx: Tx, host: str, ids: Collection[str]) -> tuple[set[str], set[str]]:
    """Those of these volumes that are not this host's, and the exports of all of them."""
    named = {one.export_id for one in volumes.of_volumes(tx, sorted(ids))}
    return volumes.foreign(tx, host, ids), named


@reading
def _exported(tx: Tx, host: str, present: list[str]) -> list[str]:
    """The volumes of this host that are, or shall be, exported."""
    mine = [row.id for row in volumes.of_host(tx, host)]
    wanted = {row.volume_id for row in volumes.of_volumes(tx, mine)}
    return sorted(wanted | (set(present) & set(mine)))


@reading
def _read(tx: Tx, host: str, id: str) -> tuple[int, list[drivers.Export]] | None:
    """`wanted` first, then the data: what is stored as applied was certainly read."""
    row = tx.get(models.Volume, id)
    if row is None or row.host != host:
        return None
    wanted = row.wanted
    return wanted, [
        drivers.Export(one.export_id, id, one.export_id, secrets.decrypt(one.secret))
        for one in volumes.of_volumes(tx, [id])
    ]


@reading
def _asked(tx: Tx, me: states.Daemon, id: str, wanted: int) -> bool:
    never = 1  # what `wanted` is before the first change
    return max(never, hosts.applied(tx, me.id, id)) < wanted


@transaction
def _store(tx: Tx, me: states.Daemon, id: str, wanted: int, portal: str) -> None:
    if not hosts.is_there(tx, models.Volume, id):
        return
    volumes.store_portal(tx, id, portal)
    me.require(tx)
    row = tx.get_one(models.Volume, id)  # of a restored database's changes none was applied yet
    hosts.store_applied(tx, me.id, id, min(wanted, row.wanted))


@transaction
def _report(tx: Tx, me: states.Daemon, row: models.Volume, state: str, reason: str) -> None:
    states.move(tx, states.VOLUME, row, state, me, reason=reason or None)
