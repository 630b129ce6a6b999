"""minicloud-all's entry: eventlet is patched in before anything else is imported."""

# ruff: noqa: E402  (patching comes before the other imports)
from __future__ import annotations

from minicloud import concurrency

concurrency.patch(names=False)

import sys

from minicloud.embedded import app


def main() -> None:
    """The console script."""
    raise SystemExit(app.main(sys.argv[1:]))
