"""The hypervisor of real guests: libvirt, QEMU, files and packet filter of one host, as one.

After any error of libvirt the domain is looked up again: the error does not say whether the guest
runs.  Domains are defined first and then started, so that a start that failed stays visible and
is tried again; libvirt starts none by itself.
"""

from __future__ import annotations

import logging
import pathlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from oslo_config import cfg
from typing_extensions import override

from minicloud import concurrency, config, errors, ids
from minicloud.checkpoint import checkpoint
from minicloud.compute import driver, images
from minicloud.compute.driver import (
    Check,
    Domain,
    Firewall,
    Guest,
    Inventory,
    NetworkDisk,
    Resources,
)
from minicloud.compute.libvirt import disks, domain_xml, firewall, ports

if TYPE_CHECKING:
    from minicloud.compute.libvirt import connection

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "libvirt",
    [
        cfg.StrOpt(
            "virt_type",
            default="qemu",
            choices=["qemu", "kvm"],
            help="How guests are run: emulated (qemu), or by the host's CPU (kvm).",
        ),
        cfg.StrOpt(
            "uri",
            default="qemu+unix:///system?socket=$state_path/libvirt/run/libvirt-sock",
            help="Where this cloud's own libvirtd listens.",
        ),
        cfg.StrOpt(
            "log_path",
            default="$state_path/libvirt/log/qemu",
            help="Where this cloud's own libvirtd keeps a log for each guest's QEMU; it goes with"
            " the guest.",
        ),
        cfg.IntOpt(
            "shutdown_timeout_s",
            default=60,
            min=0,
            help="Seconds a guest has to turn itself off when it is stopped or rebooted, before"
            " it is turned off by force; 0 does not ask it at all.",
        ),
    ],
)

POLL_S = 0.5
ASK_AGAIN_S = 5.0  # a guest that is still booting misses the first request
SETTLE_S = 60.0  # a domain is shown as starting no longer than this, however busy the host is
OFF_S = 60.0
DETACH_S = 30.0


