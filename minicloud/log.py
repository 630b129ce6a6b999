"""Logging: one line an event, with the request it belongs to in front of the message."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

from oslo_config import cfg
from typing_extensions import override

from minicloud import context

FORMAT = "%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s [%(request)s] %(message)s"
LOUD = ("amqp", "oslo.messaging", "oslo_messaging", "oslo", "routes", "botocore")


# a message may hold what a client sent: nothing of it moves a terminal or looks like another line
_CONTROL = {at: ascii(chr(at))[1:-1] for at in (*range(32), *range(127, 160), 0x2028, 0x2029)}


class _WithRequest(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        ctx = context.current()
        record.request = (
            " ".join((ctx.request_id, ctx.user or "-", ctx.project or "-")) if ctx else "-"
        )
        return super().format(record)

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).translate(_CONTROL)


def set_up(stream: TextIO | None = None) -> None:
    """Log to `stream`, else to stderr (systemd's journal or the launcher's file keeps it), at
    DEBUG if asked."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_WithRequest(FORMAT, "%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if cfg.CONF.debug else logging.INFO)
    logging.getLogger("sqlalchemy").setLevel(logging.WARNING)  # at INFO it tells every parameter
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.INFO if cfg.CONF.debug else logging.WARNING)


def options() -> None:
    """Log every option with its value at DEBUG; secrets are masked."""
    cfg.CONF.log_opt_values(logging.getLogger("minicloud"), logging.DEBUG)
