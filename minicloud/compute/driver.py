"""What a hypervisor must be able to do.  Ports, disks and the firewall are inside it.

Every method may be repeated at any time and then changes nothing more; none opens a transaction.
A method raises `TryLater` when the hypervisor is away, `Final` when trying again cannot help, and
anything else for a failure that is worth another try.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

Check = Callable[[], None]  # raises Overtaken when the row was moved; called between long steps


@dataclasses.dataclass(frozen=True)
class Resources:
    """What the host can give to guests."""

    vcpus: int
    memory_mib: int
    disk_gib: int
    hypervisor: str  # for people: "libvirt qemu 7.2", "simulated"


@dataclasses.dataclass(frozen=True)
class BootImage:
    """An active image: bytes of `size`, checked by `sha256` (hex), `format` raw or qcow2."""

    id: str
    size: int
    sha256: str
    format: str
    virtual_size: int


@dataclasses.dataclass(frozen=True)
class Port:
    """One network card: `tap` is its device name on the host, `bridge` what it is plugged into."""

    tap: str
    mac: str
    address: str
    bridge: str
    mtu: int
    gateway: str


@dataclasses.dataclass(frozen=True)
class NetworkDisk:
    """An exported volume as a guest's disk: `letter` names its place, `target` is its iSCSI name
    at `portal` (address:port); `serial` (20 characters at most) is what the guest can know it by;
    `export_id` is a uuid that no other export ever had.
    """

    volume_id: str
    export_id: str
    letter: str
    serial: str
    portal: str
    target: str
    user: str
    password: str = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Guest:
    """A domain as it shall be, complete: a driver reads no database."""

    id: str
    ec2_id: str
    name: str
    hostname: str
    project_id: str
    generation: int  # of the row when the verb was asked; a start stamps it into the domain
    vcpus: int
    memory_mib: int
    disk_gib: int  # root disk; 0 = as large as the image
    image: BootImage
    kernel: BootImage | None
    ramdisk: BootImage | None
    ports: tuple[Port, ...]
    volumes: tuple[NetworkDisk, ...] = ()  # in it from its start
    has_disk: bool = False  # its root disk was made before: none is made in its place


@dataclasses.dataclass(frozen=True)
class Domain:
    """A domain as it is: `state` is running, paused or stopped; `generation` of its last start;
    `volumes` are the letters of the volumes in it."""

    id: str
    state: str
    generation: int
    volumes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What of this cloud is on the host.

    domains: also those that are off; files: instance ids of which there is a directory; disks:
    those whose root disk is there; images: ids of those in the cache; taps: network cards that no
    domain has; parts: temporary files whose process is gone, by name, with their time (seconds
    since 1970).
    """

    domains: Mapping[str, Domain]
    files: frozenset[str] = frozenset()
    disks: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    taps: frozenset[str] = frozenset()
    parts: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def guests(self) -> frozenset[str]:
        """Instance ids of which anything is here."""
        return self.files | self.domains.keys()


@dataclasses.dataclass(frozen=True)
class FirewallRule:
    """See `models.Rule`; `source_group` is the id of a group in `Firewall.members`."""

    protocol: str
    from_port: int | None
    to_port: int | None
    cidr: str | None
    source_group: str | None


@dataclasses.dataclass(frozen=True)
class FirewallPort:
    port: Port
    groups: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Firewall:
    """The whole packet filter of a host, from one complete read of the database.

    ports: of every instance this host holds; groups: the rules of every group one of them is in;
    members: the addresses in every group that one of these rules names as its source.
    """

    ports: Sequence[FirewallPort]
    groups: Mapping[str, Sequence[FirewallRule]]
    members: Mapping[str, Sequence[str]]


class Hypervisor(Protocol):
    def connect(self) -> None:
        """The hypervisor answers and what this driver needs on the host is there."""
        ...

    def ping(self) -> None:
        """Return when the hypervisor answers, raise `TryLater` when not: fed to the heartbeat."""
        ...

    def resources(self) -> Resources: ...

    def spawn(self, guest: Guest, check: Check) -> None:
        """The guest's domain runs: image in the cache, disk, ports plugged, domain started.

        A domain that was started before with this generation is left as it is.  `Final` when the
        guest `has_disk`, and it is not there (so do all that start or define).  Seconds to
        minutes: the first use of an image on a host downloads it.  The firewall must have been
        given by `protect` before.
        """
        ...

    def define(self, guest: Guest, check: Check) -> None:
        """The guest's domain and its disk are there as `spawn` makes them, and it is off, if it
        was not there before."""
        ...

    def start(self, guest: Guest, check: Check) -> None:
        """The domain runs, started with `guest.generation` or already running."""
        ...

    def stop(self, guest: Guest, check: Check) -> None:
        """The domain is off, disks kept: asked politely first, then by force."""
        ...

    def reboot(self, guest: Guest, check: Check) -> None:
        """The domain was started anew once for `guest.generation`, and runs."""
        ...

    def destroy(self, id: str, *, keep_disk: bool = False) -> None:
        """No domain, no port, no disk and no console log of the instance is left.

        With `keep_disk` its disk and log are kept aside for a day, in case somebody misses them.
        """
        ...

    def attach(self, id: str, disk: NetworkDisk) -> None:
        """A domain that runs has the volume as a disk; one that is off gets it at its start."""
        ...

    def detach(self, id: str, letter: str, export_id: str, check: Check) -> None:
        """The domain, if it runs, has no such disk any more: the guest was asked to let go of it,
        and did, which takes it up to a second; a failure when it does not for half a minute."""
        ...

    def domains(self) -> dict[str, Domain]:
        """All domains of this cloud on this host, by instance id, also those that are off."""
        ...

    def inventory(self) -> Inventory:
        """Everything on this host that carries this cloud's id."""
        ...

    def console(self, id: str, max_bytes: int) -> bytes:
        """The last bytes of the serial console; empty when there is none yet."""
        ...

    def protect(self, firewall: Firewall, complete: bool) -> None:
        """The host's packet filter equals `firewall`, in one step; connections that a removed
        rule or address had allowed are cut.

        With `complete` all is replaced, whatever this process believes to be there (start-up and
        sweep); without, only what changed since the last call is touched.
        """
        ...

    def differences(self, firewall: Firewall) -> tuple[str, ...]:
        """In what, in words, the host's packet filter differs from `firewall`."""
        ...

    def tidy(self, images: Collection[str], taps: Sequence[str]) -> None:
        """These cached images, but for those under any disk, these network cards and temporary
        files whose process is gone are removed."""
        ...
