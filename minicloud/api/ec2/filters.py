"""`Filter.N.Name` and `Filter.N.Value.M`: read here once, applied where the rows are.

A thing passes when it passes every filter, and a filter when one of its values fits it
(EC2 user guide, "Filter your results"); what a value may say is `cloud.filters`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from typing_extensions import override

from minicloud import errors
from minicloud.cloud import filters

SHOWN = 80  # characters of a wrong name that the error repeats


class Names(frozenset[str]):
    """Names of filters, and every `tag:NAME`."""

    @override
    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or (isinstance(name, str) and name.startswith("tag:"))


def parse(given: list[dict[str, Any]], known: Container[str]) -> dict[str, list[str]]:
    """Values by name; InvalidFilter for a name not `known`, each name once and with a value;
    FilterLimitExceeded, BadRequest for what is too much."""
    parsed: dict[str, list[str]] = {}
    for filter in given:
        name, values = filter.get("Name"), filter.get("Values")
        if not name:
            raise errors.MissingParameter(name="Filter.Name")
        if name not in known:
            raise errors.InvalidFilter(name=name[:SHOWN])
        if name in parsed:
            raise errors.BadRequest(reason=f"The filter '{name}' is given more than once")
        if not values:
            raise errors.BadRequest(reason=f"The filter '{name}' has no value")
        parsed[name] = values
    filters.check(parsed)
    return parsed


def choose(
    things: Sequence[dict[str, Any]],
    given: Mapping[str, list[str]] | None,
    members: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The things that pass, by the members that the filters' names stand for: for the few things
    that no table holds, such as zones."""
    return [
        thing
        for thing in things
        if all(
            filters.fits(thing[members[name]], values) for name, values in (given or {}).items()
        )
    ]