class Libvirt(driver.Hypervisor):
    """`cloud_id` is asked for in `connect`: it is in the database, which may not be there yet.

    `instances` is a directory of the group libvirt-qemu with the setgid bit (see disks.py);
    `logs` is where virtlogd, which runs as our user, writes what QEMU says.
    """

    def __init__(
        self,
        *,
        tag: str,
        cloud_id: Callable[[], str],
        instances: pathlib.Path,
        logs: pathlib.Path,
        uri: str,
        virt_type: str,
        fetch: disks.Fetch = images.fetch,
    ) -> None:
        from minicloud.compute.libvirt import connection  # needs libvirt, the options do not

        self._tag = tag
        self._ask_cloud_id = cloud_id
        self._cloud_id = ""
        self._virt_type = virt_type
        self._logs = logs
        self._libvirt = connection.Connection(uri)
        self._disks = disks.Disks(instances, fetch)
        self._filter = firewall.Filter(tag)

    @classmethod
    def from_options(cls, cloud_id: Callable[[], str]) -> Libvirt:
        """The hypervisor the configuration describes."""
        return cls(
            tag=config.CONF.tag,
            cloud_id=cloud_id,
            instances=pathlib.Path(config.CONF.compute.instances_path),
            logs=pathlib.Path(CONF.log_path),
            uri=CONF.uri,
            virt_type=CONF.virt_type,
        )

    @override
    def connect(self) -> None:
        self._cloud_id = self._ask_cloud_id()
        self._filter.require()
        self._disks.prepare()
        found = self._libvirt.node(self._virt_type)
        LOG.info("libvirt with QEMU %s, guests by %s", found.qemu, self._virt_type)

    @override
    def ping(self) -> None:
        self._libvirt.alive()

    @override
    def resources(self) -> Resources:
        node = self._libvirt.node(self._virt_type)
        return Resources(
            vcpus=node.vcpus,
            memory_mib=node.memory_mib,
            disk_gib=self._disks.total_gib(),
            hypervisor=f"libvirt {self._virt_type} {node.qemu}",
        )

    @override
    def spawn(self, guest: Guest, check: Check) -> None:
        found = self._settled(guest.id, check)
        if _started(found, guest):
            return
        if _active(found):
            self._force_off(guest.id)
        self._boot(guest, check)

    @override
    def define(self, guest: Guest, check: Check) -> None:
        if self._settled(guest.id, check) is None:
            self._define(guest, check)

    @override
    def start(self, guest: Guest, check: Check) -> None:
        found = self._settled(guest.id, check)
        if found is None or found.state != "running":
            self.spawn(guest, check)

    @override
    def stop(self, guest: Guest, check: Check) -> None:
        if _active(self._settled(guest.id, check)):
            self._turn_off(guest.id, check)

    @override
    def reboot(self, guest: Guest, check: Check) -> None:
        found = self._settled(guest.id, check)
        if _started(found, guest):
            return
        if _active(found):
            self._turn_off(guest.id, check)
        self._boot(guest, check)

    @override
    def destroy(self, id: str, *, keep_disk: bool = False) -> None:
        found = self._settled(id, _no_check)
        if found is not None:
            self._force_off(id)
            ports.remove(found.taps)  # while the domain still knows their names, and its secrets'
            for secret in found.secrets:
                self._libvirt.forget_secret(secret)
            self._libvirt.undefine(id)
        checkpoint("destroy.domain_gone")
        if keep_disk:
            self._disks.set_aside(id)
        self._disks.remove(id)
        for log in self._logs.glob(f"{domain_xml.name(self._tag, ids.ec2('i', id))}.log*"):
            log.unlink(missing_ok=True)
        checkpoint("destroy.files_gone")

    @override
    def attach(self, id: str, disk: NetworkDisk) -> None:
        found = self._settled(id, _no_check)
        if not _active(found) or (found is not None and disk.letter in found.volumes):
            return
        self._libvirt.set_secret(domain_xml.volume_secret(disk), disk.password)
        try:
            self._libvirt.attach(id, domain_xml.volume(disk))
        except errors.CommandFailed as error:
            found = self._libvirt.domain(id)
            if found is None or disk.letter not in found.volumes:
                self._libvirt.forget_secret(disk.export_id)
                raise _server_away(error) from None
        checkpoint("attach.attached")

    @override
    def detach(self, id: str, letter: str, export_id: str, check: Check) -> None:
        until, ask = time.monotonic() + DETACH_S, 0.0
        while (found := self._libvirt.domain(id)) is not None and letter in found.volumes:
            now = time.monotonic()
            if not _active(found):
                break
            if now > until:
                raise errors.CommandFailed(
                    command="detach", status="no end in time", stderr="the guest keeps the disk"
                )
            if now >= ask:
                try:
                    self._libvirt.ask_detach(id, letter)
                except errors.CommandFailed as error:  # it was asked already: QEMU says so
                    LOG.info("%s: %s", id, error)
                ask = now + ASK_AGAIN_S
            concurrency.sleep(POLL_S / 5)
            check()
        self._libvirt.forget_secret(export_id)
        checkpoint("detach.detached")

    @override
    def domains(self) -> dict[str, Domain]:
        return {found.id: _shown(found) for found in self._ours().values()}

    @override
    def inventory(self) -> Inventory:
        cards = ports.present(self._tag)  # before the domains: a guest that starts has both
        ours = self._ours()
        return Inventory(
            domains={id: _shown(found) for id, found in ours.items()},
            files=frozenset(self._disks.instances()),
            disks=frozenset(self._disks.with_disk()),
            images=frozenset(self._disks.images()),
            taps=frozenset(cards - {tap for found in ours.values() for tap in found.taps}),
            parts=self._disks.left(),
        )

    @override
    def console(self, id: str, max_bytes: int) -> bytes:
        return self._disks.tail(id, max_bytes)

    @override
    def protect(self, firewall: Firewall, complete: bool) -> None:
        self._filter.apply(firewall, complete=complete)

    @override
    def differences(self, firewall: Firewall) -> tuple[str, ...]:
        return self._filter.differences(firewall)

    @override
    def tidy(self, images: Collection[str], taps: Sequence[str]) -> None:
        ports.remove(taps)
        self._disks.forget(images)
        self._disks.remove_left()
        self._disks.empty_trash()

    # --- starting ---------------------------------------------------------------------------

    def _boot(self, guest: Guest, check: Check) -> None:
        """A domain that is off, or not there yet, runs with the guest's generation."""
        self._define(guest, check)
        for disk in guest.volumes:
            self._libvirt.set_secret(domain_xml.volume_secret(disk), disk.password)
        check()
        try:
            self._libvirt.start(guest.id)
        except errors.Error as error:
            if not _started(self._settled(guest.id, check), guest):
                raise _server_away(error) from None
            LOG.warning("%s runs in spite of: %s", guest.id, error)
        checkpoint("spawn.domain_started")

    def _define(self, guest: Guest, check: Check) -> None:
        """The next start of the domain is as `guest` says, with the disk it has or, if it never
        had one, a new one."""
        self._disks.require(guest)
        with self._disks.cached(guest, check):
            checkpoint("spawn.image_cached")
            self._disks.ensure_overlay(guest)
        checkpoint("spawn.disk_made")
        check()
        self._require_filter(guest)
        self._libvirt.define(self._xml(guest))
        checkpoint("spawn.domain_defined")

    def _xml(self, guest: Guest) -> str:
        base = self._disks.base
        files = domain_xml.Files(
            disk=self._disks.disk(guest.id),
            base=base(guest.image),
            console=self._disks.console(guest.id),
            kernel=base(guest.kernel) if guest.kernel else None,
            ramdisk=base(guest.ramdisk) if guest.ramdisk else None,
        )
        return domain_xml.render(
            guest, files, tag=self._tag, cloud_id=self._cloud_id, virt_type=self._virt_type
        )

    def _require_filter(self, guest: Guest) -> None:
        """Never a guest on the wire before the filter knows its ports."""
        for port in guest.ports:
            if not self._filter.knows(port.tap):
                raise errors.TryLater(reason=f"the packet filter does not know {port.tap} yet")

    # --- stopping ---------------------------------------------------------------------------

    def _turn_off(self, id: str, check: Check) -> None:
        """The domain is off: by the guest's own hand if it listens, else by force."""
        until, ask = time.monotonic() + CONF.shutdown_timeout_s, 0.0
        while (now := time.monotonic()) < until:
            found = self._libvirt.domain(id)
            if found is None or found.state != "running":
                break
            if now >= ask:
                self._libvirt.shut_down(id)
                ask = now + ASK_AGAIN_S
            concurrency.sleep(POLL_S)
            check()
        self._force_off(id)

    def _force_off(self, id: str) -> None:
        """The domain is off, and its QEMU gone; TryLater when that does not happen in time."""
        until = time.monotonic() + OFF_S
        while _active(self._libvirt.domain(id)):
            if time.monotonic() > until:
                raise errors.TryLater(reason=f"the domain of {id} does not end")
            self._libvirt.destroy(id)
            concurrency.sleep(0.1)

    # --- looking ----------------------------------------------------------------------------

    def _settled(self, id: str, check: Check) -> connection.Found | None:
        """The domain, when nobody is starting it any more.

        A libvirtd that was killed in the wrong moment shows a domain as starting for ever, though
        it has no process; its next start by our script forgets that.
        """
        until = time.monotonic() + SETTLE_S
        while (found := self._libvirt.domain(id)) is not None and found.state == "starting":
            if time.monotonic() > until:
                raise errors.TryLater(
                    reason=f"libvirtd shows {found.name} as starting, and has no process for it:"
                    " stop libvirtd and start it again"
                )
            concurrency.sleep(POLL_S)
            check()
        if found is not None and found.cloud_id != self._cloud_id:
            raise errors.Final(reason=f"the domain {found.name} belongs to another cloud")
        return found

    def _ours(self) -> Mapping[str, connection.Found]:
        found = self._libvirt.domains()
        return {each.id: each for each in found if each.cloud_id == self._cloud_id}


def _started(found: connection.Found | None, guest: Guest) -> bool:
    return found is not None and found.state == "running" and found.generation == guest.generation


def _active(found: connection.Found | None) -> bool:
    return found is not None and found.state != "stopped"


def _shown(found: connection.Found) -> Domain:
    """One that is only being started does not run yet."""
    state = "stopped" if found.state == "starting" else found.state
    return Domain(found.id, state, found.generation, found.volumes)


def _server_away(error: errors.Error) -> errors.Error:
    """A volume's server that cannot be reached will come back: that is no failure of the guest."""
    if "iSCSI" in str(error) and "onnect" in str(error):
        return errors.TryLater(reason=f"a volume cannot be reached: {str(error)[-300:]}")
    return error


def _no_check() -> None:
    pass
