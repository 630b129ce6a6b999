"""The registry of EC2 actions, and what is done once for all of them.

An action is a function under `@action`.  It is named after the action, its keyword arguments are
members of the model's request in snake_case, and its result is the dict that boto3 would return:

    @action
    def delete_key_pair(ctx: Context, *, key_name: str | None = None, …) -> dict[str, Any]:

Done here, so that no action does it: the parameters an action does not take, `Filters` by name,
`MaxResults` and `NextToken`, and `DryRun`, which the context carries to where it is decided
(`db.session.once`).
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import hmac
import inspect
import json
from collections.abc import Callable, Container, Iterable
from typing import Any, overload

from minicloud import config, errors
from minicloud.api.aws import protocol
from minicloud.api.ec2 import filters as filters_
from minicloud.context import Context

Action = Callable[..., dict[str, Any]]

SERVICE = "ec2"
MOST_RESULTS = 1000
LEAST_RESULTS = 5

# Members that an action may be given though it does not take them: they ask for things this cloud
# has none of, or AWS itself reserves them.
WITHOUT_EFFECT = {
    "additional_info",
    "all_availability_zones",
    "all_regions",
    "include_deprecated",
    "include_disabled",
    "include_managed_resources",
    "include_unsupported_in_region",
}

# lists of ids that do not name what is described, so that they may be read by pages
NO_NAMES = {"owner_ids", "restorable_by_user_ids"}

_actions: dict[str, Action] = {}
_parameters: dict[str, frozenset[str]] = {}
_filters: dict[str, Container[str]] = {}


@overload
def action(function: Action) -> Action: ...
@overload
def action(*, filters: Container[str]) -> Callable[[Action], Action]: ...
def action(
    function: Action | None = None, *, filters: Container[str] = ()
) -> Action | Callable[[Action], Action]:
    """Register an EC2 action under its function's name; `filters` are those it understands."""

    def register(function: Action) -> Action:
        name = "".join(word.capitalize() for word in function.__name__.split("_"))
        _actions[name] = function
        _parameters[name] = frozenset(inspect.signature(function).parameters) - {"ctx"}
        _filters[name] = filters
        return function

    return register if function is None else register(function)


def names() -> list[str]:
    """The actions that are built."""
    return sorted(_actions)


def built(name: str) -> Action:
    """The function of an action that is built."""
    return _actions[name]


def filters_of(name: str) -> list[str]:
    """The filters that an action understands, `tag:` for any tag."""
    known = _filters[name]
    listed = list(known) if isinstance(known, Iterable) else []
    return [*listed, "tag:"] if "tag:x" in known else listed


def call(ctx: Context, name: str, pairs: protocol.Pairs) -> tuple[Any, dict[str, Any]]:
    """Do the action `name`: its model and its result.

    InvalidAction when EC2 has no such action, NotBuilt when this cloud has not.
    """
    operation = protocol.operation(SERVICE, name)
    if name not in _actions:
        raise errors.NotBuilt(what=f"The action {name}")
    arguments = protocol.parse(operation, pairs)
    dry_run = bool(arguments.pop("dry_run", False))
    pages = _open_page(ctx, name, arguments)
    if "filters" in arguments:
        arguments["filters"] = filters_.parse(arguments["filters"], _filters[name])
    asker = dataclasses.replace(ctx, dry_run=dry_run)
    result = _actions[name](asker, **_taken(name, arguments))
    if dry_run:  # an action that decides something has raised it by now, in place of its commit
        raise errors.DryRun
    return operation, _close_page(ctx, name, pages, result)


# --- parameters -----------------------------------------------------------------------------


def _taken(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments the action takes; NotBuilt for one it does not, unless that asks nothing."""
    known = _parameters[name]
    for argument, value in arguments.items():
        if argument in known or argument in WITHOUT_EFFECT:
            continue
        if not asks_nothing(value):
            raise errors.NotBuilt(what=f"The parameter {_member(name, argument)} of {name}")
    return {argument: value for argument, value in arguments.items() if argument in known}


def _member(name: str, argument: str) -> str:
    members: list[str] = list(protocol.operation(SERVICE, name).input_shape.members)
    return next(member for member in members if protocol.argument(member) == argument)


def asks_nothing(value: Any) -> bool:
    """True for false, 0, empty text and what holds only such: `Monitoring.Enabled=false`."""
    if isinstance(value, dict):
        return all(asks_nothing(inner) for inner in value.values())
    if isinstance(value, list):
        return all(asks_nothing(inner) for inner in value)
    return not value


# --- pages ----------------------------------------------------------------------------------


def _open_page(ctx: Context, name: str, arguments: dict[str, Any]) -> bytes:
    """Check the limit, turn the token into the key it holds; what later tokens are bound to."""
    limit = arguments.get("max_results")
    if limit is not None:
        if not LEAST_RESULTS <= limit <= MOST_RESULTS:
            raise errors.InvalidValue(
                value=limit,
                name="MaxResults",
                reason=f"Expected a number from {LEAST_RESULTS} to {MOST_RESULTS}",
            )
        for argument, value in arguments.items():
            if argument in NO_NAMES or not argument.endswith(("_ids", "_names")):
                continue
            if value:
                raise errors.InvalidCombination(
                    reason=f"The parameter {_member(name, argument)} cannot be used with the"
                    " parameter MaxResults"
                )
    rest = {key: value for key, value in arguments.items() if key not in _PAGE}
    bound = json.dumps([name, ctx.project_id, rest], sort_keys=True, default=str).encode()
    if "next_token" in arguments:
        arguments["next_token"] = _unseal(bound, arguments["next_token"])
    return bound


def _close_page(ctx: Context, name: str, bound: bytes, result: dict[str, Any]) -> dict[str, Any]:
    if result.get("NextToken") is None:
        return result
    return {**result, "NextToken": _seal(bound, result["NextToken"])}


_PAGE = ("max_results", "next_token")
_SEAL = 16  # bytes


def _seal(bound: bytes, after: str) -> str:
    """A token that holds `after` and is good for the same question of the same project only."""
    return base64.urlsafe_b64encode(_mac(bound, after.encode()) + after.encode()).decode()


def _unseal(bound: bytes, token: str) -> str | None:
    if token == "":  # some clients send it empty for the first page
        return None
    try:
        raw = base64.urlsafe_b64decode(token.encode("ascii"))
    except (binascii.Error, UnicodeEncodeError) as error:
        raise errors.InvalidNextToken from error
    seal, after = raw[:_SEAL], raw[_SEAL:]
    if not hmac.compare_digest(seal, _mac(bound, after)):
        raise errors.InvalidNextToken
    return after.decode()


def _mac(bound: bytes, after: bytes) -> bytes:
    key = b"next-token:" + config.CONF.secret_key.encode()
    return hmac.digest(key, hashlib.sha256(bound).digest() + after, hashlib.sha256)[:_SEAL]
