"""The last words of `run`: what there is now, what to try, how to undo it."""

from __future__ import annotations

import json

from launcher.report import say
from launcher.state import State
from launcher.variables import Variables


def finished(state: State, values: Variables) -> None:
    """What there is now, the next three commands, and how to undo it."""
    script = "tools/minicloud.sh"
    if str(state.path) != "/var/lib/minicloud":
        script = f"MINICLOUD_STATE={state.path} {script}"
    address = json.loads(state.first_instance.read_text())["address"]
    third = f"ssh -i {state.private_key} root@{address}"
    if not values.real:
        third = f"{script} manage service list"
    say(f"""
EC2 API      http://{values.host_ip}:{values.port("api")}/services/Cloud
OpenStack    http://{values.host_ip}:{values.port("identity-api")}/v3
S3 API       http://{values.host_ip}:{values.port("objectstore")}
credentials  {state.novarc}   (user and project admin)
key pair     {state.private_key}
logs         {state.path}/logs

next, three commands to try:
  . {state.novarc}
  aws --endpoint-url "$EC2_URL" ec2 describe-instances --output table     (boto3 needs no URL)
  {third}

to undo:
  {script} clean          daemons stop, guests go on
  {script} scrub          guests and networks go too, {state.path} stays
  {script} scrub --all    that goes too""")
