"""Checks of the data plane: libvirt, DHCP, bridges, routes, other firewalls."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterator
from typing import Any

from oslo_config import cfg

from minicloud import errors
from minicloud.compute.libvirt import firewall
from minicloud.db import health
from minicloud.doctor.check import AS_ROOT, Seen, check, failed, unseen, well
from minicloud.doctor.host import Host
from minicloud.network import dnsmasq, linux, nat
from minicloud.wiring import artefact, links, number_of

OUTSIDE = "192.0.2.1"  # an address nobody has (RFC 5737): what reaches it leaves by the default


@check("libvirt")
def libvirt(host: Host) -> Iterator[Seen]:
    """This cloud's libvirtd answers and finds its QEMU."""
    if not host.serves("compute"):
        return
    uri = cfg.CONF.libvirt.uri
    try:
        said = host.run("virsh", "--connect", uri, "version", "--daemon")
    except errors.CommandFailed as error:
        lines = str(error.facts["stderr"]).splitlines() or ["it does not answer"]
        reason = lines[-1].removeprefix("error: ")
        if "ermission denied" in reason:
            yield unseen("libvirtd", reason, AS_ROOT)
        elif error.facts["status"] == 127:
            yield unseen("libvirtd", "virsh is not installed", "apt-get install libvirt-clients")
        else:
            yield failed("libvirtd", reason, host.starting("libvirtd"))
        return
    facts = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    hypervisor, daemon = facts["Running hypervisor"], facts["Running against daemon"]
    yield well("libvirtd", f"{hypervisor}, libvirt {daemon}")


@check("dnsmasq")
def dhcp(host: Host) -> Iterator[Seen]:
    """Each network that this host serves has its dnsmasq."""
    for network in _networks(host):
        name = artefact(cfg.CONF.tag, "net", network.number)
        directory = linux.directory(pathlib.Path(cfg.CONF.state_path), name)
        if dnsmasq.alive(directory):
            yield well(network.name, f"runs in the namespace {name}")
        else:
            text = "none runs: its guests get no address (the daemon's log says why)"
            yield failed(network.name, text, host.starting("network", "restart"))


@check("mtu")
def mtu(host: Host) -> Iterator[Seen]:
    """Guests' packets fit: each bridge has its network's MTU, and what is plugged into it, and
    the device they leave by, has no smaller one."""
    if not (host.serves("compute") or host.serves("network")):
        return
    devices = links.parse_devices(host.run("ip", "-json", "link", "show"))
    wanted = {
        artefact(cfg.CONF.tag, "n", network.number): network.mtu for network in _networks(host)
    }
    bridges = {
        name: device
        for name, device in devices.items()
        if name == artefact(cfg.CONF.tag, "n", number_of(cfg.CONF.tag, name) or 0)
    }
    yield from _missing(host, sorted(wanted.keys() - bridges.keys()))
    for name, bridge in bridges.items():
        yield from _fits(name, wanted.get(name, bridge["mtu"]), devices)


def _missing(host: Host, names: list[str]) -> Iterator[Seen]:
    for name in names:
        yield failed(name, "there is no such bridge", host.starting("network", "restart"))


def _fits(name: str, size: int, devices: dict[str, dict[str, Any]]) -> Iterator[Seen]:
    ports = [port for port, device in devices.items() if device.get("master") == name]
    uplink = [cfg.CONF.network.interface] if cfg.CONF.network.interface in devices else []
    small = {
        port: devices[port]["mtu"] for port in (*ports, *uplink) if devices[port]["mtu"] < size
    }
    bridge = devices[name]["mtu"]
    if bridge != size:
        mend = f"ip link set dev {name} mtu {size}"
        yield failed(name, f"its MTU is {bridge}, the network's {size}", mend)
    for port, least in small.items():
        mend = f"ip link set dev {port} mtu {size}"
        yield failed(port, f"its MTU is {least}, the guests' behind {name} {size}", mend)
    if bridge == size and not small:
        yield well(name, f"{size} bytes, {len(ports)} ports")


@check("forwarding")
def forwarding(host: Host) -> Iterator[Seen]:
    """Guests' packets pass: bridged ones meet the security groups, and the kernel would send one
    to the outside by `[network] interface` (it is asked: ip_forward, rp_filter and routes)."""
    if host.serves("compute"):
        yield _bridged(host)
    interface = cfg.CONF.network.interface
    if not host.serves("network") or not interface:
        return
    setting = "net.ipv4.ip_forward"
    if host.read("/proc/sys/net/ipv4/ip_forward").strip() != "1":
        yield failed(setting, "0: guests' traffic cannot leave", f"sysctl -w {setting}=1")
        return
    yield well(setting, "1")
    for device, address in _gateways(host):
        yield _routed(host, device, address, interface)


