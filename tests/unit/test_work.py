"""The work queue and the frame around an apply."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from minicloud import work


@pytest.fixture
def queue() -> work.Queue:
    return work.Queue(6)


def wait(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not true within 10 s")


def assert_true(value: object) -> None:
    assert value


def test_a_job_that_waits_is_queued_once(queue: work.Queue) -> None:
    inside, go, ran = threading.Event(), threading.Event(), []

    def blocker() -> None:
        inside.set()
        go.wait(10)

    queue.add("thing", "first", blocker)
    assert inside.wait(10)
    for _ in range(70):
        queue.add("thing", "second", lambda: ran.append(1))
    go.set()
    wait(queue.idle)
    assert ran == [1]


def test_a_job_added_while_it_runs_runs_again(queue: work.Queue) -> None:
    inside, go, runs = threading.Event(), threading.Event(), []

    def job() -> None:
        runs.append(1)
        inside.set()
        go.wait(10)

    queue.add("thing", "job", job)
    assert inside.wait(10)
    queue.add("thing", "job", job)
    go.set()
    wait(lambda: len(runs) == 2 and queue.idle())


def test_one_worker_at_a_time_is_on_a_key(queue: work.Queue) -> None:
    busy: list[int] = []
    overlaps: list[int] = []
    done: list[int] = []

    def job(name: int) -> None:
        if busy:
            overlaps.append(name)
        busy.append(name)
        threading.Event().wait(0.005)
        busy.pop()
        done.append(name)

    for name in range(20):
        queue.add("thing", str(name), lambda name=name: job(name))  # type: ignore[misc]
    wait(lambda: len(done) == 20)
    assert overlaps == []


def test_ending_work_finds_a_worker_when_all_others_are_busy(queue: work.Queue) -> None:
    go, ended = threading.Event(), threading.Event()
    for number in range(50):
        queue.add(f"slow{number}", "build", lambda: assert_true(go.wait(10)))
    queue.add("urgent", "terminate", ended.set, "ending")
    assert ended.wait(5)
    go.set()
    wait(queue.idle)


def test_suspects_are_handled_one_at_a_time_while_other_work_goes_on(queue: work.Queue) -> None:
    inside, go, other = threading.Event(), threading.Event(), threading.Event()
    second = threading.Event()

    def suspect() -> None:
        inside.set()
        go.wait(10)

    queue.add("bad1", "build", suspect, "suspect")
    assert inside.wait(5)
    queue.add("bad2", "build", second.set, "suspect")
    queue.add("good", "build", other.set)
    assert other.wait(5)
    assert not second.is_set()
    go.set()
    assert second.wait(5)


def test_jobs_that_come_together_run_together(queue: work.Queue) -> None:
    queue.add("first", "job", lambda: None)
    wait(lambda: queue._idle == queue._threads > 0)  # workers wait for what comes
    together = threading.Barrier(queue.limits["ordinary"] + 1, timeout=5)
    with queue._change:  # a sweep of green threads adds them all before any worker wakes
        for number in range(queue.limits["ordinary"]):
            queue.add(f"thing{number}", "job", lambda: assert_true(together.wait() >= 0))
    together.wait()


def test_a_job_that_puts_itself_off_is_put_off_once_however_often_it_is_added(
    queue: work.Queue,
) -> None:
    runs: list[int] = []

    def job() -> None:
        queue.later(3600 + len(runs), "thing", "job", job)
        runs.append(1)

    for number in range(1, 21):
        queue.add("thing", "job", job)
        wait(lambda number=number: len(runs) == number and queue.idle())  # type: ignore[misc]
    assert len(queue._later) == 1


def test_a_job_put_off_twice_runs_once_at_the_earlier_time(queue: work.Queue) -> None:
    ran: list[int] = []
    last = threading.Event()
    with queue._change:  # no time comes before all are said
        queue.later(0.1, "thing", "job", lambda: ran.append(1))
        queue.later(0.01, "thing", "job", lambda: ran.append(2))
        queue.later(0.05, "thing", "job", lambda: ran.append(3))
        queue.later(0.2, "last", "job", last.set)
    assert last.wait(10)
    wait(queue.idle)
    assert ran == [2]


def test_later_jobs_run_after_their_pause(queue: work.Queue) -> None:
    ran = threading.Event()
    queue.later(0.05, "thing", "job", ran.set)
    assert ran.wait(10)


def test_a_job_that_raises_does_not_stop_its_worker(queue: work.Queue) -> None:
    ran = threading.Event()

    def broken() -> None:
        raise ValueError("broken")

    for number in range(10):
        queue.add(f"b{number}", "job", broken)
    queue.add("good", "job", ran.set)
    assert ran.wait(10)


def test_stop_waits_for_what_runs_and_takes_nothing_more(queue: work.Queue) -> None:
    inside, go = threading.Event(), threading.Event()

    def job() -> None:
        inside.set()
        go.wait(10)

    queue.add("thing", "job", job)
    assert inside.wait(5)
    threading.Timer(0.1, go.set).start()
    assert queue.stop(10)
    ran = threading.Event()
    queue.add("other", "job", ran.set)
    assert not ran.wait(0.1)
