"""How this cloud uses RabbitMQ, as far as it shows without one."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from oslo_config import cfg

from minicloud import errors, rpc


def test_what_a_process_leaves_at_the_broker_is_gone_a_minute_later(
    options: Callable[..., None],
) -> None:
    options("rpc", transport_url="rabbit://minicloud:x@127.0.0.1:1/minicloud")
    try:
        rpc.transport()  # connects only when something is sent
        assert cfg.CONF.oslo_messaging_rabbit.rabbit_transient_queues_ttl == rpc.ABANDONED_S
    finally:
        rpc.forget_transport()


def test_a_broker_whose_url_names_no_port_is_at_the_usual_one(
    options: Callable[..., None],
) -> None:
    options("rpc", transport_url="rabbit://minicloud:x@127.0.0.77/nowhere")
    with pytest.raises(errors.Unavailable, match=re.escape("127.0.0.77:5672/nowhere")):
        rpc.broker()
