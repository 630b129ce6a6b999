"""This cloud's own RabbitMQ: one node, its own epmd, nothing beyond this machine.

User, virtual host, permissions and the policy come from a definitions file at every start, so
nothing is asked of the node.  The password is in minicloud.conf only; here is its hash.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import urllib.parse
from pathlib import Path
from typing import Any

from launcher import files
from launcher.services import PATH, Service
from launcher.state import Cloud
from launcher.variables import Variables
from minicloud import processes

SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"  # Debian's wrapper insists on user rabbitmq
SWEEP_MS = 20_000  # a nudge older than a sweep saves nothing
QUEUE_LENGTH = 1_000

CONFIGURATION = """\
listeners.tcp.default = {address}:{port}
load_definitions = {definitions}
disk_free_limit.absolute = 50MB
log.console = true
log.console.level = info
log.file = false
"""


def service(cloud: Cloud) -> Service:
    """How the broker is started."""
    home, port = cloud.state.rabbitmq, cloud.variables.port
    address, local = cloud.variables.servants_ip, "127.0.0.1"
    return Service(
        processes.named("rabbitmq"),
        [SERVER],
        environment={
            "HOME": str(home),
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the node, which says READY=1
            "RABBITMQ_NODENAME": node(cloud),
            "RABBITMQ_USE_LONGNAME": "true",  # an address needs no /etc/hosts
            "RABBITMQ_NODE_IP_ADDRESS": address,
            "RABBITMQ_NODE_PORT": str(port("rabbitmq")),
            "RABBITMQ_DIST_PORT": str(port("rabbitmq-distribution")),
            "ERL_EPMD_PORT": str(port("rabbitmq-epmd")),
            "ERL_EPMD_ADDRESS": local,
            "RABBITMQ_MNESIA_BASE": str(home / "mnesia"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}"
            " +S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",
        },
        ports=[
            (address, port("rabbitmq")),
            (local, port("rabbitmq-distribution")),
        ],
        prepare=lambda: prepare(cloud),
        # the directory is its daemon's, who may have put a link there: `touch` would follow it
        once_ready=lambda: files.write(_made(cloud), "", 0o644),
        after_stop=lambda: _end_epmd(cloud),
    )


def node(cloud: Cloud) -> str:
    """The Erlang name of the node."""
    return f"mc{cloud.tag}@127.0.0.1"


def prepare(cloud: Cloud) -> None:
    """Configuration and definitions say what minicloud.conf says; written at every start.

    Tables of a first start that was ended half way are made again: the node would wait for those
    that are missing.
    """
    if not _made(cloud).exists():
        shutil.rmtree(cloud.state.rabbitmq / "mnesia", ignore_errors=True)
    uid, gid = files.owner()
    definitions = cloud.state.rabbitmq / "definitions.json"
    configuration = CONFIGURATION.format(
        address=cloud.variables.servants_ip,
        port=cloud.variables.port("rabbitmq"),
        definitions=definitions,
    )
    for name, text in (
        ("rabbitmq.conf", configuration),
        ("enabled_plugins", "[].\n"),
        ("definitions.json", json.dumps(_definitions(cloud), indent=1)),
    ):
        files.write(cloud.state.rabbitmq / name, text, 0o600, uid=uid, gid=gid)
    cookie = cloud.state.rabbitmq / ".erlang.cookie"
    if not cookie.exists():  # Erlang would draw one of 2**36; whoever has it runs code in the node
        files.write(cookie, secrets.token_hex(32), 0o400, uid=uid, gid=gid)


def _made(cloud: Cloud) -> Path:
    """There once the node has been ready."""
    return cloud.state.rabbitmq / "made"


def new_url(tag: str, values: Variables) -> str:
    """A transport URL with a user, a virtual host and a password of its own."""
    place = f"{values.servants_ip}:{values.port('rabbitmq')}"
    return f"rabbit://minicloud-{tag}:{secrets.token_urlsafe(24)}@{place}/minicloud-{tag}"


def _definitions(cloud: Cloud) -> dict[str, Any]:
    url = urllib.parse.urlsplit(cloud.option("rpc", "transport_url"))
    user, host = url.username or "", url.path[1:]
    policy = {
        "vhost": host,
        "name": "one-sweep",
        "pattern": rf"^{cloud.tag}\.",
        "apply-to": "queues",
        "priority": 0,
        "definition": {
            "message-ttl": SWEEP_MS,
            "max-length": QUEUE_LENGTH,
            "overflow": "drop-head",
        },
    }
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    return {
        "users": [
            {
                "name": user,
                "password_hash": _hash(url.password or ""),
                "hashing_algorithm": "rabbit_password_hashing_sha256",
                "tags": "",
            }
        ],
        "vhosts": [{"name": host}],
        "permissions": [{"user": user, "vhost": host, **everything}],
        "policies": [policy],
    }


def _hash(password: str) -> str:
    """RabbitMQ's salted hash (its guide "Credentials and Passwords")."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _end_epmd(cloud: Cloud) -> None:
    """The port mapper, which Erlang started beside the node, is gone; it refuses while in use."""
    if not Path("/usr/bin/epmd").exists():
        return
    subprocess.run(
        ["/usr/bin/epmd", "-port", str(cloud.variables.port("rabbitmq-epmd")), "-kill"],
        env={"PATH": PATH, "HOME": os.devnull},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
