"""kill -9 of the broker, and of all daemons at once: what happens at each single step of a daemon
is played in tests/promises."""

from __future__ import annotations

import botocore.exceptions

from tests.integration.running import RunningCloud, wait

SWEEPS_S = 60.0  # two sweeps of a second, and generous time for a busy machine


def settled(cloud: RunningCloud) -> bool:
    states = {state for (state,) in cloud.rows("SELECT state FROM instances")}
    return states <= {"running", "stopped", "error", "terminated"}


def nothing_left(cloud: RunningCloud) -> bool:
    """What is on the host and in the books is exactly what the rows name."""
    running = {id for (id,) in cloud.rows("SELECT id FROM instances WHERE state = 'running'")}
    kept = {id for (id,) in cloud.rows("SELECT id FROM instances WHERE state <> 'terminated'")}
    booked = {id for (id,) in cloud.rows("SELECT instance_id FROM addresses")}
    members = {id for (id,) in cloud.rows("SELECT instance_id FROM group_members")}
    domains = cloud.domains()
    return (
        {id for id, state in domains.items() if state == "running"} == running
        and set(domains) <= kept
        and booked == kept
        and members <= kept
    )


def ask_run(ec2: object, token: str) -> list[str]:
    """Ids of the two instances, or none when the API died instead of answering."""
    try:
        answer = ec2.run_instances(  # type: ignore[attr-defined]
            ImageId="ami-tty",
            MinCount=2,
            MaxCount=2,
            InstanceType="m1.nano",
            ClientToken=token,
        )
    except botocore.exceptions.HTTPClientError:
        return []
    return [instance["InstanceId"] for instance in answer["Instances"]]


def ask_terminate(ec2: object, ids: list[str]) -> None:
    try:
        ec2.terminate_instances(InstanceIds=ids)  # type: ignore[attr-defined]
    except botocore.exceptions.HTTPClientError:
        return


def test_a_killed_broker_loses_and_leaks_nothing(cloud: RunningCloud) -> None:
    ec2 = cloud.ec2()
    first = ask_run(ec2, "broker-1")
    cloud.kill("rabbitmq")
    second = ask_run(ec2, "broker-2")  # accepted means committed, whatever else is away
    assert len(second) == 2
    ask_terminate(ec2, first)
    cloud.start("rabbitmq")
    wait(lambda: settled(cloud) and nothing_left(cloud), SWEEPS_S, "settled after the broker")
    states = dict(cloud.rows("SELECT substr(id, 1, 23), state FROM instances"))
    assert {state for state in states.values() if state != "terminated"} == {"running"}
    ask_terminate(ec2, second)


def test_all_daemons_killed_at_once_go_on_where_they_were(cloud: RunningCloud) -> None:
    ec2 = cloud.ec2()
    ids = ask_run(ec2, "all-1") + ask_run(ec2, "all-2")
    for daemon in ("compute", "network", "scheduler", "api", "objectstore", "volume"):
        cloud.kill(daemon)
    cloud.command("start")
    wait(lambda: settled(cloud) and nothing_left(cloud), SWEEPS_S, "settled after all")
    answer = cloud.ec2().describe_instances(InstanceIds=ids)
    states = {i["State"]["Name"] for r in answer["Reservations"] for i in r["Instances"]}
    assert states == {"running"}
