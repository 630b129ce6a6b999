"""Ending what runs in a cloud, and beginning anew with its images."""

from __future__ import annotations

import time

from launcher import rows
from launcher.report import Failure, say
from launcher.rows import Manage
from launcher.state import Cloud

LIMIT_S = 300.0  # without any of them ending
AGAIN_S = 1.0  # volumes whose instance has ended are asked too, and what somebody starts meanwhile


def terminate(session: Manage) -> None:
    """No instance and no volume of any project is left; the daemons must be up.  Failure names
    those that do not end."""
    left, moved, asked = _left(session), time.monotonic(), 0.0
    if left:
        say(f"ending {len(left)} instances and volumes")
    while left:
        if time.monotonic() - asked > AGAIN_S:
            session.ask("cloud", "terminate")
            asked = time.monotonic()
        time.sleep(0.2)
        before, left = left, _left(session)
        if left != before:
            moved = time.monotonic()
        elif time.monotonic() - moved > LIMIT_S:
            raise Failure(
                f"these do not end: {', '.join(sorted(left))}",
                "logs/compute.log and volume.log say why; is all up? tools/minicloud.sh status",
            )
    say("no instance and no volume is left")


def reset(cloud: Cloud, session: Manage) -> None:
    """Only images are left of what there was, and the first user, project and network are new.

    Whatever dies when: `run` makes what is missing, and another reset begins again.
    """
    terminate(session)
    # first what tells of the old project: a novarc that is there counts as the present one's
    for file in (cloud.state.novarc, cloud.state.private_key, cloud.state.first_instance):
        file.unlink(missing_ok=True)
    session.ask("cloud", "forget")
    rows.basic(cloud, session)
    session.ask("image", "adopt", rows.PROJECT)


def _left(session: Manage) -> set[str]:
    return {row["id"] for noun in ("instance", "volume") for row in session.listed(noun)}
