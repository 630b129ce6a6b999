"""`minicloud-manage` for a series of commands: one process, because starting one costs the most.

Run by the venv's Python as `python -m launcher.seed CONF`: reads a JSON list of words a line and
answers each with a JSON object of status, out and err.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys

from minicloud.cli import app


def main() -> None:
    """Until the end of the input; a failed command does not end the series."""
    for line in sys.stdin:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = app.run(["--config-file", sys.argv[1], *json.loads(line)])
        answer = {"status": status, "out": out.getvalue(), "err": err.getvalue()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the launcher was killed
        main()
