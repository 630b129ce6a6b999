"""Who asks: the request id, user and project that travel with every request to the last daemon."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import uuid
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Context:
    """Identity of one request.  `roles` is empty for work a daemon took from the database;
    `dry_run`: what it would change is tried and taken back."""

    request_id: str
    user_id: str = ""
    project_id: str = ""
    user: str = ""
    project: str = ""
    roles: tuple[str, ...] = ()
    address: str = ""
    dry_run: bool = False

    @property
    def is_admin(self) -> bool:
        return "admin" in self.roles

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Context:
        """Unknown keys are ignored: drivers of oslo.messaging add their own (`client_timeout`)."""
        known = {f.name for f in dataclasses.fields(cls)}
        taken = {key: value for key, value in values.items() if key in known}
        return cls(**{**taken, "roles": tuple(taken.get("roles") or ())})


def new_request_id() -> str:
    return f"req-{uuid.uuid4()}"


def admin() -> Context:
    """A context for the operator's own commands: all rights, no project."""
    return Context(new_request_id(), user="operator", roles=("admin",))


_local = threading.local()


def current() -> Context | None:
    """The context of the request this (green) thread works for; the log formatter reads it."""
    found: Context | None = getattr(_local, "context", None)
    return found


@contextlib.contextmanager
def use(ctx: Context | None) -> Iterator[None]:
    """Make `ctx` the current one inside the block."""
    before = current()
    _local.context = ctx
    try:
        yield
    finally:
        _local.context = before
