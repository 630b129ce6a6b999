"""The rows of a new cloud: tables, user, project, network, images.  Each is made when missing."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from launcher import host, rack, venv
from launcher.report import Failure, say
from launcher.state import Cloud

USER = PROJECT = "admin"
NETWORK = "private"


class Manage:
    """A running `launcher.seed`: `ask` does one command of minicloud-manage."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, *words: str) -> str:
        """What the command prints; Failure with its complaint."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(words) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (OSError, ValueError) as error:
            raise Failure(f"minicloud-manage {' '.join(words)} died") from error
        if answer["status"] != 0:
            complaint = answer["err"].strip().removeprefix("error: ")
            raise Failure(f"minicloud-manage {' '.join(words)}: {complaint}")
        return str(answer["out"]).strip()

    def listed(self, noun: str) -> list[dict[str, Any]]:
        """The rows of `NOUN list`."""
        found: list[dict[str, Any]] = json.loads(self.ask(noun, "list", "--json"))
        return found


@contextlib.contextmanager
def manage(cloud: Cloud) -> Iterator[Manage]:
    """One process for many commands."""
    process = subprocess.Popen(
        [str(venv.python()), "-B", "-m", "launcher.seed", str(cloud.state.conf)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C is for the launcher; this ends with its input
        env=os.environ | {"PYTHONPATH": f"{venv.CHECKOUT}/tools:{venv.CHECKOUT}"},
    )
    try:
        yield Manage(process)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.wait()


def basic(cloud: Cloud, session: Manage) -> None:
    """Tables, user, project, network and novarc are there."""
    session.ask("db", "sync")
    if not _has(session, "user", USER):
        session.ask("user", "create", USER, "--admin")
        say(f"created the user {USER}")
    if not _has(session, "project", PROJECT):
        session.ask("project", "create", PROJECT, USER)
        say(f"created the project {PROJECT}")
    if not _has(session, "network", NETWORK):
        words = ["network", "create", NETWORK, cloud.variables.fixed_range]
        servers = host.name_servers() if cloud.variables.interface else []
        words += ["--dns", ",".join(servers)] if servers else []
        words += ["--host", rack.NETWORK_HOST] if cloud.variables.lab else []
        session.ask(*words)
        say(f"created the network {NETWORK}, {cloud.variables.fixed_range}")
    if not cloud.state.novarc.exists():
        session.ask("project", "environment", PROJECT, USER, str(cloud.state.novarc))


def missing_images(session: Manage) -> bool:
    """Whether ami-tty is not there yet."""
    return not any(
        image["id"] == "ami-tty" and image["state"] == "active"
        for image in session.listed("image")
    )


def images(session: Manage, files: Mapping[str, Path]) -> None:
    """aki-tty, ari-tty and ami-tty are registered; the object store must be up."""
    parts = ("--kernel", "aki-tty", "--ramdisk", "ari-tty")
    for name, kind in (("aki-tty", "kernel"), ("ari-tty", "ramdisk"), ("ami-tty", "machine")):
        words = ["image", "register", name, str(files[kind]), "--kind", kind, "--word", "tty"]
        session.ask(*words, *(parts if kind == "machine" else ()), "--public")
    say("registered the image ami-tty with aki-tty and ari-tty")


def _has(session: Manage, noun: str, name: str) -> bool:
    return any(row["name"] == name for row in session.listed(noun))
