"""nova.sh's `branch`: a clone of the source to work in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from launcher.report import Failure, Refused, say


def clone(source: str, target: Path) -> None:
    """`target` is a git clone of `source` with what that has now; nothing in it is lost.

    Refused when it is something else.  One that was killed half-way is simply made again.
    """
    if os.path.isdir(source):
        source = str(Path(source).resolve())
    if target.exists():
        _update(source, target)
        return
    part = target.with_name(f".{target.name}.cloning")  # a clone has its name when it is whole
    if part.exists():
        shutil.rmtree(part)
    target.parent.mkdir(parents=True, exist_ok=True)
    _git(["clone", "--quiet", "--no-hardlinks", "--", source, str(part)], source)
    os.rename(part, target)
    say(f"cloned {source} into {target}")


def _update(source: str, target: Path) -> None:
    asked = ["git", "-C", str(target), "config", "--local", "remote.origin.url"]
    origin = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    if origin != source:
        raise Refused(
            f"{target} is there and no clone of {source}", "give another DIR, or move it away"
        )
    _git(["-C", str(target), "pull", "--quiet", "--ff-only"], source)
    say(f"{target} has what {source} has")


def _git(words: list[str], source: str) -> None:
    done = subprocess.run(
        ["git", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
        check=False,
    )
    if done.returncode != 0:
        last = " ".join(done.stderr.split())[-500:]
        raise Failure(f"git cannot fetch {source}: {last}", "put that right, then run it again")
