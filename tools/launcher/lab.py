"""What is done to a lab: its hosts and their daemons are looked at, broken and mended.

Every command may be repeated: it says how things shall be, and changes nothing that is so.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence

from launcher import alive, bring_up, mounts, rack, services, variables, venv
from launcher.report import Failure, Refused, WrongUsage, say
from launcher.services import Service
from launcher.state import Cloud, State
from launcher.variables import Variables

SIGNAL_LIMIT_S = 30.0


def wanted_hosts(word: str) -> int:
    """The N of `lab N`; WrongUsage for what cannot be one."""
    if not (word.isascii() and word.isdecimal() and 1 <= int(word) <= rack.MOST):
        raise WrongUsage(f"a lab has 1 to {rack.MOST} hosts; {word} is no such number and no verb")
    return int(word)


def wanted_variables(asked: dict[str, str]) -> dict[str, str]:
    """What was given, with what a lab consists of; Refused where these differ."""
    for name, value in variables.LAB.items():
        if asked.get(name, value) != value:
            raise Refused(f"a lab has {name}={value}, not {asked[name]}", f"unset {name}")
    return asked | variables.LAB


def require(cloud: Cloud) -> None:
    """Refused for a cloud that is no lab."""
    if not cloud.variables.lab:
        raise Refused(
            f"the cloud in {cloud.state.path} is no lab", "choose another MINICLOUD_STATE for one"
        )


def bring_up_all(cloud: Cloud, count: int) -> None:
    """There are that many hosts or more; everything is up, goes on and is connected."""
    rack.make(cloud, count)
    rack.wire(cloud)
    for one in rack.hosts(cloud):
        rack.cut(one, off=False)
    for pid, _ in mounts.processes(cloud.tag):
        alive.tell(pid, signal.SIGCONT)
    bring_up.everything(cloud)


def status(cloud: Cloud, words: Sequence[str]) -> int:
    """Print a line for each host; 0 when everything is up and connected, else 1."""
    if words:
        raise WrongUsage("lab status shows all hosts")
    all_there = bring_up.services_of(cloud)
    wires = {rack.HEAD: "up"} | {one.name: rack.wire_state(one) for one in rack.hosts(cloud)}
    sound = True
    for name, wire in wires.items():
        mine = [one for one in all_there if (one.host or rack.HEAD) == name]
        shown = {one.process.name: _state(cloud, one) for one in mine}
        daemons = ", ".join(f"{daemon} {word}" for daemon, word in shown.items())
        say(f"{name:<5} {wire:<4} {daemons}")
        sound &= all(word.startswith("up") for word in [wire, *shown.values()])
    return 0 if sound else 1


def start(cloud: Cloud, words: Sequence[str]) -> int:
    """What was asked for is up; a host that had no power boots.  A cut wire stays cut."""
    bring_up.start(cloud, chosen(cloud, words))
    return 0


def kill(cloud: Cloud, words: Sequence[str]) -> int:
    """What was asked for died at once, without a word; guests of the host go on."""
    return _told(signalled(cloud, "kill", words))


def stop(cloud: Cloud, words: Sequence[str]) -> int:
    """What was asked for stands still, as if its machine did; it still holds all it holds."""
    return _told(signalled(cloud, "stop", words))


def go_on(cloud: Cloud, words: Sequence[str]) -> int:
    """What stood still goes on as if nothing had been."""
    return _told(signalled(cloud, "continue", words))


def cut(cloud: Cloud, words: Sequence[str]) -> int:
    """No packet of the host reaches the head any more, and none of the head's the host."""
    rack.cut(rack.named(cloud, _one(words)), off=True)
    return 0


def heal(cloud: Cloud, words: Sequence[str]) -> int:
    """The host's packets get through again."""
    rack.cut(rack.named(cloud, _one(words)), off=False)
    return 0


def fence(cloud: Cloud, words: Sequence[str]) -> int:
    """The host is without power, daemons and guests are gone, and the cloud was told so."""
    one = rack.named(cloud, _one(words))
    _told(signalled(cloud, "kill", [one.name]))
    rack.power_off(one)
    say(f"{one.name} has no power")
    # its last heartbeat may be young still: here it is known to be dead
    return operate(cloud, "host", "fence", one.name, "--force")


