"""The Compute API as a service, and its server actions.

A server action is a function under `@server_action(name)`: POST /servers/{id}/action with
`{name: …}`.  It answers 202 without a body, or 200 with what it returns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from minicloud import errors, wsgi
from minicloud.api.openstack import wire
from minicloud.context import Context

SERVICE = wire.Service("compute", "/v2.1", wire.fault)
route = SERVICE.route

Action = Callable[[Context, str, Any], Any]


@dataclasses.dataclass(frozen=True)
class _Action:
    function: Action
    schema: wire.Schema
    check: Callable[[], Callable[[Any], Any]]


_actions: dict[str, _Action] = {}


def server_action(name: str, schema: wire.Schema = wire.EMPTY) -> Callable[[Action], Action]:
    """Register what `{name: body}` does; `schema` is what the body must fit."""

    def register(function: Action) -> Action:
        _actions[name] = _Action(function, schema, wire.checker(schema))
        return function

    return register


def actions() -> list[str]:
    """The server actions that are built."""
    return sorted(_actions)


@route(
    "POST",
    "/servers/{server_id}/action",
    schema={"type": "object", "minProperties": 1, "maxProperties": 1},
    status=202,
)
def act(ctx: Context, req: wire.Request, server_id: str) -> wsgi.Response | None:
    [(name, given)] = req.body.items()
    action = _actions.get(name)
    if action is None:
        raise errors.NotBuilt(what=f"The server action {name[:80]}")
    wire.check(given, action.schema, action.check)
    result = action.function(ctx, server_id, given)
    if result is None:
        return None
    return wsgi.Response(json=result)


def href(req: wire.Request, path: str) -> str:
    """The address of a thing of this API."""
    return f"{req.base}{SERVICE.prefix}{path}"


def links(req: wire.Request, path: str) -> list[dict[str, str]]:
    return [wire.link(href(req, path)), wire.link(f"{req.base}{path}", "bookmark")]


def listed(
    req: wire.Request, name: str, things: list[dict[str, Any]], next: str | None, path: str
) -> dict[str, Any]:
    """A page of things, and where the next one is."""
    found: dict[str, Any] = {name: things}
    if next is not None:
        found[f"{name}_links"] = [wire.link(req.next_page(SERVICE.prefix + path, next), "next")]
    return found


def last_part(reference: str) -> str:
    """The id in an id, or in the address of a thing."""
    return reference.rstrip("/").rpartition("/")[2]
