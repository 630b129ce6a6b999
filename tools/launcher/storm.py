"""A storm over a lab: tenants ask, and daemons, hosts, wires, broker and database fail meanwhile.

Run by the venv's Python as `python -m launcher.storm STATE SEED MINUTES`.  All choices are drawn
from the seed before anything happens, so the same seed on a lab of as many hosts plays the same.
Afterwards everything is mended, and two sweeps later the auditor must find nothing.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from launcher import files, lab, rack, rows, services, state, venv
from launcher.report import Failure, complain, say
from launcher.state import Cloud, State
from launcher.tenants import Tenant

TENANTS = ("storm1", "storm2", "storm3")
PAUSE_S = 4.0  # between two failures, on average
LASTS_S = (1.0, 25.0)  # longer than the cloud takes to call a host down
HEAD = (*rack.ON_HEAD, "rabbitmq", "mariadb")
BACK_LIMIT_S = 300.0  # for what the tenants give back
CLEAN, LEFT = 0, 1

FENCE_TRIES = 5  # of the operator, who cannot reach the database either while it is away
END_LIMIT_S = 120.0  # for a daemon that was fenced while it stood still, and wakes

# what may happen, how often, and what undoes it
DAEMON = {"kill": ("start", 4), "stop": ("continue", 2), "restart": ("", 1)}
WHOLE = {
    "cut": ("heal", 3),
    "power": ("start", 1),
    "fence": ("start", 1),
    "evacuate": ("start", 1),
    "usurp": ("wake", 1),  # evacuated while it only stands still, as an operator might who errs
}
HOST = {**DAEMON, **WHOLE}


@dataclasses.dataclass(frozen=True)
class Blow:
    """What happens, `at_s` after the beginning, to a host or a daemon of it."""

    at_s: float
    verb: str
    words: tuple[str, ...]

    def told(self) -> str:
        """The line of the schedule."""
        return f"{self.at_s:7.1f} s  {self.verb} {' '.join(self.words)}"


def plan(seed: int, hosts: list[str], seconds: float) -> list[Blow]:
    """The schedule: what fails, and when it comes back; nothing fails twice at a time."""
    chance = random.Random(f"{seed} failures")
    busy: dict[str, float] = collections.defaultdict(float)
    found, at_s = [], 0.0
    while (at_s := at_s + chance.expovariate(1 / PAUSE_S)) < seconds:
        place = chance.choice([*hosts, rack.HEAD])
        words: tuple[str, ...] = (
            place,
            chance.choice(HEAD if place == rack.HEAD else rack.ON_HOST),
        )
        kinds = DAEMON if place == rack.HEAD else HOST
        [verb] = chance.choices(list(kinds), [often for _, often in kinds.values()])
        whole = verb in WHOLE or (place != rack.HEAD and chance.random() < 0.25)
        ends_s = min(seconds, at_s + chance.uniform(*LASTS_S))
        unit = " ".join(words) if place == rack.HEAD else place
        if at_s < busy[unit]:
            continue
        words = words[:1] if whole else words
        undo = kinds[verb][0]
        found.append(Blow(at_s, verb, words))
        if undo:
            found.append(Blow(ends_s, undo, words))
            busy[unit] = ends_s
    return sorted(found, key=lambda blow: blow.at_s)


class Weather:
    """Does what the schedule says; what is started says later that it is up."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=32)
        # nobody starts a host again while the operator still gives it up
        self._given_up: dict[str, concurrent.futures.Future[bool]] = {}
        self._begun: list[concurrent.futures.Future[Any]] = []

    def play(self, blows: list[Blow]) -> None:
        began = time.monotonic()
        for blow in blows:
            time.sleep(max(0.0, began + blow.at_s - time.monotonic()))
            say(blow.told())
            self._strike(blow)
        for one in [*self._given_up.values(), *self._begun]:
            one.result()

    def _strike(self, blow: Blow) -> None:
        match blow.verb:
            case "start" | "restart" | "wake":
                undo = {"start": self._start, "restart": self._restart, "wake": self._wake}
                self._begun.append(self._pool.submit(undo[blow.verb], blow.words))
            case "power":
                self._cut_power(blow.words)
            case "fence" | "evacuate" | "usurp":
                if blow.verb == "usurp":
                    lab.signalled(self._cloud, "stop", blow.words)
                else:
                    self._cut_power(blow.words)
                [host] = blow.words
                verbs = ["fence"] if blow.verb == "fence" else ["fence", "evacuate"]
                self._given_up[host] = self._pool.submit(self._give_up, host, verbs)
            case "cut" | "heal":
                lab.VERBS[blow.verb](self._cloud, blow.words)
            case _:
                lab.signalled(self._cloud, blow.verb, blow.words)

    def _cut_power(self, words: tuple[str, ...]) -> None:
        lab.signalled(self._cloud, "kill", words)
        rack.power_off(rack.named(self._cloud, words[0]))

    def _give_up(self, host: str, verbs: list[str]) -> bool:
        """The operator has done so, as far as the database could be reached; whether the host is
        fenced."""
        done = 0
        for _ in range(FENCE_TRIES):
            force = ["--force"] if verbs[done] == "fence" else []
            done += lab.operate(self._cloud, "host", verbs[done], host, *force) == 0
            if done == len(verbs):
                break
        return done > 0

    def _wake(self, words: tuple[str, ...]) -> None:
        """It goes on; where it was fenced it finds that out, ends, and is started again."""
        fenced = self._given_up[words[0]].result()
        lab.signalled(self._cloud, "continue", words)
        until = time.monotonic() + END_LIMIT_S
        while fenced and (left := self._living(words)):
            if time.monotonic() > until:
                raise Failure(f"{', '.join(left)} was fenced and goes on", "logs/ says why")
            time.sleep(0.5)
        self._start(words)

    def _living(self, words: tuple[str, ...]) -> list[str]:
        there = lab.chosen(self._cloud, words)
        return [one.name for one in there if services.pid(self._cloud, one.name) is not None]

    def _start(self, words: tuple[str, ...]) -> None:
        """They are started; one that dies before it is ready did so by the schedule."""
        if words[0] in self._given_up:
            self._given_up[words[0]].result()
        chosen = lab.chosen(self._cloud, words)
        with contextlib.suppress(Failure):
            services.wait(self._cloud, services.begin(self._cloud, chosen))

    def _restart(self, words: tuple[str, ...]) -> None:
        with contextlib.suppress(Failure):
            services.stop(self._cloud, lab.chosen(self._cloud, words))
        self._start(words)


