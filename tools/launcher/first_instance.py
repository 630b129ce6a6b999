"""The first instance, by the EC2 API alone: an unmodified boto3, then ssh.

Run by the venv's Python with the novarc's variables: `python -m launcher.first_instance STATE
[--renew] [--prove]`.  Its ClientToken is written down before it is asked for and its id after, so
that whatever dies in between, there is one.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
from botocore.config import Config

from launcher import files
from launcher.report import Failure, complain, say
from launcher.state import State

IMAGE, FLAVOR, KEY, GROUP = "ami-tty", "m1.nano", "admin", "ssh"
GONE = ("shutting-down", "terminated")
RUNNING_LIMIT_S = 300.0
SSH_LIMIT_S = 180.0


def main() -> int:
    """Exit 0 when the instance runs (and was entered by ssh), 1 with cause and mend."""
    state, options = Path(sys.argv[1]), sys.argv[2:]
    try:
        _first(state, renew="--renew" in options, prove="--prove" in options)
    except KeyboardInterrupt:  # the launcher, which was told as well, says so
        return 130
    except Failure as failure:
        complain(failure)
        return 1
    except botocore.exceptions.BotoCoreError as error:
        complain(Failure(f"the EC2 API does not answer as it should: {error}"))
        return 1
    except botocore.exceptions.ClientError as error:
        complain(Failure(str(error), f"{state}/logs/api.log has more"))
        return 1
    return 0


def _first(state: Path, *, renew: bool, prove: bool) -> None:
    retries = Config(retries={"mode": "standard", "max_attempts": 6})
    ec2 = boto3.client("ec2", config=retries)
    record = _Record(State(state).first_instance)
    known = record.id and _find(ec2, record.id)
    if record.id and not (known and known["State"]["Name"] not in GONE):
        if not renew:
            say(f"the first instance {record.id} was terminated; `run` would start another one")
            return
        record.forget()
    if not record.id:
        _start(ec2, state, record)
    instance = _running(ec2, record.id)
    address = record.address = instance.get("PrivateIpAddress", "")
    record.save()
    say(f"instance {record.id} is {instance['State']['Name']} at {address}")
    if prove and instance["State"]["Name"] == "running":
        _prove_ssh(ec2, state, record.id, address)


class _Record:
    """What is remembered of the first instance, in a file that is always whole."""

    def __init__(self, file: Path) -> None:
        self.file = file
        kept = json.loads(file.read_text()) if file.exists() else {}
        self.token: str = kept.get("client_token") or secrets.token_hex(16)
        self.id: str = kept.get("instance_id", "")
        self.address: str = kept.get("address", "")

    def forget(self) -> None:
        self.token, self.id, self.address = secrets.token_hex(16), "", ""

    def save(self) -> None:
        kept = {
            "client_token": self.token,
            "instance_id": self.id,
            "address": self.address,
        }
        files.write(self.file, json.dumps(kept), 0o600)


def _start(ec2: Any, state: Path, record: _Record) -> None:
    _key_pair(ec2, state / "admin.pem")
    _group(ec2)
    record.save()
    answer = ec2.run_instances(
        ImageId=IMAGE,
        InstanceType=FLAVOR,
        KeyName=KEY,
        SecurityGroups=[GROUP],
        MinCount=1,
        MaxCount=1,
        ClientToken=record.token,
    )
    found = answer["Instances"][0]
    if found["State"]["Name"] in GONE:  # asked for before, and ended before its id was kept
        record.forget()
        _start(ec2, state, record)
        return
    record.id = found["InstanceId"]
    record.save()
    say(f"started instance {record.id} of {IMAGE}")


def _key_pair(ec2: Any, private: Path) -> None:
    """The pair `admin` is the one in the file; the file is made first, so it is never lost."""
    if not private.exists():
        part = private.with_suffix(".part")
        for leftover in (part, Path(f"{part}.pub")):
            leftover.unlink(missing_ok=True)
        _ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", KEY, "-f", str(part))
        Path(f"{part}.pub").unlink()
        part.rename(private)
        _ignoring("InvalidKeyPair.NotFound", ec2.delete_key_pair, KeyName=KEY)
    public = _ssh_keygen("-y", "-f", str(private)).encode()
    _ignoring(
        "InvalidKeyPair.Duplicate", ec2.import_key_pair, KeyName=KEY, PublicKeyMaterial=public
    )


def _group(ec2: Any) -> None:
    _ignoring(
        "InvalidGroup.Duplicate",
        ec2.create_security_group,
        GroupName=GROUP,
        Description="ssh and ping from anywhere",
    )
    anywhere = [{"CidrIp": "0.0.0.0/0"}]
    for protocol, first, last in (("tcp", 22, 22), ("icmp", -1, -1)):
        rule = {"IpProtocol": protocol, "FromPort": first, "ToPort": last, "IpRanges": anywhere}
        _ignoring(
            "InvalidPermission.Duplicate",
            ec2.authorize_security_group_ingress,
            GroupName=GROUP,
            IpPermissions=[rule],
        )


def _ignoring(code: str, call: Any, **arguments: Any) -> None:
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"] != code:
            raise


def _find(ec2: Any, id: str) -> dict[str, Any] | None:
    try:
        answer = ec2.describe_instances(InstanceIds=[id])
    except botocore.exceptions.ClientError as error:
        if error.response["Error"]["Code"].startswith("InvalidInstanceID"):
            return None
        raise
    found = [one for reservation in answer["Reservations"] for one in reservation["Instances"]]
    return found[0] if found else None


def _running(ec2: Any, id: str) -> dict[str, Any]:
    """The instance once it is no longer pending; Failure when it came to nothing, and why."""
    until = time.monotonic() + RUNNING_LIMIT_S
    while time.monotonic() < until:
        instance = _find(ec2, id)
        if instance is None or instance["State"]["Name"] in GONE:
            reason = (instance or {}).get("StateReason", {}).get("Message", "it is gone")
            raise Failure(
                f"instance {id} did not start: {reason}", "put that right, then run again"
            )
        reason = instance.get("StateReason", {})
        if (
            reason.get("Code") == "Server.InternalError"
        ):  # state `error`, which EC2 has no word for
            raise Failure(
                f"instance {id} is broken: {reason.get('Message', '')}",
                "a RebootInstances may repair it, after a TerminateInstances `run` starts another",
            )
        if instance["State"]["Name"] != "pending":
            return instance
        time.sleep(0.3)
    raise Failure(
        f"instance {id} is still pending after {RUNNING_LIMIT_S:.0f} seconds",
        "logs/scheduler.log and logs/compute.log say what it waits for; then run again",
    )


def _prove_ssh(ec2: Any, state: Path, id: str, address: str) -> None:
    say(f"waiting until {address} can be entered by ssh")
    began = time.monotonic()
    said = ""
    while time.monotonic() - began < SSH_LIMIT_S:
        done = subprocess.run(
            [*ssh(state / "admin.pem"), f"root@{address}", "echo minicloud"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == 0 and "minicloud" in done.stdout:
            say(f"ssh into {id} works ({time.monotonic() - began:.0f} s)")
            return
        said = done.stderr.strip()
        time.sleep(0.3)
    console = ec2.get_console_output(InstanceId=id).get("Output", "")
    last = "\n".join(_printable(line[:200]) for line in console.splitlines()[-15:])
    raise Failure(
        f"no ssh into {id} after {SSH_LIMIT_S:.0f} seconds: {said}\nits console ends:\n{last}",
        "logs/network.log and logs/compute.log have more; then run again",
    )


def _printable(line: str) -> str:
    """The guest writes its console: nothing of it may steer the operator's terminal."""
    return "".join(each if each.isprintable() else "?" for each in line)


def ssh(private: Path) -> list[str]:
    """An ssh that asks nothing and keeps nothing: addresses are given again to other guests."""
    options = {
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "ConnectTimeout": "3",
        "LogLevel": "ERROR",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "none", "-i", str(private), *words]


def _ssh_keygen(*arguments: str) -> str:
    done = subprocess.run(
        ["ssh-keygen", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise Failure(f"ssh-keygen ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
