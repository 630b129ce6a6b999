"""The rows of a new cloud: user, project, network and images.  Each is made when missing, so that
a first start that was killed is finished by the next."""

from __future__ import annotations

import contextlib
import tempfile

from minicloud import context, errors
from minicloud.cli import image, project
from minicloud.cloud import images, networks, projects, users
from minicloud.embedded.home import Home

USER = PROJECT = "admin"
NETWORK, RANGE = "private", "10.0.0.0/16"
WORD = "tty"
IMAGES = (("aki-tty", "kernel"), ("ari-tty", "ramdisk"), ("ami-tty", "machine"))
PLACEHOLDER = "minicloud: {}, a placeholder: simulated guests boot from nothing\n"


def basic() -> None:
    """User, project and network are there."""
    with contextlib.suppress(errors.NameTaken):
        users.create(context.admin(), USER, is_admin=True)
    with contextlib.suppress(errors.NameTaken):
        projects.create(context.admin(), PROJECT, USER)
    with contextlib.suppress(errors.NameTaken):
        networks.create(context.admin(), name=NETWORK, cidr=RANGE)


def credentials(home: Home) -> None:
    """The novarc is there, with the addresses of this start."""
    project.project_environment(PROJECT, USER, str(home.novarc))


def pictures() -> None:
    """aki-tty, ari-tty and ami-tty are registered; the object store must be up."""
    missing = [
        (name, kind)
        for name, kind in IMAGES
        if (known := images.by_word(context.admin(), kind, WORD)) is None
        or known.state != "active"
    ]
    for name, kind in missing:
        parts = ("aki-tty", "ari-tty") if kind == "machine" else ("", "")
        with tempfile.NamedTemporaryFile("w", prefix="minicloud-") as file:
            file.write(PLACEHOLDER.format(name).ljust(512))
            file.flush()
            image.register(name, file.name, kind, WORD, *parts, PROJECT, public=True)