def operate(cloud: Cloud, *words: str) -> int:
    """What minicloud-manage of the lab's cloud ended with, which says itself what it did."""
    program = [str(venv.python()), str(venv.program("minicloud-manage"))]
    told = [*program, "--config-file", str(cloud.state.conf), *words]
    return subprocess.run(told, stdin=subprocess.DEVNULL, check=False).returncode


def end(cloud: Cloud) -> None:
    """No process of the lab lives; all die at the same time."""
    for pid, _ in mounts.processes(cloud.tag):
        alive.tell(pid, signal.SIGKILL)


VERBS: dict[str, Callable[[Cloud, Sequence[str]], int]] = {
    "status": status,
    "start": start,
    "kill": kill,
    "stop": stop,
    "continue": go_on,
    "cut": cut,
    "heal": heal,
    "fence": fence,
}


# verb → its signal, and which processes have not obeyed it yet
SIGNALS: dict[str, tuple[signal.Signals, Callable[[int], bool]]] = {
    "kill": (signal.SIGKILL, lambda pid: True),
    "stop": (signal.SIGSTOP, lambda pid: not alive.is_stopped(pid)),
    "continue": (signal.SIGCONT, alive.is_stopped),
}


def chosen(cloud: Cloud, words: Sequence[str]) -> list[Service]:
    """The daemons meant by HOST [DAEMON]; the head is a host here."""
    if len(words) not in (1, 2):
        raise WrongUsage("a HOST (h1, h2, …, or head), and one DAEMON of it, or none for all")
    if words[0] == rack.HEAD:
        there = [one for one in bring_up.services_of(cloud) if not one.host]
    else:
        there = rack.services_on(rack.named(cloud, words[0]))
    found = [one for one in there if len(words) == 1 or one.process.name == words[1]]
    if not found:
        has = ", ".join(one.process.name for one in there)
        raise WrongUsage(f"{words[0]} has no daemon {words[1]}; it has {has}")
    return found


def _one(words: Sequence[str]) -> str:
    if len(words) != 1:
        raise WrongUsage("one HOST: h1, h2, …")
    return words[0]


def signalled(cloud: Cloud, verb: str, words: Sequence[str]) -> list[str]:
    """Those daemons and their children have obeyed the signal of `verb`, also what they started
    meanwhile; a line for each that got it."""
    number, left = SIGNALS[verb]
    names = {service.name for service in chosen(cloud, words)}
    told: set[str] = set()
    until = time.monotonic() + SIGNAL_LIMIT_S
    while found := [
        (pid, name) for pid, name in mounts.processes(cloud.tag) if name in names and left(pid)
    ]:
        if time.monotonic() > until:
            raise Failure(f"{number.name} does nothing to {', '.join(name for _, name in found)}")
        for pid, name in found:
            alive.tell(pid, number)
            told.add(name)
        time.sleep(0.01)
    return [f"{name}: {number.name}" for name in sorted(told)]


def _told(lines: Sequence[str]) -> int:
    for line in lines:
        say(line)
    return 0


def _state(cloud: Cloud, service: Service) -> str:
    pid = services.pid(cloud, service.name)
    if pid is None:
        return "down"
    return f"{'stopped' if alive.is_stopped(pid) else 'up'} {pid}"


def finished(state: State, values: Variables) -> None:
    """What there is now, and what to try with it."""
    script = "tools/minicloud.sh lab"
    if str(state.path) != variables.LAB_STATE:
        script = f"MINICLOUD_STATE={state.path} {script}"
    say(f"""
EC2 API      http://{values.host_ip}:{values.port("api")}/services/Cloud
OpenStack    http://{values.host_ip}:{values.port("identity-api")}/v3
S3 API       http://{values.host_ip}:{values.port("objectstore")}
credentials  {state.novarc}   (user and project admin)
logs         {state.path}/logs   (compute@h1.log …)
network      {values.management}; hosts with odd numbers are in zone {rack.ZONES[0]}, even in \
{rack.ZONES[1]}

to try:
  . {state.novarc}
  aws --endpoint-url "$EC2_URL" ec2 run-instances --image-id ami-tty --count 10
  {script} manage host list
  {script} kill h2 compute     (start, stop, continue; cut, heal, fence a host)
  {script} status

to undo:
  {script} down                nothing is left""")
