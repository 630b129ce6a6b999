"""`python3 -m launcher COMMAND …`, as tools/minicloud.sh calls it."""

from __future__ import annotations

import os
import signal
import sys

from launcher import commands, services
from launcher.report import Failure, WrongUsage, complain


def main() -> int:
    """What the command returns; 1 for a failure, 2 for wrong usage, 130 when interrupted."""
    os.umask(0o022)  # the daemons' user reads the venv
    os.environ.pop("PYTHONPATH", None)  # it is the launcher's own, not for what it starts
    os.environ["PATH"] = f"{services.PATH}:{os.environ.get('PATH', '')}"
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        return commands.main(sys.argv[1:], os.environ)
    except WrongUsage as usage:
        print(f"error: {usage.cause}", file=sys.stderr)
        return 2
    except Failure as failure:
        complain(failure)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


sys.exit(main())
