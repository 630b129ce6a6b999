"""APPLY for instances: build, start, stop, reboot, terminate; and the sweep that compares the
host's domains with the rows."""

from __future__ import annotations

import base64
import functools
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from oslo_config import cfg
from typing_extensions import override

from minicloud import (
    auditing,
    config,
    errors,
    findings,
    ids,
    interfaces,
    states,
    work,
)
from minicloud.auth import secrets
from minicloud.checkpoint import checkpoint
from minicloud.compute import comparing
from minicloud.compute import driver as drivers
from minicloud.context import Context
from minicloud.db import addresses, groups, guests, hosts, models, volumes
from minicloud.db.session import Tx, reading, transaction
from minicloud.findings import Finding
from minicloud.wiring import links, links_of
from minicloud.work import applies, finishes

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "compute",
    [
        cfg.StrOpt(
            "connection_type",
            default="libvirt",
            choices=["libvirt", "simulated"],
            help="Which hypervisor starts the guests.",
        ),
        cfg.StrOpt(
            "instances_path",
            default="$state_path/instances",
            help="Directory of the guests' disks, console logs and cached images.",
        ),
        cfg.IntOpt(
            "reserved_memory_mib",
            default=512,
            min=0,
            help="MiB of the host's memory that no guest gets.",
        ),
        cfg.IntOpt(
            "cleanup_limit",
            default=3,
            min=0,
            help="Guests without a row that one sweep removes at most (or 5 % of the host's, if"
            " that is more); the rest waits for the next sweep.",
        ),
    ],
)


