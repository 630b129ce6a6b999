"""Run a tool: the only importer of subprocess.

Every command is an argument list (never a shell string), is logged so that a reader can paste it,
has a time limit, and dies with its daemon (PR_SET_PDEATHSIG), so that a killed daemon's tool does
not go on beside its successor.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence

from oslo_config import cfg

from minicloud import concurrency, config, errors

LOG = logging.getLogger(__name__)

CONF = config.declare(
    "shell",
    [
        cfg.IntOpt(
            "timeout_s",
            default=60,
            min=1,
            help="Seconds after which a tool that was not given a limit of its own is killed.",
        )
    ],
)

# setpriv(1) sets PR_SET_PDEATHSIG and becomes the tool; a preexec_fn could hang in a forked child
WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
SPOKEN = 2000  # characters of stderr that an error carries


def run(
    argv: Sequence[str],
    *,
    input: str | None = None,
    timeout_s: float | None = None,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
) -> str:
    """The tool's standard output; CommandFailed when it ends badly or not in time.

    With `check=False` a bad end is not an error (the output is still returned).
    """
    concurrency.forbid_in_transaction("a command")
    words = shlex.join(argv)
    LOG.debug("run: %s%s", words, f" <<< ${input!r}" if input else "")
    process = subprocess.Popen(
        [*WITH_US, *argv],
        stdin=subprocess.PIPE if input is not None else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "LC_ALL": "C", **(environment or {})},
    )
    try:
        out, err = process.communicate(input, timeout=timeout_s or CONF.timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise errors.CommandFailed(
            command=words, status="no end in time", stderr=f"{timeout_s or CONF.timeout_s} s"
        ) from None
    if process.returncode and check:
        raise errors.CommandFailed(
            command=words, status=process.returncode, stderr=err.strip()[-SPOKEN:]
        )
    return out


def start_detached(argv: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
    """Run a tool that daemonises itself and outlives this daemon; CommandFailed if it refuses."""
    concurrency.forbid_in_transaction("a command")
    LOG.debug("run: %s", shlex.join(argv))
    process = subprocess.Popen(
        list(argv),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **(environment or {})},
        start_new_session=True,
    )
    _, err = process.communicate(timeout=CONF.timeout_s)
    if process.returncode:
        raise errors.CommandFailed(
            command=shlex.join(argv), status=process.returncode, stderr=err.strip()[-SPOKEN:]
        )
