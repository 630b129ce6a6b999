"""minicloud.conf: written once, when the cloud is made; from then on it is the operator's.

It holds the tag and every secret; whoever else needs one of them reads it here.
"""

from __future__ import annotations

import base64
import re
import secrets
import socket

from launcher import files, mariadb, rabbitmq
from launcher.state import State
from launcher.variables import Variables
from minicloud.servants import libvirtd, tgtd

Groups = dict[str, dict[str, str | int]]
HEAD = """\
# The configuration of one minicloud, written when it was made.
# Every option there is, with its meaning: etc/minicloud.conf.sample
"""


def write(state: State, tag: str, values: Variables, virt_type: str) -> None:
    """The cloud exists from here on: the file is whole or not there."""
    groups = _groups(state, tag, values, virt_type)
    files.write(state.conf, rendered(HEAD, groups), 0o640, gid=files.owner()[1])


def rendered(head: str, groups: Groups) -> str:
    """The text of a configuration file."""
    return head + "".join(
        f"\n[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in options.items())
        for group, options in groups.items()
    )


def _groups(state: State, tag: str, values: Variables, virt_type: str) -> Groups:
    groups: Groups = {
        "DEFAULT": {
            "tag": tag,
            "host": "head" if values.lab else _host_name(),
            "zone": "nova",
            "region": "nova",
            "my_ip": values.host_ip,
            "state_path": f"{state.path}/lib",
            "lock_path": values.lock_path,
            "secret_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        },
        "database": {"connection": _database(state, values)},
        "rpc": {"transport_url": rabbitmq.new_url(tag, values)},
        "api": {"ec2_port": values.port("api")},
        "openstack": {
            "identity_port": values.port("identity-api"),
            "compute_port": values.port("compute-api"),
            "image_port": values.port("image-api"),
        },
        "objectstore": {"port": values.port("objectstore"), "path": str(state.images)},
        "compute": {
            "connection_type": values.connection_type,
            "instances_path": values.instances_path,
        },
        "network": {
            "connection_type": "linux" if values.real else "simulated",
            "interface": values.interface,
        },
    }
    if values.real:
        groups["volume"] = {"path": str(state.volumes)}
        groups["tgt"] = {"socket": str(tgtd.control(state.path)), "port": values.port("tgtd")}
        groups["libvirt"] = {
            "uri": f"qemu+unix:///system?socket={libvirtd.socket_path(state.path)}",
            "virt_type": virt_type,
        }
    return groups


def _database(state: State, values: Variables) -> str:
    if values.use_mysql:
        return mariadb.new_url(values)
    return f"sqlite:///{state.database}"


def _host_name() -> str:
    """This machine's name, of letters, digits and hyphens."""
    short = socket.gethostname().partition(".")[0].lower()
    return re.sub(r"[^a-z0-9-]", "-", short).strip("-")[:60] or "host1"
