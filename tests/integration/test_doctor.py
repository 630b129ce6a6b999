"""`minicloud-manage doctor` on a cloud of real daemons: it names what is away and mends it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.integration.running import TOP, RunningCloud, wait

MACHINE = {"disk", "mounts"}  # whose state is that of the machine the tests run on


def doctor(cloud: RunningCloud) -> tuple[int, list[dict[str, Any]]]:
    """Exit status and what it saw; not by the launcher, which would look at the venv each time."""
    program = TOP / "bin" / "minicloud-manage"
    done = subprocess.run(
        [
            sys.executable,
            program,
            "--config-file",
            cloud.state / "minicloud.conf",
            "doctor",
            "--json",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def failures(cloud: RunningCloud) -> dict[str, dict[str, Any]]:
    """What failed, by check and thing; the exit status says that something did."""
    status, seen = doctor(cloud)
    assert (status == 1) == any(one["state"] == "FAILED" for one in seen)
    return {
        f"{one['check']} {one['about']}": one
        for one in seen
        if one["state"] == "FAILED" and one["check"] not in MACHINE
    }


def mend(failure: dict[str, Any]) -> None:
    """Type what it says, as a person would."""
    subprocess.run(failure["mend"], shell=True, cwd=TOP, check=True, capture_output=True)


def fails(cloud: RunningCloud, *expected: str) -> dict[str, dict[str, Any]]:
    """What failed, once it is just that: a busy machine's daemons may fall silent for a while."""
    found: dict[str, dict[str, Any]] = {}

    def as_expected() -> bool:
        found.clear()
        found.update(failures(cloud))
        return set(found) == set(expected)

    wait(as_expected, 240, f"{expected} fail")
    return found


def test_doctor_names_what_is_away_or_held_and_its_commands_mend_it(cloud: RunningCloud) -> None:
    seen: list[dict[str, Any]] = []

    def is_well() -> bool:
        seen[:] = doctor(cloud)[1]
        return {one["state"] for one in seen if one["check"] not in MACHINE} == {"well"}

    wait(is_well, 240)
    answered = [one["about"] for one in seen if one["check"] == "daemons"]
    assert [id.partition("@")[0] for id in answered] == [
        *("compute", "network", "objectstore", "scheduler", "volume")
    ]

    cloud.stop("scheduler")
    host = answered[0].partition("@")[2]
    found = fails(cloud, "processes scheduler", f"daemons scheduler@{host}")
    mend(found[f"daemons scheduler@{host}"])

    cloud.stop("rabbitmq")
    found = fails(cloud, "broker rabbitmq")
    mend(found["broker rabbitmq"])
    fails(cloud)

    with cloud.held():
        found = failures(cloud)
    # no heartbeat is written meanwhile: on a slow machine the daemons fall silent too
    assert {name for name in found if not name.startswith("daemons ")} == {"database sqlite"}
    assert "locked" in found["database sqlite"]["text"]
