"""Whatever is asked, lost, doubled, late, killed or frozen in whatever order: the promise holds.

One thread drives the deciding functions and every daemon's manager by itself, so that thousands of
steps take seconds and what fails once fails always.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import itertools
import pathlib
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from minicloud import context, errors, ids, states
from minicloud.cloud import groups, instances, networks, projects, quotas, rules, users, volumes
from minicloud.context import Context
from minicloud.db import session
from tests.conftest import active_image
from tests.promises import truth
from tests.promises.driven import FAR, Driven, one_thread

EXAMPLES, STEPS = 8, 3
MUCH = 200  # moves
TENANTS = ("ann", "bob")
INSTANCES, VOLUMES = 4, 3  # each tenant's quota
PER_HOST = 3  # guests that fit on a host: fewer than the tenants may have together
NANO_MIB = 96  # of an m1.nano

seeds = st.integers(0, (1 << 32) - 1)

# what every accepted change leaves a mark in, and a refused one does not
MARKS = " UNION ALL ".join(
    f"SELECT {what} FROM {table}"
    for table, what in {
        "events": "count(*)",
        "requests": "count(*)",
        "addresses": "count(*)",
        "rules": "count(*)",
        "security_groups": "count(*) + total(wanted)",
        "networks": "total(wanted)",
        "volumes": "total(wanted)",
    }.items()
)


# --- what may happen --------------------------------------------------------------------------

VERBS = {
    "stop": instances.stop,
    "start": instances.start,
    "reboot": instances.reboot,
    "terminate": instances.terminate,
}
USUAL = {  # what is asked of those that stand, the first one twice as often
    "running": ("stop", "reboot", "stop"),
    "stopped": ("start", "reboot", "start"),
}

# what there is to choose, by the name of the argument; numbers choose among what is there then
CHOICES: dict[str, Sequence[Any]] = {
    "again": (False, False, True),
    "awake": (False, True),
    "count": (1, 2),
    "group": (False, True),
    "how": ("kill", "freeze", "end_politely"),
    "keep": (False, False, False, True),
    "late": (False, True),
    "number": range(120),
    "pause": (1.0, 5.0, 30.0),
    "port": (1, 2, 3),
    "rest": (1, 2, 3, 5, 8, FAR, FAR, FAR),
    "seconds": (1.0, 5.0),
    "steps": (1, 1, 1, 1, *range(2, 25), *[FAR] * 6),  # 1: the row is not claimed yet
    "sweep": (False, True),
    "tenant": TENANTS,
    "verb": ("stop", "start", "reboot", "terminate"),
    "wish": ("create", "delete", "open", "close"),
}


@dataclasses.dataclass(frozen=True)
class Move:
    """Something that may happen: how often among all that can, and when it can."""

    call: Callable[..., None]
    weight: int
    when: Callable[[Any], object]

    @property
    def words(self) -> list[str]:
        return list(inspect.signature(self.call).parameters)[1:]


MOVES: dict[str, Move] = {}


def happens(
    weight: int, when: Callable[[Any], object] = lambda weather: True
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a method a move, whose arguments are named in `CHOICES`, and a rule of hypothesis."""

    def decorate(call: Callable[..., None]) -> Callable[..., None]:
        move = MOVES[call.__name__] = Move(call, weight, when)

        @functools.wraps(call)
        def played(self: Weather, **words: Any) -> None:
            self.play(call.__name__, words)

        drawn = {word: st.sampled_from(CHOICES[word]) for word in move.words}
        made: Callable[..., None] = rule(**drawn)(precondition(when)(played))
        return made

    return decorate


Played = tuple[str, dict[str, Any]]  # a move and its arguments

# conditions of SQL
LIVES = "state <> 'terminated'"
STANDS = "state IN ('running', 'stopped')"
KEPT = "state <> 'deleted'"
FREE = (
    "state = 'available' AND id NOT IN"
    " (SELECT volume_id FROM attachments WHERE state <> 'detached')"
)
HELD = "id IN (SELECT volume_id FROM attachments WHERE state = 'attached')"
ANY = "1"

