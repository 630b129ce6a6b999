"""Write etc/systemd/: a unit for each daemon of minicloud/processes.py, and what belongs to them.

`python tools/systemd_units.py` writes all of them anew; a house test compares.
"""

from __future__ import annotations

import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP))

from minicloud import processes  # noqa: E402

UNITS = TOP / "etc" / "systemd"
HOME = "/usr/local/lib/minicloud"  # the venv that docs/operating.md makes
CONFIGURATION = "/etc/minicloud/minicloud.conf"
STATE = "/var/lib/minicloud"  # the default of state_path

WHAT = {
    "api": "EC2 and OpenStack APIs",
    "scheduler": "gives waiting instances and volumes a host",
    "compute": "guests of this host",
    "network": "networks of this host",
    "volume": "volumes of this host",
    "objectstore": "S3, and the bytes of images",
    "api-metadata": "what guests ask at 169.254.169.254",
    "libvirtd": "its own libvirtd",
    "virtlogd": "its own virtlogd, which records consoles",
    "tgtd": "its own tgtd, which exports volumes",
}
# what serves it on the same host
SERVED_BY = {
    "compute": ("libvirtd", "virtlogd"),
    "volume": ("tgtd",),
    "libvirtd": ("virtlogd",),
}
# of the broker and the databases nothing is required: a daemon waits for what is away
ELSEWHERE = "rabbitmq-server.service mariadb.service postgresql.service"

UNIT = """\
# Written by tools/systemd_units.py.
[Unit]
Description=minicloud {name}: {what}
After={after}
Wants={wants}
"""

DAEMON = """\
PartOf=minicloud.target
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={home}/bin/minicloud-{name} --config-file {configuration}
User={user}
Group={user}
UMask=0027
LimitNOFILE=65536
# ready is who serves; who waits for what is away says so, and has more time
TimeoutStartSec=90
WatchdogSec=60
# [daemon] stop_s, and as much again
TimeoutStopSec=40
Restart=always
RestartSec=3
{rights}

[Install]
WantedBy=minicloud.target
"""

SERVANT = """\
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={home}/bin/python -m minicloud.servants {name} --config-file {configuration}
SyslogIdentifier={name}
LimitNOFILE=65536
TasksMax=infinity
Restart=always
RestartSec=1
{rights}
"""

TARGET = """\
# Written by tools/systemd_units.py.
[Unit]
Description=minicloud: every daemon of this host that is enabled
After=network-online.target

[Install]
WantedBy=multi-user.target
"""

# none of these gives the process a mount namespace of its own
EVERYBODY = {
    "NoNewPrivileges": "yes",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "ProtectClock": "yes",
    "ProtectHostname": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "RestrictNamespaces": "yes",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "SystemCallArchitectures": "native",
    "SystemCallFilter": "@system-service",
    "SystemCallErrorNumber": "EPERM",
}
SECLUDED = {
    "ProtectSystem": "strict",
    "ReadWritePaths": STATE,
    "ProtectHome": "yes",
    "ProtectProc": "invisible",
    "ProtectKernelTunables": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectControlGroups": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "PrivateUsers": "yes",
}
COMPUTE = {
    "ProtectKernelTunables": "no",  # it turns IPv6 off on the bridges it makes
    "PrivateUsers": "no",  # its capability would count for nothing outside of it
    "RestrictSUIDSGID": "no",  # directories of disks hand their group down
}
# The namespaces it makes in /run/netns must be the host's, so SECLUDED is not for it: all of that
# comes with a mount namespace.  dnsmasq, which it starts, outlives it.
NETWORK = {
    "RestrictNamespaces": "net mnt",
    "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET",
    "SystemCallFilter": "@system-service @mount",
    "DevicePolicy": "closed",
    "KillMode": "process",
}
# guests are children of libvirtd; tgtd ends by itself only while it has no targets
LIBVIRTD = {"KillMode": "process"}
TGTD = {"TimeoutStopSec": "2", "NoNewPrivileges": "yes", "ProtectHome": "yes"}


def units() -> dict[str, str]:
    """File name → text of everything in etc/systemd."""
    made = {"minicloud.target": TARGET}
    for process in processes.DAEMONS:
        made[_file(process.name)] = _daemon(process)
    for name, own in (("virtlogd", {}), ("libvirtd", LIBVIRTD), ("tgtd", TGTD)):
        made[_file(name)] = _unit(name) + SERVANT.format(
            home=HOME, name=name, configuration=CONFIGURATION, rights=_lines(own)
        )
    return made


def _daemon(process: processes.Process) -> str:
    held = " ".join(f"CAP_{name.upper()}" for name in process.capabilities)
    rights = {
        **({"SupplementaryGroups": " ".join(process.groups)} if process.groups else {}),
        "CapabilityBoundingSet": held,
        "AmbientCapabilities": held,
        **EVERYBODY,
        **{"network": NETWORK, "compute": SECLUDED | COMPUTE}.get(process.name, SECLUDED),
    }
    return _unit(process.name) + DAEMON.format(
        home=HOME,
        name=process.name,
        configuration=CONFIGURATION,
        user=process.user,
        rights=_lines(rights),
    )


def _unit(name: str) -> str:
    served = " ".join(_file(one) for one in SERVED_BY.get(name, ()))
    return UNIT.format(
        name=name,
        what=WHAT[name],
        after=f"network-online.target {ELSEWHERE} {served}".rstrip(),
        wants=f"network-online.target {served}".rstrip(),
    )


def _file(name: str) -> str:
    return f"minicloud-{name}.service"


def _lines(options: dict[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in options.items() if value != "no")


if __name__ == "__main__":
    UNITS.mkdir(exist_ok=True)
    for file, text in units().items():
        (UNITS / file).write_text(text)
