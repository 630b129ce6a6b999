"""Real guests whose compute daemon is killed, or stopped, at each step of run, attach, detach and
terminate.

One guest lives through all the kills: each new daemon comes one step further than the one that
died before it.  What else can happen at a place, and to which other verb, is played on pretended
hosts (tests/promises).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.host import guests
from tests.host.guests import Guest
from tests.host.test_lifetime import traces
from tests.host.test_volumes import Volume
from tests.integration.running import RunningCloud, is_stopped, wait
from tests.promises import places as source

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.usefixtures("inside_cloud"),
]

# in the order in which a verb comes by
RUN = (
    *("build_instance.claimed", "build_instance.linked", "build_instance.protected"),
    *("build_instance.addressed", "build_instance.exported", "spawn.image_cached"),
    *("spawn.disk_made", "spawn.domain_defined", "spawn.domain_started"),
    *("build_instance.applied", "build_instance.ended"),
)
ATTACH = (
    *("attach_volume.claimed", "attach_volume.exported", "attach.attached"),
    *("attach_volume.applied", "attach_volume.ended"),
)
DETACH = (
    *("detach_volume.claimed", "detach.detached", "detach_volume.applied"),
    "detach_volume.ended",
)
TERMINATE = (
    *("terminate_instance.claimed", "destroy.domain_gone", "destroy.files_gone"),
    *("terminate_instance.destroyed", "terminate_instance.unprotected"),
    *("terminate_instance.applied", "terminate_instance.ended"),
)
VERBS = ("build_instance", "attach_volume", "detach_volume", "terminate_instance")
HANDS = ("spawn", "attach", "detach", "destroy")


def test_every_step_of_these_verbs_is_here() -> None:
    written = {place.name for place in source.written() if place.module.startswith("compute/")}
    of_verbs = {
        name for name in written | source.frames() if name.partition(".")[0] in VERBS + HANDS
    }
    assert of_verbs == {*RUN, *ATTACH, *DETACH, *TERMINATE}


@pytest.fixture
def patient(cloud: RunningCloud) -> Iterator[None]:
    """A verb is not given up for the many deaths of its daemon."""
    conf = cloud.state / "minicloud.conf"
    before = conf.read_text()
    cloud.set_option("work", "tries", 1000)
    cloud.set_option("work", "sweep_s", 2)
    yield
    conf.write_text(before)
    cloud.command("restart", "compute")


def dies_at_each(cloud: RunningCloud, steps: tuple[str, ...], ask: Callable[[], Any]) -> None:
    """The compute daemon is killed at the first step of what is asked, the next one at the second
    and so on; the last one lives."""
    cloud.stop("compute")
    start(cloud, steps[0])
    ask()
    for step, following in zip(steps, (*steps[1:], ""), strict=True):
        wait(lambda: cloud.pid("compute") is None, 120, f"compute dies at {step}")
        start(cloud, following)


def start(cloud: RunningCloud, step: str) -> None:
    """It may die before it could say that it is ready."""
    checkpoint = f"{step}:kill" if step else ""
    environment = {"MINICLOUD_CHECKPOINT": checkpoint}
    cloud.command("start", "compute", environment=environment, check=not step)


@pytest.mark.timeout(1800)  # 27 deaths, with a start after each
def test_a_guest_lives_though_its_daemon_dies_at_every_step(
    cloud: RunningCloud, ec2: Any, patient: None
) -> None:
    made: list[Guest] = []
    dies_at_each(cloud, RUN, lambda: made.extend(guests.launch(cloud, ec2)))
    [guest] = made
    guest.wait_state("running")
    assert len(traces(cloud, guest)["processes"]) == 1
    guest.wait_ssh()
    volume = Volume(ec2)
    where = {"VolumeId": volume.id, "InstanceId": guest.id, "Device": "/dev/vdb"}
    dies_at_each(cloud, ATTACH, lambda: ec2.attach_volume(**where))
    wait(lambda: guest.ssh("test -b /dev/vdb").returncode == 0, 60, "the guest has the disk")
    assert [one["State"] for one in volume.described["Attachments"]] == ["attached"]
    dies_at_each(cloud, DETACH, lambda: ec2.detach_volume(VolumeId=volume.id))
    wait(lambda: volume.state == "available", 90, "the volume is given back")
    assert guest.ssh("test -b /dev/vdb").returncode == 1
    volume.take(guest)
    mac = guest.mac
    dies_at_each(cloud, TERMINATE, lambda: ec2.terminate_instances(InstanceIds=[guest.id]))
    guest.wait_state("terminated")
    wait(lambda: volume.state == "available", 60, "its volume is given back")
    wait(lambda: not any(traces(cloud, guest, mac).values()), 60, "no trace of the guest")
    ec2.delete_volume(VolumeId=volume.id)


def stopped_at(cloud: RunningCloud, step: str, ask: Callable[[], Any]) -> int:
    """The pid of the compute daemon, which is stopped at that step of what is asked."""
    cloud.stop("compute")
    cloud.start("compute", checkpoint=f"{step}:stop")
    ask()
    pid = cloud.pid("compute")
    assert pid is not None
    wait(lambda: is_stopped(pid), 120, f"compute stops at {step}")
    return pid


@pytest.mark.parametrize("step", RUN)
def test_a_guest_that_was_terminated_while_its_daemon_stood_still_is_gone(
    cloud: RunningCloud, ec2: Any, step: str
) -> None:
    made: list[Guest] = []
    pid = stopped_at(cloud, step, lambda: made.extend(guests.launch(cloud, ec2)))
    [guest] = made
    mac = guest.mac
    ec2.terminate_instances(InstanceIds=[guest.id])
    os.kill(pid, signal.SIGCONT)
    guest.wait_state("terminated")
    wait(lambda: not any(traces(cloud, guest, mac).values()), 60, "no trace of the guest")


@pytest.mark.parametrize("step", [*ATTACH, *DETACH])
def test_a_volume_is_free_whose_guest_was_terminated_while_the_daemon_stood_still(
    cloud: RunningCloud, ec2: Any, step: str
) -> None:
    [guest] = guests.launch(cloud, ec2)
    guest.wait_state("running")
    volume = Volume(ec2)
    if step in DETACH:
        volume.take(guest)
    where = {"VolumeId": volume.id, "InstanceId": guest.id, "Device": "/dev/vdb"}

    def ask() -> None:
        if step in DETACH:
            ec2.detach_volume(VolumeId=volume.id)
        else:
            ec2.attach_volume(**where)

    pid = stopped_at(cloud, step, ask)
    ec2.terminate_instances(InstanceIds=[guest.id])
    os.kill(pid, signal.SIGCONT)
    guest.wait_state("terminated")
    wait(lambda: volume.state == "available", 60, "the volume is free")
    ec2.delete_volume(VolumeId=volume.id)
