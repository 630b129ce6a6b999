"""When a native call is taken for hung."""

from __future__ import annotations

from minicloud import concurrency


def test_a_call_that_runs_for_too_long_hangs():
    guard = concurrency.Guard()
    with guard.call("libvirt") as call:
        call.began = 0.0
        assert [guard.hung(float(now), 100) for now in range(0, 101, 10)] == [[]] * 11
        assert guard.hung(110.0, 100) == ["libvirt"]
    assert guard.hung(120.0, 100) == []


def test_a_call_that_waits_for_a_thread_does_not_hang():
    guard = concurrency.Guard()
    with guard.call("libvirt") as call:
        assert [guard.hung(float(now), 100) for now in range(0, 1000, 10)] == [[]] * 100
        assert call.run(lambda: "done") == "done"
        assert call.began is not None


def test_the_time_in_which_the_process_stood_still_is_no_calls():
    guard = concurrency.Guard()
    with guard.call("libvirt") as call:
        call.began = 0.0
        assert guard.hung(0.0, 100) == []
        assert [guard.hung(float(now), 100) for now in range(5000, 5101, 10)] == [[]] * 11
        assert guard.hung(5110.0, 100) == ["libvirt"]
