"""What a command leaves for daemons to do, told them before it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

PATIENCE_S = 5.0  # for the broker; what it does not take is done by the next sweeps


@contextlib.contextmanager
def sent() -> Iterator[None]:
    """Daemons are told at once what is asked of them in the block, as far as the broker takes
    it."""
    from minicloud import rpc
    from minicloud.db import session

    session.send_with(rpc.send)
    yield
    rpc.flush(PATIENCE_S)