class Manager(interfaces.Compute):
    """One per compute host.  `driver` is the hypervisor; `wired` says that bridges are real."""

    protocol = interfaces.Compute
    me: states.Daemon
    work: Any
    trusted = True
    still_trusted: Callable[[], bool]
    host_booted = False  # the host booted since its last heartbeat: its guests are off

    def __init__(self, hypervisor: drivers.Hypervisor, wired: bool) -> None:
        self.driver = hypervisor
        self.wired = wired
        self._firewall = threading.Lock()
        self._asked = 0  # how often the packet filter was to be made true
        self._served = 0  # how many of these asks are answered
        self._listed: frozenset[drivers.Port] = frozenset()  # the ports in the packet filter
        self._known: dict[str, int] = {}  # groups the packet filter may know; how far applied
        self._gone: set[str] = set()  # destroyed, though their rows have not said so yet
        self._capacity: dict[str, Any] = {}

    # --- life -------------------------------------------------------------------------------

    def start(self) -> None:
        """The hypervisor answers; the packet filter is whole before any guest is touched."""
        self.driver.connect()
        found = self.driver.resources()
        self._capacity = {
            "vcpus": found.vcpus,
            "memory_mib": max(0, found.memory_mib - CONF.reserved_memory_mib),
            "disk_gib": found.disk_gib,
            "hypervisor": found.hypervisor,
        }
        self._known = _known_groups(self.me.id)
        self._protect(complete=True)

    def let_go(self, host: str, *, everything: bool) -> None:
        """No guest is here that a row gives to another host, to none or to the past: those are
        off and their disks put aside for a day.  With `everything` none is that any row has: the
        host's name is another machine's.  What no row has is the sweep's."""
        self.driver.connect()
        present = self.driver.inventory().guests  # the host first, then the rows
        for id in sorted(_foreign(host, present, everything)):
            LOG.warning("instance %s is no longer this host's: removing it", id)
            self.driver.destroy(id, keep_disk=True)

    def alive(self) -> dict[str, Any]:
        self.driver.ping()
        return self._capacity

    @override
    def ping(self, ctx: Context) -> dict[str, Any]:
        return work.pong(self.me)

    # --- verbs --------------------------------------------------------------------------------

    @override
    @finishes(states.INSTANCE, "building")
    def build_instance(self, ctx: Context, instance: models.Instance) -> None:
        """Make the instance's domain exist and run; repeating it changes nothing.

        One that comes from a fenced host stopped is off here too.  Takes 1-300 s: the first use
        of an image on a host downloads it.  TryLater while the network's host has not made the
        address ready, or a volume's host still exports it to the host before.
        """
        check = work.checker(self, states.INSTANCE, instance)
        guest, networks, exports = self._guest(instance)
        self._plug(networks)
        checkpoint("build_instance.linked")
        # a filter that lists its ports was read after its rows were written
        if not self._listed.issuperset(guest.ports):
            self._protect(complete=False)
        checkpoint("build_instance.protected")
        for network, since in networks:
            work.wait_applied(
                self, models.Network, network.id, "network", network.host, since, check
            )
        checkpoint("build_instance.addressed")
        if instance.rest == "stopped":
            check()
            self.driver.define(guest, check)
            return
        _wait_exported(self, exports, check)
        checkpoint("build_instance.exported")
        check()
        self.driver.spawn(guest, check)

    @override
    @finishes(states.INSTANCE, "starting")
    def start_instance(self, ctx: Context, instance: models.Instance) -> None:
        """The domain runs, its disk as it was."""
        check = work.checker(self, states.INSTANCE, instance)
        guest, networks, exports = self._guest(instance)
        self._plug(networks)
        checkpoint("start_instance.linked")
        self._protect(complete=False)
        checkpoint("start_instance.protected")
        _wait_exported(self, exports, check)
        self.driver.start(guest, check)

    @override
    @finishes(states.INSTANCE, "stopping")
    def stop_instance(self, ctx: Context, instance: models.Instance) -> None:
        """The domain is off; a guest that does not listen is switched off after a while."""
        guest, _, _ = self._guest(instance)
        self.driver.stop(guest, work.checker(self, states.INSTANCE, instance))

    @override
    @finishes(states.INSTANCE, "rebooting")
    def reboot_instance(self, ctx: Context, instance: models.Instance) -> None:
        """The domain was started anew, once for this request."""
        check = work.checker(self, states.INSTANCE, instance)
        guest, networks, exports = self._guest(instance)
        self._plug(networks)
        checkpoint("reboot_instance.linked")
        self._protect(complete=False)
        checkpoint("reboot_instance.protected")
        _wait_exported(self, exports, check)
        self.driver.reboot(guest, check)

    @override
    @finishes(states.INSTANCE, "terminating")
    def terminate_instance(self, ctx: Context, instance: models.Instance) -> None:
        """Nothing of the instance is left on this host; only then are its bookings given back."""
        self.driver.destroy(instance.id)
        checkpoint("terminate_instance.destroyed")
        self._gone.add(instance.id)
        self._protect(complete=False)
        checkpoint("terminate_instance.unprotected")

    @override
    @finishes(states.ATTACHMENT, "attaching")
    def attach_volume(self, ctx: Context, attachment: models.Attachment) -> None:
        """The guest has the volume as a disk, or finds it at its next start.

        TryLater while the volume's host has not exported it.
        """
        check = work.checker(self, states.ATTACHMENT, attachment)
        volume, state = _volume_of(attachment)
        if state in ENDING:
            raise errors.Final(reason=f"the instance is {state}")
        since = attachment.since
        work.wait_applied(self, models.Volume, volume.id, "volume", volume.host, since, check)
        checkpoint("attach_volume.exported")
        check()
        disk = _network_disk(attachment, _volume_of(attachment)[0])
        self.driver.attach(attachment.instance_id, disk)

    @override
    @finishes(states.ATTACHMENT, "detaching")
    def detach_volume(self, ctx: Context, attachment: models.Attachment) -> None:
        """The guest has no such disk; only then is the volume given back.

        Terminating is quicker: while that is asked, the guest is not asked to let go of it.
        """
        moved = work.checker(self, states.ATTACHMENT, attachment)

        def check() -> None:
            moved()
            state = _volume_of(attachment)[1]
            if state in ENDING:
                raise errors.TryLater(reason=f"the instance is {state}")

        check()
        export = attachment.export_id
        self.driver.detach(attachment.instance_id, attachment.device, export, check)

    @override
    def console_output(self, ctx: Context, *, id: str, max_bytes: int) -> str:
        tail = self.driver.console(id, min(max_bytes, 1 << 20))
        return base64.b64encode(tail).decode()

    @override
    @applies(models.SecurityGroup)
    def apply_group(self, id: str) -> None:
        """The host's packet filter is as the rows of the group and of all others say."""
        self._protect(complete=False)
        checkpoint("apply_group.protected")

    @override
    def audit(self, ctx: Context) -> dict[str, Any]:
        looks = {"guests": self._compare_guests, "packet filter": self._compare_filter}
        return auditing.answer(self, looks)

    @override
    def mend(self, ctx: Context, *, trust: bool) -> None:
        auditing.mend(self, trust=trust)

    def found(self, machine: states.Machine, row: Any) -> str:
        if machine is states.ATTACHMENT:
            domain = self.driver.domains().get(row.instance_id)
            return "attached" if domain and row.device in domain.volumes else "detached"
        return comparing.shown(self.driver.domains().get(row.id))

    # --- the host ---------------------------------------------------------------------------

    def _guest(self, instance: models.Instance) -> tuple[drivers.Guest, Networks, Exports]:
        """What it is to be, as the rows say now."""
        described: tuple[drivers.Guest, Networks, Exports]
        described = self.work.together("guests", _described)(instance)
        return described

    def _plug(self, networks: list[tuple[models.Network, int]]) -> None:
        if self.wired:
            for network, _ in networks:
                links.ensure(links_of(network))

    def _protect(self, complete: bool) -> None:
        """The packet filter is as the rows said at some moment since the call: of those that wait
        here for their turn, one reads and writes for all.  `complete` looks at the host too."""
        self._asked = mine = self._asked + 1
        with self._firewall:
            if self._served >= mine and not complete:
                return
            asked = self._asked
            # read inside the lock: an older read must never be applied after a newer one
            firewall, wanted = self._read_filter()
            checkpoint("protect.read")
            self._listed = frozenset()  # until it is known to be done
            self.driver.protect(firewall, complete)
            self._listed = frozenset(one.port for one in firewall.ports)
            checkpoint("protect.protected")
            newer = {id: value for id, value in wanted.items() if self._known[id] < value}
            self._store_known(newer, self._known.keys() - wanted.keys())
            self._served = asked

    def _read_filter(self) -> tuple[drivers.Firewall, dict[str, int]]:
        """The filter, and `wanted` of each group in it: the database knows that this host knows
        them since before their members were read."""
        while True:
            firewall, wanted = _firewall(self.me.host, frozenset(self._gone))
            new = wanted.keys() - self._known.keys()
            if not new:
                return firewall, wanted
            self._store_known(dict.fromkeys(new, 0), ())

    def _store_known(self, applied: dict[str, int], forgotten: Collection[str]) -> None:
        if applied or forgotten:
            _store_groups(self.me, applied, sorted(forgotten))
            self._known.update(applied)
            for id in list(forgotten):
                del self._known[id]

    def filters(self) -> bool:
        """Whether the packet filter may know any group: what it lists keeps addresses booked."""
        return bool(self._known)

    def sweep(self) -> None:
        """Rows follow the guests that changed by themselves; what no row names is removed."""
        if gone := frozenset(self._gone):
            self._gone -= gone - _living(gone)  # the others' END is still to come
        self._protect(complete=True)
        self._see()
        self._see_volumes()
        self._clean()

    def _compare_guests(self) -> list[Finding]:
        """All that a sweep mends of guests; twice looked at, the order of reading does not
        matter."""
        host = self.me.host
        settled, attached = _settled(host), _attached(host)
        present = self.driver.inventory()
        kept = _kept(host)
        return [
            *comparing.guests(settled, present.domains, self.host_booted),
            *comparing.without_disk(settled, present.disks),
            *comparing.lost_disks(attached, present.domains),
            *comparing.astray(_of_the_gone(host)),
            *_cleared(present, kept),
            *comparing.parts(present),
        ]

    def _compare_filter(self) -> list[Finding]:
        with self._firewall:
            wanted, _ = _firewall(self.me.host, frozenset(self._gone))
            return comparing.packet_filter(self.driver.differences(wanted), self.me.host)

    def _see(self) -> None:
        """Read the row, then the host, then swap with the generation read first."""
        rows = {row.id: row for row in _settled(self.me.host)}
        for finding in comparing.guests(rows.values(), self.driver.domains(), self.host_booted):
            try:
                _report(self.me, rows[finding.id], **finding.facts)
                LOG.warning("%s: now %s", finding.what, finding.facts["state"])
            except errors.WrongState:
                LOG.debug("instance %s moved meanwhile", finding.id)

    def _see_volumes(self) -> None:
        """What is said to be attached to a running guest is in it."""
        attached, gone = _attached(self.me.host), _of_the_gone(self.me.host)
        rows = {row.id: row for row in (*attached, *gone)}
        domains = self.driver.domains() if attached else {}
        for finding in (*comparing.lost_disks(attached, domains), *comparing.astray(gone)):
            try:
                _lost(self.me, rows[finding.id], finding.facts["reason"])
                LOG.warning("%s: detached", finding.what)
            except errors.WrongState:
                LOG.debug("attachment %s moved meanwhile", finding.id)

    def _clean(self) -> None:
        """List the host first, then read the rows, then ask whether they are to be trusted."""
        present = self.driver.inventory()
        kept = _kept(self.me.host)
        if not self.still_trusted():
            return
        limit = max(CONF.cleanup_limit, len(present.guests) // 20)
        taps = []
        for finding in _cleared(present, kept):
            if finding.kind == findings.TAP_WITHOUT_GUEST:
                taps.append(finding.id)
            elif finding.kind == findings.DISK_WITHOUT_ROW:
                letter = finding.facts["letter"]
                job = functools.partial(self._let_go, finding.id, letter)
                self.work.add(finding.id, f"disk {letter}", job, "ending")
            elif limit > 0:
                limit -= 1
                job = functools.partial(self._remove, finding.id)
                self.work.add(finding.id, "orphan", job, "ending")
            else:
                LOG.warning("%s: not removed now, there are too many", finding.what)
                continue
            LOG.warning("%s: removing it", finding.what)
        self.driver.tidy(present.images - kept.images, taps)

    def _remove(self, id: str) -> None:
        if id in _kept(self.me.host).guests or not self.still_trusted():
            return
        try:
            self.driver.destroy(id, keep_disk=True)
        except errors.Error as error:
            LOG.warning("leftovers of %s stay for now: %s", id, error)

    def _let_go(self, id: str, letter: str) -> None:
        kept = _kept(self.me.host)
        if id not in kept.guests or (id, letter) in kept.disks or not self.still_trusted():
            return
        try:
            self.driver.detach(id, letter, _last_export(id, letter), lambda: None)
        except errors.Error as error:
            LOG.warning("disk %s of %s stays for now: %s", letter, id, error)


def _cleared(present: drivers.Inventory, kept: guests.Kept) -> list[Finding]:
    """What the host has and no row: the host was listed before the rows were read."""
    return [
        *comparing.orphans(present, kept.guests),
        *comparing.stray_disks(present.domains, kept.guests, kept.disks),
        *comparing.loose_taps(present, kept.taps),
    ]


ENDING = frozenset({"terminating", "terminated"})


@reading
def _volume_of(tx: Tx, attachment: models.Attachment) -> tuple[models.Volume, str]:
    """The attachment's volume as it is now, and the state of its instance."""
    return volumes.sides(tx, attachment)


def _network_disk(attachment: models.Attachment, volume: models.Volume) -> drivers.NetworkDisk:
    return drivers.NetworkDisk(
        volume_id=volume.id,
        export_id=attachment.export_id,
        letter=attachment.device,
        serial=ids.ec2("vol", volume.id).replace("-", ""),  # as AWS shows it to a guest
        portal=volume.portal or "",
        target=ids.iqn(config.CONF.tag, attachment.export_id),
        user=attachment.export_id,
        password=secrets.decrypt(attachment.secret),
    )


@reading
def _living(tx: Tx, ids: Collection[str]) -> set[str]:
    return guests.living(tx, ids)


@reading
def _attached(tx: Tx, host: str) -> list[models.Attachment]:
    return volumes.attached_at_host(tx, host)


@reading
def _of_the_gone(tx: Tx, host: str) -> list[models.Attachment]:
    return volumes.of_the_gone(tx, host)


@transaction
def _lost(tx: Tx, me: states.Daemon, row: models.Attachment, reason: str) -> None:
    states.move(tx, states.ATTACHMENT, row, "detached", me, reason=reason)


Networks = list[tuple[models.Network, int]]  # each with its booking's `since`
Exports = list[tuple[models.Volume, int]]  # each with its attachment's `since`


def _wait_exported(manager: Manager, exports: Exports, check: drivers.Check) -> None:
    """Return when each volume can be entered from here, and from nowhere else."""
    for volume, since in exports:
        work.wait_applied(manager, models.Volume, volume.id, "volume", volume.host, since, check)


@reading
def _described(
    tx: Tx, instances: Sequence[models.Instance]
) -> list[tuple[drivers.Guest, Networks, Exports]]:
    """What each is to be; ImageBroken when the image of one is not there."""
    all_ids = [instance.id for instance in instances]
    bookings, attached = guests.bookings(tx, all_ids), volumes.attached(tx, all_ids)
    booted = [id for one in instances for id in (one.image_id, one.kernel_id, one.ramdisk_id)]
    images = guests.images(tx, sorted({id for id in booted if id}))
    return [_guest(one, bookings[one.id], attached[one.id], images) for one in instances]


def _guest(
    instance: models.Instance,
    bookings: Sequence[tuple[models.Address, models.Network]],
    attached: Sequence[tuple[models.Attachment, models.Volume]],
    images: dict[str, models.Image],
) -> tuple[drivers.Guest, Networks, Exports]:
    guest = drivers.Guest(
        id=instance.id,
        ec2_id=ids.ec2("i", instance.id),
        name=instance.name,
        hostname=instance.hostname,
        project_id=instance.project_id,
        generation=instance.generation,
        vcpus=instance.vcpus,
        memory_mib=instance.memory_mib,
        disk_gib=instance.disk_gib,
        image=_boot_image(images, instance.image_id),
        kernel=_boot_image(images, instance.kernel_id) if instance.kernel_id else None,
        ramdisk=_boot_image(images, instance.ramdisk_id) if instance.ramdisk_id else None,
        ports=tuple(_port(booking, network) for booking, network in bookings),
        volumes=tuple(_network_disk(*both) for both in attached),
        # what is built, also in place of one that was lost with its host, has none yet
        has_disk=instance.rest is not None and instance.state != "building",
    )
    networks = [(network, booking.since) for booking, network in bookings]
    return guest, networks, [(volume, attachment.since) for attachment, volume in attached]


def _boot_image(images: dict[str, models.Image], id: str) -> drivers.BootImage:
    image = images.get(id)
    if image is None or image.sha256 is None:
        raise errors.ImageBroken(id=id, reason="it is not there")
    return drivers.BootImage(
        id=image.id,
        size=image.size or 0,
        sha256=image.sha256,
        format=image.format or "raw",
        virtual_size=image.virtual_size or image.size or 0,
    )


def _port(booking: Any, network: models.Network) -> drivers.Port:
    return drivers.Port(
        tap=booking.tap,
        mac=booking.mac,
        address=booking.address,
        bridge=links_of(network)[0].name,
        mtu=network.mtu,
        gateway=network.gateway,
    )


@reading
def _firewall(tx: Tx, host: str, gone: Collection[str]) -> tuple[drivers.Firewall, dict[str, int]]:
    """One complete read, with `wanted` of every group in it: a filter made of two moments could
    be open for neither."""
    found = guests.filtered(tx, host)
    if not found.ports and not found.groups:
        return drivers.Firewall(ports=[], groups={}, members={}), {}
    groups_of = {id: mine for id, mine in found.groups.items() if id not in gone}
    used = sorted({group for mine in groups_of.values() for group in mine})
    rules = guests.rules(tx, used)
    sources = sorted(
        {rule.source_group_id for each in rules.values() for rule in each if rule.source_group_id}
    )
    wanted = guests.wanted_groups(tx, sorted({*used, *sources}))
    firewall = drivers.Firewall(
        ports=[
            drivers.FirewallPort(
                _port(row, found.networks[row.network_id]), tuple(groups_of.get(row.id, ()))
            )
            for row in found.ports
            if row.id not in gone
        ],
        groups={
            id: [
                drivers.FirewallRule(
                    rule.protocol,
                    rule.from_port,
                    rule.to_port,
                    rule.cidr,
                    rule.source_group_id,
                )
                for rule in each
            ]
            for id, each in rules.items()
        },
        members=guests.members(tx, sources),
    )
    return firewall, wanted


@reading
def _known_groups(tx: Tx, id: str) -> dict[str, int]:
    return hosts.all_applied(tx, id)


@transaction
def _store_groups(
    tx: Tx, me: states.Daemon, applied: dict[str, int], forgotten: list[str]
) -> None:
    me.require(tx)
    groups.store_known(tx, me.id, applied, forgotten)
    addresses.forget_left(tx, group_ids=[*applied, *forgotten])


@reading
def _foreign(tx: Tx, host: str, present: Collection[str], everything: bool) -> set[str]:
    return guests.foreign(tx, host, present, everything)


@reading
def _settled(tx: Tx, host: str) -> list[models.Instance]:
    return [row for row in guests.of_host(tx, host) if row.state in states.INSTANCE.settled]


@transaction
def _report(tx: Tx, me: states.Daemon, row: models.Instance, state: str, reason: str) -> None:
    states.move(tx, states.INSTANCE, row, state, me, reason=reason or None)


@reading
def _kept(tx: Tx, host: str) -> guests.Kept:
    return guests.kept(tx, host)


@reading
def _last_export(tx: Tx, instance_id: str, letter: str) -> str:
    """Whose disk it was; an id of nobody when no row remembers."""
    return volumes.last_at(tx, instance_id, letter) or ids.new()
