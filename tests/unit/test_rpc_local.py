"""Messages between daemons of one process: the same promises as with a broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from minicloud import context, errors, ids, interfaces, rpc
from minicloud.context import Context

ID = ids.new()


class Recorder(interfaces.Compute):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []
        self.heard = threading.Event()

    def build_instance(self, ctx: Context, id: str, /) -> None:
        self.told.append((ctx.request_id, id))
        self.heard.set()

    def console_output(self, ctx: Context, *, id: str, max_bytes: int) -> str:
        if id == "none":
            raise errors.InstanceNotFound(id=id)
        return f"{id} {max_bytes} {context.current() == ctx}"


@pytest.fixture
def local(options: Callable[..., None]) -> Iterator[None]:
    options("rpc", transport_url="local://")
    yield
    rpc.flush(5)


def nudge(host: str | None, id: str = ID) -> None:
    with context.use(Context("req-1")):
        rpc.send([rpc.Nudge(interfaces.Compute.build_instance, id, host)])
    rpc.flush(5)


def ask(host: str, id: str = "id") -> str:
    method = interfaces.Compute.console_output
    return rpc.ask_host(method, Context("req-2"), host, id=id, max_bytes=3)


def test_a_nudge_reaches_the_host_it_is_for_with_its_request(local):
    one, two = Recorder(), Recorder()
    servers = [rpc.serve(r, interfaces.Compute, h) for r, h in ((one, "h1"), (two, "h2"))]
    nudge("h2")
    assert two.heard.wait(5)
    assert (one.told, two.told) == ([], [("req-1", ID)])
    nudge(None, ids.new())
    assert len(one.told) + len(two.told) == 2
    for server in servers:
        server.stop()


def test_what_nobody_listens_for_is_dropped(local):
    recorder = Recorder()
    rpc.serve(recorder, interfaces.Compute, "h1").stop()
    nudge("h1")
    nudge(None)
    assert recorder.told == []


def test_an_ask_is_answered_or_raises_what_the_daemon_raised(local):
    server = rpc.serve(Recorder(), interfaces.Compute, "h1")
    assert ask("h1") == "id 3 True"
    with pytest.raises(errors.InstanceNotFound):
        ask("h1", "none")
    server.stop()
    with pytest.raises(errors.Unavailable, match="h1"):
        ask("h1")


def test_a_successor_on_the_same_host_is_not_taken_away_by_its_predecessors_end(local):
    first = rpc.serve(Recorder(), interfaces.Compute, "h1")
    second = rpc.serve(Recorder(), interfaces.Compute, "h1")
    first.stop()
    assert ask("h1")
    second.stop()


def test_what_every_daemon_can_be_asked_is_asked_of_the_one_that_is_meant(local):
    class Auditor(interfaces.Network):
        def audit(self, ctx: Context) -> dict[str, object]:
            return {"findings": [], "who": "network"}

    server = rpc.serve(Auditor(), interfaces.Network, "h1")
    answer = rpc.ask_host(interfaces.Network.audit, Context("req-3"), "h1")
    assert answer == {"findings": [], "who": "network"}
    with pytest.raises(errors.Unavailable, match="the compute daemon of h1 does not answer"):
        rpc.ask_host(interfaces.Compute.audit, Context("req-4"), "h1")
    server.stop()


def test_versions_are_compared_by_their_numbers():
    assert rpc.version_of("1.9") < rpc.version_of("1.10")
    assert rpc.since_of(interfaces.Compute.audit) == (1, 1)
    assert rpc.serves("1.10", interfaces.Compute.audit)
    assert not rpc.serves("1.0", interfaces.Compute.audit)


def test_an_interface_has_the_version_of_its_newest_method():
    class Old:
        @rpc.nudge()
        def first(self, ctx: Context, id: str, /) -> None: ...

    class New(Old):
        @rpc.nudge(since="1.10")
        def second(self, ctx: Context, id: str, /) -> None: ...

        @rpc.ask(since="1.9")
        def third(self, ctx: Context) -> None: ...

    assert rpc.interface("old")(Old).version == "1.0"
    assert rpc.interface("new")(New).version == "1.10"
