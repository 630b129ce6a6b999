"""The files that simulated hosts are made of: each is whole or not there, whoever dies when."""

from __future__ import annotations

import os
import pathlib

PART = ".part"


def fresh(directory: pathlib.Path, file: pathlib.Path) -> pathlib.Path:
    """A name in the directory that nobody else writes to."""
    return directory / f"{file.stem}.{os.urandom(4).hex()}{PART}"


def write(part: pathlib.Path, file: pathlib.Path, text: str) -> None:
    """`file` holds `text`, or what it held before.

    It is written as `part`, which a process that has this host's place too (a replaced one that
    stood still, or its successor) may take for one of the dead: then it is written again.
    """
    try:
        while True:
            part.write_text(text)
            try:
                part.replace(file)
            except FileNotFoundError:
                if part.exists():  # it is the place of `file` that is not there
                    raise
            else:
                return
    finally:
        part.unlink(missing_ok=True)


def clear(directory: pathlib.Path) -> None:
    """The directory holds nothing that a dead process wrote a part of."""
    for part in directory.glob(f"*{PART}"):
        part.unlink(missing_ok=True)
