"""`minicloud-manage NOUN VERB [ARGUMENTS]`: the result on stdout, `error: …` in a line on stderr.

Exit 0: done.  1: refused or failed.  2: wrong usage.  A command's own number, if it returns one.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence

from minicloud import errors, nouns
from minicloud.cli import commands
from minicloud.cli.commands import COMMANDS, PROGRAM, Command, WrongUsage

CONFIG_FILE = "/etc/minicloud/minicloud.conf"
HELP = ("-h", "--help")

nouns.load("minicloud.cli")


def main() -> None:
    """The console script."""
    try:
        status = run(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head` is no failure of ours, but the list was cut off
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except KeyboardInterrupt:
        status = 130
    raise SystemExit(status)


def run(words: Sequence[str]) -> int:
    """Do what was typed and return the exit status."""
    try:
        file, words = _config_file(words)
        if not words or words[0] in HELP:
            print(_overview(list(COMMANDS.values())))
            return 0
        if any(word in HELP for word in words):
            print(_help([word for word in words if word not in HELP]))
            return 0
        found, rest = commands.find(words)
        given = commands.arguments(found, rest)
    except WrongUsage as error:
        return _say(str(error), 2)
    try:
        _read_options(file)
        status = found.function(**given)
    except WrongUsage as error:
        return _say(str(error), 2)
    except (errors.Error, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        return _say(str(error), 1)
    except Exception as error:
        _explain()
        return _say(f"{type(error).__name__}: {error}", 1)
    return status or 0


def _say(message: str, status: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return status


def _explain() -> None:
    """A defect of ours: where it happened, for whoever runs with `debug`."""
    from oslo_config import cfg

    if cfg.CONF.debug:
        traceback.print_exc()


def _config_file(words: Sequence[str]) -> tuple[str, list[str]]:
    """The file that is named anywhere before a `--`, and the other words."""
    file, rest = CONFIG_FILE, list(words)
    end = rest.index("--") if "--" in rest else len(rest)
    place = 0
    while place < end:
        name, equals, value = rest[place].partition("=")
        if name != "--config-file":
            place += 1
            continue
        if not equals and place + 1 >= end:
            raise WrongUsage("--config-file needs the name of a file")
        file = value if equals else rest[place + 1]
        taken = 1 if equals else 2
        del rest[place : place + taken]
        end -= taken
    return file, rest


def _read_options(file: str) -> None:
    """The file's options are known; errors.BadRequest when it cannot be read."""
    from minicloud import config as options

    logging.basicConfig(level=logging.CRITICAL)
    warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
    options.load(["--config-file", file], PROGRAM)


# --- help -----------------------------------------------------------------------------------


def _overview(known: Sequence[Command]) -> str:
    width = max(len(one.words) for one in known)
    lines = [f"  {one.words.ljust(width)}  {one.summary}" for one in known]
    return "\n".join(
        [
            f"usage: {PROGRAM} [--config-file FILE] NOUN VERB [ARGUMENTS]",
            "",
            "Arguments are given in order or as --name VALUE.  Lists take --json.",
            f"FILE is {CONFIG_FILE} unless given; {PROGRAM} NOUN VERB --help says more.",
            "",
            *lines,
        ]
    )


def _help(words: Sequence[str]) -> str:
    found = COMMANDS.get(" ".join(words[:2])) or COMMANDS.get(words[0])
    if found is not None:
        return _command_help(found)
    same = [one for one in COMMANDS.values() if one.words.startswith(f"{words[0]} ")]
    if not same:
        raise WrongUsage(f"unknown command {words[0]!r}, see {PROGRAM} --help")
    return _overview(same)


def _command_help(which: Command) -> str:
    lines = [f"usage: {which.usage}", "", which.help]
    if which.arguments:
        lines += ["", "arguments, in order or by name:"]
    width = max((len(one.option) + len(one.shown) for one in which.arguments), default=0)
    for one in which.arguments:
        form = one.option if one.flag else f"{one.option} {one.shown}"
        default = "" if one.required or one.flag else f"  default: {one.default or 'none'}"
        lines.append(f"  {form.ljust(width + 1)}{default}".rstrip())
    return "\n".join(lines)