BORNE_OUT = frozenset({"running", "stopped", "available"})  # by a host, until a verb is asked


class Weather(RuleBasedStateMachine):
    """A cloud with two tenants, two compute hosts, and one of each other daemon."""

    make: Callable[[], Driven]  # a new cloud
    came_to: ClassVar[collections.Counter[str]]  # state → clouds in which a row was in it
    failed: ClassVar[list[Played]]  # all that happened to the last cloud of which something failed

    def __init__(self) -> None:
        super().__init__()
        random.seed(1)
        self.cloud = self.make()
        self.tenants = {
            name: (user, project)
            for name, user, project in self.cloud.rows(
                "SELECT p.name, p.manager_id, p.id FROM projects p"
            )
        }
        self.requests = itertools.count(1)
        self.story: list[Played] = []
        self.told: dict[str, str] = {}  # id → the state its last event moved it to
        self.heard = 0  # the last event

    @initialize(seed=seeds)
    def it_begins(self, seed: int) -> None:
        for tenant in TENANTS:
            self.ask_run(tenant=tenant, count=1, again=False, group=False)
            self.ask_volume(tenant=tenant, again=False)
        self.all_work_for_a_while(seconds=5.0)
        self.much_happens(seed)

    @rule(seed=seeds)
    def much_happens(self, seed: int) -> None:
        """Hypothesis itself would draw thinly: it leaves out rules and repeats what it drew."""
        chance = random.Random(seed)
        for _ in range(MUCH):
            can = [name for name, move in MOVES.items() if move.when(self)]
            [name] = chance.choices(can, [MOVES[one].weight for one in can])
            self.play(name, {word: chance.choice(CHOICES[word]) for word in MOVES[name].words})

    def play(self, name: str, words: dict[str, Any]) -> None:
        self.story.append((name, words))
        MOVES[name].call(self, **words)
        self.look()

    # --- asking ---------------------------------------------------------------------------

    def ask(
        self, tenant: str, again: bool, verb: Callable[..., Any], *words: Any, **more: Any
    ) -> Any:
        """The answer, or None when it is refused: then nothing has changed.  A request that comes
        `again` has happened once."""
        user, project = self.tenants[tenant]
        ctx = Context(f"req-{next(self.requests)}", user, project, tenant, tenant)
        before = self.cloud.rows(MARKS)
        try:
            answer = verb(ctx, *words, **more)
        except errors.Error:
            assert self.cloud.rows(MARKS) == before, "it was refused and has changed something"
            return None
        if again:
            after = self.cloud.rows(MARKS)
            verb(ctx, *words, **more)
            assert self.cloud.rows(MARKS) == after, "it happened twice"
        return answer

    @happens(8, lambda self: self.count("instances", LIVES) < 6)
    def ask_run(self, tenant: str, count: int, again: bool, group: bool) -> None:
        wish = {"image": "ami-tty", "count_min": 1, "count_max": count, "flavor": "m1.nano"}
        self.ask(tenant, again, instances.run, **wish, groups=["web"] if group else [])

    @happens(16, lambda self: self.count("instances", STANDS))
    def ask_instance(self, number: int, again: bool) -> None:
        tenant, id, state = self._one("instances", STANDS, number)
        verbs = USUAL.get(state, tuple(VERBS))
        self.ask(tenant, again, VERBS[verbs[number // 4 % len(verbs)]], [ids.ec2("i", id)])

    @happens(1, lambda self: self.count("instances", STANDS) > 2)
    def ask_terminate(self, number: int, again: bool) -> None:
        tenant, id, _ = self._one("instances", LIVES, number)
        self.ask(tenant, again, instances.terminate, [ids.ec2("i", id)])

    @happens(2)
    def ask_anything(self, verb: str, number: int, again: bool) -> None:
        """Of what is another's, and of what may be in no state for it."""
        tenant, id, _ = self._one("instances", ANY, number)
        [other] = set(TENANTS) - {tenant}
        assert self.ask(other, False, VERBS[verb], [ids.ec2("i", id)]) is None
        self.ask(tenant, again, VERBS[verb], [ids.ec2("i", id)])

    @happens(6, lambda self: self.count("volumes", KEPT) < 5)
    def ask_volume(self, tenant: str, again: bool) -> None:
        self.ask(tenant, again, volumes.create, size_gib=1, zone="nova")

    @happens(8, lambda self: self.count("volumes", FREE))
    def ask_attach(self, number: int, again: bool) -> None:
        """To the first of the tenant's that takes it."""
        tenant, id, _ = self._one("volumes", FREE, number)
        for owner, one, _ in self._newest("instances", LIVES):
            ends = (ids.ec2("vol", id), ids.ec2("i", one))
            if owner == tenant and self.ask(tenant, again, volumes.attach, *ends, device=None):
                return

    @happens(3, lambda self: self.count("volumes", HELD))
    def ask_detach(self, number: int, again: bool) -> None:
        tenant, id, _ = self._one("volumes", HELD, number)
        self.ask(tenant, again, volumes.detach, ids.ec2("vol", id))

    @happens(2, lambda self: self.count("volumes", FREE))
    def ask_delete(self, number: int, again: bool) -> None:
        tenant, id, _ = self._one("volumes", KEPT, number)
        self.ask(tenant, again, volumes.delete, ids.ec2("vol", id))

    @happens(2)
    def ask_group(self, tenant: str, wish: str, port: int, again: bool) -> None:
        spec = rules.RuleSpec("tcp", port, port, cidr="0.0.0.0/0")
        match wish:
            case "create":
                self.ask(tenant, again, groups.create, "web", "of the web")
            case "delete":
                self.ask(tenant, again, groups.delete, name="web")
            case "open":
                self.ask(tenant, again, groups.authorize, name="web", rules=[spec])
            case "close":
                self.ask(tenant, again, groups.revoke, name="web", rules=[spec])

    def count(self, table: str, condition: str) -> int:
        [(number,)] = self.cloud.rows(f"SELECT count(*) FROM {table} WHERE {condition}")
        return int(number)

    def _one(self, table: str, condition: str, number: int) -> tuple[str, str, str]:
        """The tenant, id and state of one that is so; each fourth time of any."""
        found = (number % 4 and self._newest(table, condition)) or self._newest(table, ANY)
        return found[number // 8 % len(found)]

    def _newest(self, table: str, condition: str) -> list[tuple[Any, ...]]:
        return self.cloud.rows(
            f"SELECT p.name, t.id, t.state FROM projects p JOIN {table} t ON t.project_id = p.id"
            f" WHERE t.id IN (SELECT id FROM {table} WHERE {condition})"
            " ORDER BY t.rowid DESC LIMIT 12"
        )

    @happens(5, lambda self: self.cloud.claims())
    def a_mind_is_changed(self, number: int, late: bool, again: bool, rest: int) -> None:
        """What somebody is in the middle of, or has just done, is to end, and they go on."""
        claims = self.cloud.claims()
        life, machine, row = claims[number % len(claims)]
        goes_on = life in self.cloud.lives.values()
        if late and goes_on:
            self.cloud.almost_end(life)
        self._end_it(machine, row, number, again)
        if goes_on:
            self.cloud.all_go_on(life, rest)

    def _end_it(self, machine: states.Machine, row: Any, number: int, again: bool) -> None:
        [(tenant,)] = self.cloud.rows(
            "SELECT p.name FROM projects p WHERE id IN (SELECT project_id FROM instances"
            " WHERE id = ?1 UNION ALL SELECT project_id FROM volumes WHERE id = ?1)",
            row.volume_id if machine is states.ATTACHMENT else row.id,
        )
        if machine is states.INSTANCE:
            self.ask(tenant, again, instances.terminate, [ids.ec2("i", row.id)])
        elif machine is states.VOLUME:
            self.ask(tenant, again, volumes.delete, ids.ec2("vol", row.id))
        elif number % 3:
            self.ask(tenant, again, volumes.detach, ids.ec2("vol", row.volume_id))
        else:
            self.ask(tenant, again, instances.terminate, [ids.ec2("i", row.instance_id)])

    # --- nudges -----------------------------------------------------------------------------

    @happens(24, lambda self: self.cloud.outbox)
    def a_nudge_comes_and_is_followed(self, number: int, keep: bool, steps: int) -> None:
        self.cloud.deliver(number % len(self.cloud.outbox), keep=keep)
        for id in self.cloud.busy():
            self.cloud.begin_job(id, steps)

    @happens(1, lambda self: self.cloud.outbox)
    def a_nudge_is_lost(self, number: int) -> None:
        self.cloud.outbox.pop(number % len(self.cloud.outbox))

    # --- daemons ----------------------------------------------------------------------------

    @happens(4, lambda self: self.cloud.busy())
    def a_job_begins(self, number: int, steps: int) -> None:
        busy = self.cloud.busy()
        self.cloud.begin_job(busy[number % len(busy)], steps)

    @happens(3, lambda self: self.cloud.lives)
    def a_sweep_begins(self, number: int, steps: int) -> None:
        self.cloud.begin_sweep(self._life(number), steps)

    @happens(12, lambda self: self.cloud.jobs)
    def a_job_goes_on(self, number: int, rest: int) -> None:
        self.cloud.go_on(number % len(self.cloud.jobs), rest)

    @happens(1)
    def all_work_for_a_while(self, seconds: float) -> None:
        self.cloud.run(seconds)

    @happens(1)
    def time_passes(self, pause: float) -> None:
        self.cloud.pass_time(pause)

    @happens(2, lambda self: self.cloud.lives)
    def a_daemon_goes(self, number: int, how: str) -> None:
        getattr(self.cloud, how)(self._life(number))

    @happens(6, lambda self: self.cloud.down())
    def a_daemon_comes(self, number: int) -> None:
        down = self.cloud.down()
        self.cloud.begin(down[number % len(down)])

    @happens(2, lambda self: self.cloud.frozen)
    def a_frozen_daemon_goes_on(self, number: int) -> None:
        self.cloud.thaw(sorted(self.cloud.frozen)[number % len(self.cloud.frozen)])

    @happens(2, lambda self: self.cloud.jobs)
    def a_daemon_is_replaced(self, number: int, awake: bool, steps: int) -> None:
        """In the middle of its work, and with more of it waiting; the old process wakes before the
        new one begins, or some time later."""
        for nudge in range(len(self.cloud.outbox)):
            self.cloud.deliver(nudge, keep=True)
        id = self.cloud.jobs[number % len(self.cloud.jobs)].life.id
        self.cloud.freeze(id)
        self.cloud.begin(id)
        if awake:
            self.cloud.wake(self.cloud.replaced[-1])
        self.cloud.begin_sweep(id, FAR)
        self.cloud.begin_job(id, steps)

    @happens(3, lambda self: self.cloud.ghosts)
    def a_replaced_daemon_goes_on(self, number: int, rest: int) -> None:
        self.cloud.haunt(number % len(self.cloud.ghosts), rest)

    @happens(1, lambda self: self.cloud.replaced)
    def a_replaced_daemon_begins(self, number: int, sweep: bool, steps: int) -> None:
        self.cloud.begin_to_haunt(number % len(self.cloud.replaced), sweep, steps)

    def _life(self, number: int) -> str:
        return sorted(self.cloud.lives)[number % len(self.cloud.lives)]

    # --- what is always true ------------------------------------------------------------------

    def look(self) -> None:
        self._nothing_has_two_owners()
        self._nothing_is_exceeded()
        self._every_event_follows_another()

    def _every_event_follows_another(self) -> None:
        """What was moved was where it is said to have been; and as long as everything is made by
        those whose it is, no sweep finds a row that its host does not bear out."""
        for number, kind, id, who, before, to in self.cloud.rows(
            "SELECT id, kind, resource_id, who, from_state, to_state FROM events WHERE id > ?",
            self.heard,
        ):
            assert self.told.get(id) == before, f"{kind} {id} was not {before}, {who} said {to}"
            self.told[id], self.heard = to, number
            mended = kind != "attachment" and before in BORNE_OUT and "@" in who
            assert self.cloud.haunted or not mended, f"{kind} {id} was not {before} but {to}"

    def _nothing_has_two_owners(self) -> None:
        for manager in self.cloud.drivers:
            driver = getattr(manager, "driver", None)
            assert not getattr(driver, "overlaps", ()), "two workers at one domain"
            assert not getattr(driver, "doubles", ()), "an address answered for two"
        for column, table in (
            ("network_id || number", "addresses"),
            ("mac", "addresses"),
            ("holds_volume", "attachments"),
            ("holds_device", "attachments"),
        ):
            owned = self.cloud.rows(f"SELECT {column} FROM {table} WHERE {column} IS NOT NULL")
            assert len(owned) == len(set(owned)), f"{column} has two owners"
        if not self.cloud.haunted:
            self._every_disk_has_an_attachment()

    def _every_disk_has_an_attachment(self) -> None:
        live = "SELECT instance_id, device FROM attachments WHERE state <> 'detached'"
        attached = set(self.cloud.rows(live))
        ended = {
            id for (id,) in self.cloud.rows("SELECT id FROM instances WHERE state = 'terminated'")
        }
        for host, domains in self.cloud.domains().items():
            for domain in domains.values():
                assert domain.id not in ended, f"{host} has what is terminated"
                for letter in domain.volumes:
                    assert (domain.id, letter) in attached, "a guest writes to what it gave back"

    def _nothing_is_exceeded(self) -> None:
        used = self.cloud.rows(
            "SELECT project_id, count(*) FROM instances WHERE state <> 'terminated'"
            " AND NOT (state = 'error' AND host IS NULL) GROUP BY project_id"
        )
        assert all(count <= INSTANCES for _, count in used)
        kept = self.cloud.rows(
            "SELECT project_id, count(*) FROM volumes WHERE state <> 'deleted'"
            " AND NOT (state = 'error' AND host IS NULL) GROUP BY project_id"
        )
        assert all(count <= VOLUMES for _, count in kept)
        booked = self.cloud.rows(
            "SELECT host, count(*) FROM instances WHERE state <> 'terminated'"
            " AND host IS NOT NULL GROUP BY host"
        )
        assert all(count <= PER_HOST for _, count in booked)

    # --- what is true in the end --------------------------------------------------------------

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.end()
        finally:
            if isinstance(sys.exc_info()[1], Exception):
                self.failed[:] = self.story
            self.cloud.close()

    def end(self) -> None:
        [*came] = self.cloud.rows("SELECT DISTINCT to_state FROM events")
        self.came_to.update(state for (state,) in came)
        self.cloud.mend()
        self.cloud.settle()
        assert findings(self.cloud) == []
        for tenant in TENANTS:
            mine = self.cloud.rows(
                "SELECT id FROM instances WHERE project_id = ? AND state <> 'terminated'",
                self.tenants[tenant][1],
            )
            if mine:
                assert self.ask(
                    tenant, False, instances.terminate, [ids.ec2("i", *one) for one in mine]
                )
        self.cloud.settle()
        for tenant in TENANTS:
            for (id,) in self.cloud.rows(
                "SELECT id FROM volumes WHERE project_id = ? AND state <> 'deleted'",
                self.tenants[tenant][1],
            ):
                self.ask(tenant, False, volumes.delete, ids.ec2("vol", id))
        self.cloud.settle()
        assert findings(self.cloud) == []
        assert all(domains == {} for domains in self.cloud.domains().values())
        for table in ("addresses", "group_members"):
            assert self.cloud.rows(f"SELECT * FROM {table}") == []
        left = "SELECT id FROM volumes WHERE state <> 'deleted'"
        assert self.cloud.rows(left) == []


def findings(cloud: Driven) -> list[str]:
    """What is not as it shall be when everything had its time; who has no room may wait for it."""
    [(booked,)] = cloud.rows(
        "SELECT count(*) FROM instances WHERE host IS NOT NULL AND state <> 'terminated'"
    )
    full = booked == PER_HOST * len(cloud.hypervisors)
    # two processes on one host: each would start what the other is said to have started
    ignored = ("is scheduling" if full else "-", "times, asked" if cloud.haunted else "-")
    return [one for one in truth.findings(cloud) if not any(word in one for word in ignored)]


@pytest.fixture
def weather(
    options: Callable[..., None],
    database: str,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[type[Weather]]:
    """Whose every instance is a cloud of its own; all begin as the same."""
    options("daemon", stop_s=0.0)
    # who starts or stops a guest sleeps a moment, and looks at the row again
    options("simulated", memory_mib=512 + PER_HOST * NANO_MIB, start_s=0.1, stop_s=0.1)
    template = tmp_path / "minicloud.sqlite"
    numbers = itertools.count(1)
    with one_thread(monkeypatch) as use:

        class Anew(Weather):
            came_to: ClassVar[collections.Counter[str]] = collections.Counter()
            failed: ClassVar[list[Played]] = []

            def make(self) -> Driven:
                return Driven(tmp_path / str(next(numbers)), template, options, use)

        random.seed(0)
        for name in TENANTS:
            users.create(context.admin(), name)
            project = projects.create(context.admin(), name, name)
            quotas.change(context.admin(), name, "instances", INSTANCES)
            quotas.change(context.admin(), name, "volumes", VOLUMES)
        networks.create(context.admin(), name="private", cidr="10.0.0.0/28")
        active_image(project.id)
        session.forget_engines()
        yield Anew


def test_the_promise_holds_whatever_comes_in_whatever_order(weather: type[Weather]) -> None:
    try:
        run_state_machine_as_test(
            weather,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                phases=[Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception as error:
        error.add_note(shown(shortest(weather, weather.failed, type(error))))
        raise
    machines = (states.INSTANCE, states.VOLUME, states.ATTACHMENT)
    assert set().union(*(one.states for one in machines)) - weather.came_to.keys() <= {"error"}


def shortest(weather: type[Weather], story: list[Played], kind: type[Exception]) -> list[Played]:
    """The moves none of which can be left out, or it would not fail."""
    length = len(story)
    while length := length // 2:
        at = 0
        while at < len(story):
            shorter = story[:at] + story[at + length :]
            if fails(weather, shorter, kind):
                story = shorter
            else:
                at += length
    return story


def fails(weather: type[Weather], story: list[Played], kind: type[Exception]) -> bool:
    cloud = weather()
    try:
        for name, words in story:
            if MOVES[name].when(cloud):
                cloud.play(name, words)
        cloud.end()
    except Exception as error:
        return type(error) is kind
    finally:
        cloud.cloud.close()
    return False


def shown(story: list[Played]) -> str:
    """A test that plays it again, for this file."""
    moves = "".join(
        f"    cloud.{name}({', '.join(f'{word}={value!r}' for word, value in words.items())})\n"
        for name, words in story
    )
    return f"def test_again(weather):\n    cloud = weather()\n{moves}    cloud.end()\n"