def main() -> int:
    """Exit 0 when nothing was found afterwards, else 1."""
    where, seed, minutes = State(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
    cloud = state.cloud(where, {})
    assert cloud is not None
    try:
        return _storm(cloud, seed, minutes * 60)
    except KeyboardInterrupt:  # the launcher, which was told as well, says so
        return 130
    except Failure as failure:
        complain(failure)
        return 1


def _storm(cloud: Cloud, seed: int, seconds: float) -> int:
    hosts = [one.name for one in rack.hosts(cloud)]
    lab.bring_up_all(cloud, len(hosts))
    tenants = _tenants(cloud)
    blows = plan(seed, hosts, seconds)
    say(f"storm: seed {seed}, {seconds:.0f} s, {len(hosts)} hosts, {len(tenants)} tenants")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        lives = [pool.submit(one.live, seed, seconds) for one in tenants]
        Weather(cloud).play(blows)
        for life in lives:
            life.result()
    lab.bring_up_all(cloud, len(hosts))
    say("all is mended")
    found = _findings(cloud, "two sweeps later")
    _give_back(tenants)
    found += _findings(cloud, "two sweeps after all was given back")
    counts = sum((one.counts for one in tenants), collections.Counter[str]())
    undone = {undo for undo, _ in HOST.values()}
    failures = sum(blow.verb not in undone for blow in blows)
    words = ("asked", "accepted", "refused", "unavailable", "unanswered")
    say(f"verbs: {', '.join(f'{counts[word]} {word}' for word in words)}")
    say(f"failures: {failures}; findings: {len(found)}; seed: {seed}")
    return LEFT if found else CLEAN


def _tenants(cloud: Cloud) -> list[Tenant]:
    """Users with a project each; made when missing."""
    with rows.manage(cloud) as session:
        known = {row["name"] for row in session.listed("project")}
        for name in TENANTS:
            if name not in known:
                session.ask("user", "create", name)
                session.ask("project", "create", name, name)
            files.directory(_novarc(cloud, name).parent, 0o700)
            session.ask("project", "environment", name, name, str(_novarc(cloud, name)))
    values = cloud.variables
    return [Tenant(_novarc(cloud, name), values.host_ip, values.port) for name in TENANTS]


def _novarc(cloud: Cloud, name: str) -> Path:
    return cloud.state.path / name / "novarc"


def _give_back(tenants: list[Tenant]) -> None:
    until = time.monotonic() + BACK_LIMIT_S
    left = tenants
    while left := [one for one in left if not one.give_all_back()]:
        if time.monotonic() > until:
            names = ", ".join(one.name for one in left)
            raise Failure(f"what {names} gave back is still there", "logs/ says why")
        time.sleep(1.0)


def _findings(cloud: Cloud, when: str) -> list[str]:
    """What the auditor says two sweeps from now, printed."""
    time.sleep(2 * float(cloud.option("work", "sweep_s") or 20))
    words = ["--config-file", str(cloud.state.conf), "audit", "--json"]
    program = [str(venv.python()), str(venv.program("minicloud-manage"))]
    done = subprocess.run([*program, *words], capture_output=True, text=True, check=False)
    try:
        told: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        raise Failure(f"the auditor ended with {done.returncode}: {done.stderr}") from error
    found = [f"{one['where']}: {one['kind']}: {one['what']}" for one in told["findings"]]
    found += [f"not looked at: {part}: {why}" for part, why in told["unseen"].items()]
    say(f"{when} the auditor finds {'nothing' if not found else 'this:'}")
    for one in found:
        say(f"  {one}")
    return found


if __name__ == "__main__":
    raise SystemExit(main())
