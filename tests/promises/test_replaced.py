"""Who was replaced hands over what the broker had given to it."""

from __future__ import annotations

from collections.abc import Callable

from minicloud import rpc
from tests.conftest import InProcessCloud


def test_who_was_replaced_reads_the_queue_no_more(
    url: str, bare_cloud: InProcessCloud, options: Callable[..., None]
) -> None:
    options("rpc", transport_url=url)
    queue = ("scheduler", "h1")
    bare_cloud.scheduler("h1")
    replaced = bare_cloud.lives["scheduler@h1"]
    bare_cloud.wait(lambda: rpc.readers([queue]) == {queue: 1})
    bare_cloud.scheduler("h1")
    bare_cloud.wait(replaced.fenced.is_set)
    bare_cloud.wait(lambda: rpc.readers([queue]) == {queue: 1})
