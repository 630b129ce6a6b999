"""nova.sh's variables: their defaults, what they may be, and what a cloud keeps of them.

What a cloud was made with is written to `variables.json` in its state directory; a later command
that gives another value for one of them ends with both values named.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path

from launcher import files
from launcher.report import Refused

STATE = "/var/lib/minicloud"
LAB_STATE = f"{STATE}-lab"
CONNECTION_TYPES = ("libvirt", "simulated")
LIBVIRT_TYPES = ("auto", "qemu", "kvm")

# name -> default; "" means: worked out when the cloud is made
DEFAULTS = {
    "HOST_IP": "127.0.0.1",
    "CONNECTION_TYPE": "libvirt",
    "LIBVIRT_TYPE": "auto",
    "USE_MYSQL": "0",
    "MYSQL_PASS": "",
    "FIXED_RANGE": "",
    "INTERFACE": "",
    "INSTANCES_PATH": "",
    "LOCK_PATH": "",
    "SCREEN_NAME": "minicloud",
    "PORT_OFFSET": "0",
}
SECRET = ("MYSQL_PASS",)
# a cloud keeps these when `lab` made it; LAB itself is not given by anybody
LAB = {"LAB": "1", "CONNECTION_TYPE": "simulated", "USE_MYSQL": "1"}

# nova.sh had these as well; the values are those that ask for nothing
NOT_BUILT = {
    "USE_LDAP": ("", "0"),
    "USE_OPENDJ": ("", "0"),
    "USE_IPV6": ("", "0"),
    "NET_MAN": ("", "FlatDHCPManager"),
    "FLOATING_RANGE": ("",),
    "FLAT_INTERFACE": ("",),
}

PORTS = {  # every TCP port the cloud listens on, before PORT_OFFSET
    "api": 8773,
    "identity-api": 5000,
    "compute-api": 8774,
    "image-api": 9292,
    "objectstore": 3333,
    "rabbitmq": 5672,
    "rabbitmq-distribution": 13677,
    "rabbitmq-epmd": 14369,
    "mariadb": 3306,
    "tgtd": 3260,
}


@dataclasses.dataclass(frozen=True)
class Variables:
    """Checked values; `fixed_range`, `interface` and the paths are empty until worked out."""

    host_ip: str
    connection_type: str
    libvirt_type: str
    use_mysql: bool
    mysql_pass: str
    fixed_range: str
    interface: str
    instances_path: str
    lock_path: str
    screen_name: str
    port_offset: int
    lab: bool

    @property
    def real(self) -> bool:
        """True when guests are real and the host's network is used."""
        return self.connection_type == "libvirt"

    @property
    def servants_ip(self) -> str:
        """What broker and database listen on: only the hosts of a lab are elsewhere."""
        return self.host_ip if self.lab else "127.0.0.1"

    @property
    def management(self) -> ipaddress.IPv4Network:
        """The network between a lab's head, which has HOST_IP in it, and its hosts."""
        return ipaddress.IPv4Interface(f"{self.host_ip}/24").network

    def port(self, name: str) -> int:
        """The TCP port of that name in this cloud."""
        return PORTS[name] + self.port_offset