def _bridged(host: Host) -> Seen:
    setting = "net.bridge.bridge-nf-call-iptables"
    try:
        value = host.read(str(firewall.BRIDGE_NF)).strip()
    except FileNotFoundError:
        value = "not there"
    if value == "1":
        return well(setting, "1")
    text = f"{value}: security groups would not be kept, so no guest is started"
    return failed(setting, text, f"modprobe br_netfilter; sysctl -w {setting}=1")


def _gateways(host: Host) -> Iterator[tuple[str, str]]:
    """The devices by which networks' gateways reach this host, and the gateways' addresses."""
    for device in json.loads(host.run("ip", "-json", "-4", "addr", "show") or "[]"):
        name = device.get("ifname", "")
        if name == artefact(cfg.CONF.tag, "p", number_of(cfg.CONF.tag, name) or 0):
            for found in device["addr_info"]:
                yield name, linux.peer(found["local"])


def _routed(host: Host, device: str, address: str, interface: str) -> Seen:
    question = ("ip", "-json", "route", "get", OUTSIDE, "from", address, "iif", device)
    try:
        [answer] = json.loads(host.run(*question))
    except errors.CommandFailed as error:
        said = str(error.facts["stderr"]).removeprefix("RTNETLINK answers: ")
        if "cross-device" in said or "Invalid argument" in said:  # by kernel
            mend = f"sysctl -w net.ipv4.conf.{device}.rp_filter=2"
            return failed(device, "the kernel drops what comes from it (rp_filter)", mend)
        mend = f"ip route replace default dev {interface} via GATEWAY"
        return failed(device, f"the kernel has no way out for it: {said}", mend)
    if answer.get("dev") != interface:
        mend = f"set [network] interface = {answer.get('dev')}"
        return failed(device, f"it would leave by {answer.get('dev')}, not {interface}", mend)
    return well(device, f"leaves by {interface}")


@check("firewalls")
def firewalls(host: Host) -> Iterator[Seen]:
    """No other packet filter of this host drops what guests send or get: an accept of ours cannot
    undo it."""
    if not (host.serves("compute") or host.serves("network")):
        return
    blocking = nat.blocking(host.run("nft", "-json", "list", "ruleset"), cfg.CONF.tag)
    ours = f"mc-{cfg.CONF.tag}-"
    for family, table, chain in blocking:
        text = "it drops guests' packets: it accepts no devices of ours"
        if (table, chain) == ("filter", "FORWARD"):
            tool = "ip6tables" if family == "ip6" else "iptables"
            mend = " && ".join(
                f"{tool} -I FORWARD {way} {ours}+ -j ACCEPT" for way in ("-i", "-o")
            )
        else:
            mend = " && ".join(
                f"nft insert rule {family} {table} {chain} {way} '\"{ours}*\"' accept"
                for way in ("iifname", "oifname")
            )
        yield failed(f"{family} {table} {chain}", text, mend)
    old = _old_tables(host, ours)
    yield from old
    if not blocking and not old:
        yield well("forward", "no other filter drops what guests send or get")


def _old_tables(host: Host, ours: str) -> list[Seen]:
    """The same of xtables before nft, which `nft list ruleset` does not show."""
    try:
        used = "filter" in host.read("/proc/net/ip_tables_names").split()
    except (FileNotFoundError, PermissionError):
        used = False
    if not used or not host.has("iptables-legacy"):
        return []
    rules = host.run("iptables-legacy", "-S", "FORWARD").splitlines()
    passed = all(
        any(f"{way} {ours}" in rule and "ACCEPT" in rule for rule in rules) for way in ("-i", "-o")
    )
    if "-P FORWARD DROP" not in rules or passed or "-A FORWARD -j ACCEPT" in rules:
        return []
    mend = " && ".join(
        f"iptables-legacy -I FORWARD {way} {ours}+ -j ACCEPT" for way in ("-i", "-o")
    )
    return [failed("iptables-legacy FORWARD", "its policy drops guests' packets", mend)]


def _networks(host: Host) -> list[Any]:
    """The networks this host serves."""
    file = health.file()
    if not host.serves("network") or (file is not None and not host.may(str(file))):
        return []
    return list(health.networks_of(cfg.CONF.host))
