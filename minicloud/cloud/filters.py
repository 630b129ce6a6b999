"""Filters of lists, as SQL.  A noun's `FILTERS` says for each name what its values are matched
with; here is how.

In a value `*` stands for any text, `?` for one character, and a backslash takes the next
character as it is; case counts (EC2 user guide, "Filter your results").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext import compiler
from sqlalchemy.sql import functions
from typing_extensions import override

from minicloud import errors, ids
from minicloud.db import models

Match = Callable[[Sequence[str]], Any]  # values → the condition that one of them fits

VALUES = 200  # in all filters of a request together; AWS's own limit
LENGTH = 255  # of one value
TAG, TAG_NAME, TAG_VALUE = "tag:", "tag-key", "tag-value"

SHORT_ID = re.compile("[a-z]+-[0-9a-f]{8}")

ANY, ONE = object(), object()

# sa.false() would swallow the conditions beside it, and with them the joins of `related`
NEVER: Any = sa.literal(1) == sa.literal(0)


class Tagged(Mapping[str, Match]):
    """The filters of a noun that has tags: those `known`, `tag-key`, `tag-value` (of old clients)
    and `tag:NAME` for any NAME.  `id` is the column of its uuids."""

    def __init__(self, id: Any, known: Mapping[str, Match]) -> None:
        self._on = models.Tag.resource_id == id
        self._known = {
            **known,
            TAG_NAME: related(text(models.Tag.name), self._on),
            TAG_VALUE: related(text(models.Tag.value), self._on),
        }

    @override
    def __getitem__(self, name: str) -> Match:
        if not name.startswith(TAG) or name == TAG:
            return self._known[name]
        tag = name.removeprefix(TAG)
        if not storable(tag):
            return lambda values: NEVER
        return related(text(models.Tag.value), self._on, models.Tag.name == tag)

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    @override
    def __len__(self) -> int:
        return len(self._known)


def by_tags(given: Mapping[str, Sequence[str]]) -> bool:
    """One of the filters asks for tags."""
    return any(name in (TAG_NAME, TAG_VALUE) or name.startswith(TAG) for name in given)


def conditions(given: Mapping[str, Sequence[str]], known: Mapping[str, Match]) -> list[Any]:
    """SQL conditions, all of which must hold; InvalidFilter for a name that is not known."""
    found = []
    for name, values in given.items():
        if name not in known:
            raise errors.InvalidFilter(name=name[:LENGTH])
        possible = [value for value in values if storable(value)]
        found.append(known[name](possible) if possible else NEVER)
    return found


def check(given: Mapping[str, Sequence[str]]) -> None:
    """FilterLimitExceeded for too many values, BadRequest for one that is too long."""
    total = sum(len(values) for values in given.values())
    if total > VALUES:
        raise errors.FilterLimitExceeded(limit=VALUES, given=total)
    for name, values in given.items():
        if any(len(value) > LENGTH for value in values):
            what = f"A value of the filter '{name[:LENGTH]}'"
            raise errors.BadRequest(reason=f"{what} is longer than {LENGTH} characters")


def fits(text: str, values: Sequence[str]) -> bool:
    """One of the values fits `text`: for what no table holds."""
    return any(_fits(text, _parse(value)) for value in values)


def storable(value: str) -> bool:
    """No control character and no half of a surrogate pair: nothing stored has any, and some
    databases refuse to compare with them."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in value)


# --- what values are matched with -----------------------------------------------------------


def text(column: Any) -> Match:
    """A column, or an expression, that holds text."""

    def match(values: Sequence[str]) -> Any:
        patterns = [_parse(value) for value in values]
        plain = ["".join(pattern) for pattern in patterns if not _wild(pattern)]
        wild = [Like(column, _glob(one), _like(one)) for one in patterns if _wild(one)]
        return sa.or_(column.in_(plain), *wild)

    return match


def ascii_text(column: Any) -> Match:
    """A column of identifiers: MariaDB refuses to compare it with what is not ASCII."""
    inner = text(column)

    def match(values: Sequence[str]) -> Any:
        possible = [value for value in values if value.isascii()]
        return inner(possible) if possible else NEVER

    return match


def number(column: Any) -> Match:
    """A column of whole numbers; what is not one matches nothing."""

    def match(values: Sequence[str]) -> Any:
        return column.in_([int(value) for value in values if re.fullmatch("-?[0-9]{1,9}", value)])

    return match


def shown_id(prefix: str, column: Any) -> Match:
    """A uuid column that is shown as `prefix-` and digits."""
    return any_id(sa.literal(f"{prefix}-") + shown_digits(column))