def given(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables the caller set, normalised; Refused for a value that cannot be served."""
    for name, harmless in NOT_BUILT.items():
        if environment.get(name, "") not in harmless:
            raise Refused(
                f"{name}={environment[name]}: this release does not build that yet",
                f"unset {name}",
            )
    values = {name: environment[name] for name in DEFAULTS if environment.get(name)}
    return {name: _normal(name, value) for name, value in values.items()}


def merged(kept: Mapping[str, str], asked: Mapping[str, str]) -> dict[str, str]:
    """`kept` when `asked` agrees with it; Refused naming both values where it does not."""
    for name, value in asked.items():
        if name in kept and kept[name] != value:
            was, now = ("***", "***") if name in SECRET else (kept[name], value)
            raise Refused(
                f"this cloud was made with {name}={was}, now {name}={now} was given"
                + (" (another one)" if name in SECRET else ""),
                f"unset {name}, or make another cloud with another MINICLOUD_STATE",
            )
    return dict(kept)


def parsed(values: Mapping[str, str]) -> Variables:
    """`values` with the defaults, typed."""
    full = DEFAULTS | dict(values)
    return Variables(
        host_ip=full["HOST_IP"],
        connection_type=full["CONNECTION_TYPE"],
        libvirt_type=full["LIBVIRT_TYPE"],
        use_mysql=full["USE_MYSQL"] == "1",
        mysql_pass=full["MYSQL_PASS"],
        fixed_range=full["FIXED_RANGE"],
        interface=full["INTERFACE"],
        instances_path=full["INSTANCES_PATH"],
        lock_path=full["LOCK_PATH"],
        screen_name=full["SCREEN_NAME"],
        port_offset=int(full["PORT_OFFSET"]),
        lab=full.get("LAB") == "1",
    )


def read(file: Path) -> dict[str, str] | None:
    """What the cloud keeps, or None when there is none yet."""
    try:
        kept: dict[str, str] = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise Refused(f"{file} cannot be read: {error}", "put it back, or scrub --all") from error
    return kept


def write(file: Path, kept: Mapping[str, str]) -> None:
    """Later commands need MINICLOUD_STATE alone."""
    files.write(file, json.dumps(kept, indent=1), 0o600)


def test_wanted(environment: Mapping[str, str]) -> bool:
    """TEST=1: `run` begins with the unit tests; it is asked anew each time."""
    return _flag("TEST", environment.get("TEST") or "0") == "1"


def _normal(name: str, value: str) -> str:
    if name in CHECKS:
        return CHECKS[name](name, value)
    return value


def _refuse(name: str, value: str, what: str) -> Refused:
    return Refused(f"{name}={value}: {what}", f"give another {name}, or none")


def _flag(name: str, value: str) -> str:
    if value not in ("0", "1"):
        raise _refuse(name, value, "it is 0 or 1")
    return value


def _connection_type(name: str, value: str) -> str:
    if value not in CONNECTION_TYPES:
        raise _refuse(name, value, f"this release has {' and '.join(CONNECTION_TYPES)}")
    return value


def _libvirt_type(name: str, value: str) -> str:
    if value not in LIBVIRT_TYPES:
        raise _refuse(name, value, f"this release has {', '.join(LIBVIRT_TYPES)}")
    return value


def _address(name: str, value: str) -> str:
    try:
        address = ipaddress.IPv4Address(value)
    except ValueError as error:
        raise _refuse(name, value, "it is not an IPv4 address") from error
    if address.is_unspecified or address.is_multicast:
        raise _refuse(name, value, "clients are told this address: it must be a host's own")
    return str(address)


def _range(name: str, value: str) -> str:
    try:
        network = ipaddress.IPv4Network(value, strict=False)
    except ValueError as error:
        raise _refuse(name, value, "it is not an IPv4 range such as 10.0.0.0/24") from error
    if not 8 <= network.prefixlen <= 28:
        raise _refuse(name, value, "a range is between /8 and /28")
    if network.is_multicast or network.is_loopback or network.is_link_local:
        raise _refuse(name, value, "guests cannot have such addresses")
    return str(network)


def _offset(name: str, value: str) -> str:
    highest = 65535 - max(PORTS.values())
    if not re.fullmatch(r"[0-9]{1,5}", value) or int(value) > highest:
        raise _refuse(name, value, f"it is a number between 0 and {highest}")
    return str(int(value))


def _path(name: str, value: str) -> str:
    if not re.fullmatch(r"/[A-Za-z0-9._/+@:-]*", value) or ".." in value.split("/"):
        raise _refuse(name, value, "it is an absolute path of letters, digits and . _ / + @ : -")
    return value.rstrip("/") or "/"


def _word(name: str, value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", value):
        raise _refuse(name, value, "it is a word of at most 40 letters, digits and . _ -")
    return value


def _interface(name: str, value: str) -> str:
    if not re.fullmatch(r"[^\s/]{1,15}", value):
        raise _refuse(name, value, "it is not the name of a network interface")
    return value


CHECKS = {
    "HOST_IP": _address,
    "CONNECTION_TYPE": _connection_type,
    "LIBVIRT_TYPE": _libvirt_type,
    "USE_MYSQL": _flag,
    "FIXED_RANGE": _range,
    "INTERFACE": _interface,
    "INSTANCES_PATH": _path,
    "LOCK_PATH": _path,
    "SCREEN_NAME": _word,
    "PORT_OFFSET": _offset,
}


def state_path(environment: Mapping[str, str]) -> Path:
    """The state directory: MINICLOUD_STATE, made absolute; Refused for one that cannot serve."""
    value = environment.get("MINICLOUD_STATE") or STATE
    path = Path(value).absolute()
    return Path(_path("MINICLOUD_STATE", str(path)))
