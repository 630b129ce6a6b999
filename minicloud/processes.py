"""Every process a cloud consists of, once: what `tools/minicloud.sh` starts, with which rights.

The systemd units come from this list too.  Standard library only: it is read before anything is
installed.
"""

from __future__ import annotations

import dataclasses

USER = "minicloud"  # a system user without a shell: owns what the daemons write


@dataclasses.dataclass(frozen=True)
class Process:
    """One daemon.

    `capabilities` are ambient (man 7 capabilities); root keeps all of its own.  Without a real
    hypervisor (CONNECTION_TYPE=simulated) a daemon needs neither them nor its `groups`.
    """

    name: str
    user: str = USER
    groups: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()


# what serves the daemons, in the order in which they are started
SERVANTS = (
    Process("rabbitmq"),
    Process("mariadb"),
    Process("virtlogd", user="root"),
    Process("libvirtd", user="root"),
    Process("tgtd", user="root"),  # it becomes the daemons' user by itself
)

DAEMONS = (
    Process("api"),
    Process("scheduler"),
    # taps, bridges and nft; the overlays it makes belong to QEMU's group, and libvirt's may ask
    # libvirtd, which is root: no other daemon has it
    Process("compute", groups=("libvirt-qemu", "libvirt"), capabilities=("net_admin",)),
    # sys_admin and dac_override: it makes and enters the namespaces in /run/netns, root's own;
    # the rest is for dnsmasq and for listening at 169.254.169.254:80
    Process(
        "network",
        capabilities=("net_admin", "net_raw", "net_bind_service", "sys_admin", "dac_override"),
    ),
    Process("volume"),
    Process("objectstore"),
    Process("api-metadata"),
)

NAMES = tuple(process.name for process in SERVANTS + DAEMONS)


def named(name: str) -> Process:
    """The process of that name; KeyError when there is none."""
    return {process.name: process for process in SERVANTS + DAEMONS}[name]
