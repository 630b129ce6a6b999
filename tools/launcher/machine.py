"""What can be refused is refused here, before anything changes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from launcher import host, ports, ranges, variables
from launcher.report import Refused
from launcher.state import State
from launcher.variables import Variables
from minicloud import kvm

LONGEST_SOCKET = "/libvirt/run/virtlogd-admin-sock"  # below the state directory
SOCKET_LIMIT = 107  # bytes of a unix socket's path, unix(7)
LEFT_BY_OTHERS = {"lost+found"}
MACHINE_ID = Path("/etc/machine-id")
HIGHEST_OFFSET = 18000  # all ports stay below 32768, from where the kernel takes its own


def check(state: State, values: Variables) -> None:
    """This machine can serve a cloud with these values in that directory, or Refused says why."""
    _check_system(values)
    _check_state(state, values)
    if values.real:
        _check_interface(values.interface)
        _check_kvm(values.libvirt_type)


def fixed_range(values: Variables) -> str:
    """The range of a new cloud; Refused when the one that was given meets something here."""
    if not values.real:
        return values.fixed_range or str(ranges.DEFAULT)
    if shutil.which("ip") is None:
        return ""  # not installed yet: asked again afterwards
    return ranges.choose(values.fixed_range, ranges.of_this_host() | host.ranges_of_other_clouds())


def interface(values: Variables) -> str:
    """Where guests' traffic leaves: as given, or the default route's device, or "" for nowhere."""
    if values.interface or not values.real:
        return values.interface
    done = subprocess.run(
        ["ip", "-4", "-j", "route", "show", "default"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    routes = json.loads(done.stdout or "[]") if done.returncode == 0 else []
    best = sorted(routes, key=lambda route: route.get("metric", 0))
    return next((route["dev"] for route in best if "dev" in route), "")


def virt_type(values: Variables) -> str:
    """qemu or kvm; takes a few seconds for `auto` where there is a /dev/kvm."""
    if not values.real:
        return ""
    if values.libvirt_type != "auto":
        return values.libvirt_type
    return "kvm" if Path(kvm.DEVICE).exists() and kvm.works(_status) else "qemu"


def _check_system(values: Variables) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-query") is None:
        raise Refused("this is not Debian: packages are installed with apt-get")
    if values.real and os.geteuid() != 0:
        raise Refused(
            "real guests need root", "use sudo, or CONNECTION_TYPE=simulated as any user"
        )
    if values.lab and os.geteuid() != 0:
        raise Refused("a lab needs root: its hosts are network namespaces", "use sudo")
    if values.lab and not MACHINE_ID.exists():
        raise Refused(f"this machine has no {MACHINE_ID}", "systemd-machine-id-setup makes one")
    if values.real and not Path("/dev/net/tun").exists():
        raise Refused("this machine has no /dev/net/tun", "modprobe tun")


def _check_state(state: State, values: Variables) -> None:
    if len(f"{state.path}{LONGEST_SOCKET}") > SOCKET_LIMIT:
        raise Refused(
            f"{state.path} is too long: a unix socket's name has {SOCKET_LIMIT} bytes at most",
            "choose a shorter MINICLOUD_STATE",
        )
    if state.path.exists() and not state.variables.exists():
        others = set(os.listdir(state.path)) - LEFT_BY_OTHERS
        if others:
            raise Refused(
                f"{state.path} is not empty and no cloud's: it has {sorted(others)[0]}",
                "choose another MINICLOUD_STATE",
            )


def _check_interface(name: str) -> None:
    # /sys may show another network namespace; /proc/self/net is always one's own
    lines = Path("/proc/self/net/dev").read_text().splitlines()[2:]
    if name and name not in {line.partition(":")[0].strip() for line in lines}:
        raise Refused(f"INTERFACE={name}: there is no such device here", "`ip link` shows them")


def _check_kvm(libvirt_type: str) -> None:
    if libvirt_type != "kvm":
        return
    slow = shutil.which(kvm.QEMU) is not None and not kvm.works(_status)
    if slow or not Path(kvm.DEVICE).exists():
        why = "a boot sector runs slower than emulated" if slow else "there is no /dev/kvm"
        raise Refused(f"LIBVIRT_TYPE=kvm: {why}", "give LIBVIRT_TYPE=qemu, or none")


def _status(argv: Sequence[str], limit_s: float) -> int | None:
    """The command's exit status; None when it was not over in time."""
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit_s,
            check=False,
        ).returncode
    except subprocess.TimeoutExpired:
        return None


def resolved(state: State, asked: dict[str, str]) -> dict[str, str]:
    """What a new cloud keeps: `asked`, the defaults, and what is worked out here."""
    values = variables.parsed(asked)
    worked_out = {
        "FIXED_RANGE": fixed_range(values),
        "INTERFACE": interface(values),
        "INSTANCES_PATH": values.instances_path or f"{state.path}/instances",
        "LOCK_PATH": values.lock_path or f"{state.path}/lock",
    }
    if values.lab:
        worked_out |= _management(asked)
    return variables.DEFAULTS | asked | worked_out


def _management(asked: dict[str, str]) -> dict[str, str]:
    """The head's address in a network of the lab's own, and ports that nothing else has."""
    if "HOST_IP" in asked:
        raise Refused("a lab makes a network of its own for its hosts", "unset HOST_IP")
    network = ranges.for_lab(ranges.of_this_host() | host.ranges_of_other_clouds())
    return {
        "HOST_IP": str(network[1]),
        "PORT_OFFSET": asked.get("PORT_OFFSET") or str(_free_offset()),
    }


def _free_offset() -> int:
    for offset in range(0, HIGHEST_OFFSET, 100):
        taken = [port + offset for port in variables.PORTS.values()]
        if all(ports.is_free("127.0.0.1", port) for port in taken):
            return offset
    raise Refused("no PORT_OFFSET leaves all ports free", "`ss -ltnp` shows who has them")
