"""What a command is: a function whose parameters are its arguments and whose docstring its help.

Arguments are given in order or as `--name VALUE`; a parameter with a default may be left out; a
`bool` is a flag, `--name`.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from typing_extensions import override

PROGRAM = "minicloud-manage"

COMMANDS: dict[str, Command] = {}

Function = typing.TypeVar("Function", bound=Callable[..., int | None])


class WrongUsage(Exception):
    """What was typed is no command of ours, or lacks arguments: exit 2."""


@dataclasses.dataclass(frozen=True)
class Argument:
    name: str  # as in Python
    kind: type
    required: bool
    default: Any

    @property
    def flag(self) -> bool:
        return self.kind is bool

    @property
    def shown(self) -> str:
        return self.name.rstrip("_").upper()

    @property
    def option(self) -> str:
        return "--" + self.name.rstrip("_").replace("_", "-")


@dataclasses.dataclass(frozen=True)
class Command:
    words: str  # "network create"
    function: Callable[..., int | None]

    @property
    def help(self) -> str:
        return inspect.getdoc(self.function) or ""

    @property
    def summary(self) -> str:
        return self.help.split("\n")[0]

    @property
    def arguments(self) -> list[Argument]:
        kinds = typing.get_type_hints(self.function)
        return [
            Argument(name, kinds[name], given.default is given.empty, given.default)
            for name, given in inspect.signature(self.function).parameters.items()
        ]

    @property
    def usage(self) -> str:
        parts = [
            f"[{one.option}]" if one.flag else one.shown if one.required else f"[{one.shown}]"
            for one in self.arguments
        ]
        return " ".join([PROGRAM, self.words, *parts])


def command(words: str) -> Callable[[Function], Function]:
    """Make the function the command of these words."""

    def register(function: Function) -> Function:
        COMMANDS[words] = Command(words, function)
        return function

    return register


def find(words: Sequence[str]) -> tuple[Command, list[str]]:
    """The command these words begin with, and the words after it; WrongUsage."""
    for length in (2, 1):
        found = COMMANDS.get(" ".join(words[:length]))
        if found is not None:
            return found, list(words[length:])
    verbs = [known.split()[1] for known in COMMANDS if known.startswith(f"{words[0]} ")]
    if not verbs:
        raise WrongUsage(f"unknown command {words[0]!r}, see {PROGRAM} --help")
    what = f"unknown command {' '.join(words[:2])!r}" if len(words) > 1 else "a verb is missing"
    raise WrongUsage(f"{what} (usage: {PROGRAM} {words[0]} {'|'.join(verbs)} …)")


def arguments(which: Command, words: Sequence[str]) -> dict[str, Any]:
    """The function's keyword arguments from what was typed; WrongUsage naming what is wrong."""
    parser = _Parser(prog=PROGRAM, usage=which.usage, add_help=False, allow_abbrev=False)
    parser.add_argument("values", nargs="*")
    for one in which.arguments:
        if one.flag:
            parser.add_argument(one.option, dest=one.name, action="store_true", default=None)
        else:
            parser.add_argument(one.option, dest=one.name)
    parsed = vars(parser.parse_intermixed_args(list(words)))
    values = parsed.pop("values")
    given = {name: value for name, value in parsed.items() if value is not None}
    for one in which.arguments:
        if values and not one.flag and one.name not in given:
            given[one.name] = values.pop(0)
    missing = [one.shown for one in which.arguments if one.required and one.name not in given]
    if missing:
        raise WrongUsage(f"{' '.join(missing)} is missing (usage: {which.usage})")
    if values:
        raise WrongUsage(f"too many arguments: {' '.join(values)} (usage: {which.usage})")
    return {
        one.name: _converted(which, one, given[one.name])
        for one in which.arguments
        if one.name in given
    }


def _converted(which: Command, one: Argument, value: Any) -> Any:
    if one.kind is not int:
        return value
    try:
        return int(value)
    except ValueError:
        raise WrongUsage(f"{one.shown} is not a number (usage: {which.usage})") from None


class _Parser(argparse.ArgumentParser):
    @override
    def error(self, message: str) -> NoReturn:
        raise WrongUsage(f"{message} (usage: {self.usage})")