def any_id(shown: Any) -> Match:
    """An expression that holds EC2 ids; of eight digits, as old API versions have them, each
    stands for all that begin so."""
    inner = ascii_text(shown)

    def match(values: Sequence[str]) -> Any:
        return inner([f"{value}*" if SHORT_ID.fullmatch(value) else value for value in values])

    return match


def shown_digits(column: Any) -> Any:
    """SQL of what `ids.ec2` shows after the prefix."""
    return sa.func.substr(sa.func.replace(column, "-", ""), 4, ids.SHOWN)


def words(known: Mapping[str, Any]) -> Match:
    """One of few words, each with the condition under which it is shown."""

    def match(values: Sequence[str]) -> Any:
        fitting = [condition for word, condition in known.items() if fits(word, values)]
        return sa.or_(NEVER, *fitting)

    return match


def yes_or_no(condition: Any) -> Match:
    return words({"true": condition, "false": sa.not_(condition)})


def related(match: Match, *joins: Any) -> Match:
    """At least one row of another table fulfils `joins` and matches."""
    return lambda values: sa.exists().where(*joins, match(values))


def exactly(column: Any, value: str) -> Any:
    """The column holds this text, case and all."""
    return column == value if storable(value) and value.isascii() else NEVER


def expression(column: Any, pattern: str) -> Any:
    """The column's text has a part that the regular expression `pattern` fits.

    `^`, `$`, `.`, `.*`, `.+` and `\\` mean what they mean in one; everything else stands for
    itself, since a tenant's expression must not keep a process busy.
    """
    if len(pattern) > LENGTH or not storable(pattern):
        return NEVER
    parsed = _expression(pattern)
    return Like(column, _glob(parsed), _like(parsed))


# --- patterns -------------------------------------------------------------------------------


def _parse(value: str) -> list[Any]:
    """Characters, ANY and ONE; several ANY in a row are one."""
    parsed: list[Any] = []
    characters = iter(value)
    for character in characters:
        if character == "\\":
            parsed.append(next(characters, "\\"))
        elif character == "?":
            parsed.append(ONE)
        elif character != "*":
            parsed.append(character)
        elif not parsed or parsed[-1] is not ANY:
            parsed.append(ANY)
    return parsed


def _expression(pattern: str) -> list[Any]:
    """The same for a regular expression that may match anywhere."""
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    parsed: list[Any] = [] if begins else [ANY]
    rest = pattern[1 if begins else 0 : -1 if ends else None]
    for part in re.findall(r"\\.|\.\*|\.\+|.", rest, re.DOTALL):
        if part == ".*":
            parsed.append(ANY)
        elif part == ".+":
            parsed += [ONE, ANY]
        elif part == ".":
            parsed.append(ONE)
        else:
            parsed.append(part[-1])
    return parsed if ends else [*parsed, ANY]


def _wild(pattern: Sequence[Any]) -> bool:
    return any(part is ANY or part is ONE for part in pattern)


def _glob(pattern: Sequence[Any]) -> str:
    special = {ANY: "*", ONE: "?", "*": "[*]", "?": "[?]", "[": "[[]"}
    return "".join(special.get(part, part) for part in pattern)


def _like(pattern: Sequence[Any]) -> str:
    special = {ANY: "%", ONE: "_", "%": "!%", "_": "!_", "!": "!!"}
    return "".join(special.get(part, part) for part in pattern)


def _fits(text: str, pattern: Sequence[Any]) -> bool:
    """In at most as many steps as both are long, multiplied: a regular expression would take for
    ever over some patterns.  Only the last ANY is ever tried again, with one character more."""
    at = place = resume = 0
    last = None
    while at < len(text):
        part = pattern[place] if place < len(pattern) else None
        if part is ANY:
            last, resume = place, at
            place += 1
        elif part is ONE or part == text[at]:
            at, place = at + 1, place + 1
        elif last is None:
            return False
        else:
            resume += 1
            at, place = resume, last + 1
    return all(part is ANY for part in pattern[place:])


class Like(functions.FunctionElement[bool]):
    """`column` fits the pattern, case by case: GLOB on SQLite, whose LIKE takes a for A."""

    type = sa.Boolean()
    inherit_cache = True

    def __init__(self, column: Any, glob: str, like: str) -> None:
        super().__init__(column, sa.literal(glob), sa.literal(like))


@compiler.compiles(Like, "sqlite")
def _like_sqlite(element: Like, compiled: Any, **kw: Any) -> str:
    column, glob, _ = element.clauses
    return f"({compiled.process(column, **kw)} GLOB {compiled.process(glob, **kw)})"


@compiler.compiles(Like)
def _like_others(element: Like, compiled: Any, **kw: Any) -> str:
    column, _, like = element.clauses
    return f"({compiled.process(column, **kw)} LIKE {compiled.process(like, **kw)} ESCAPE '!')"
