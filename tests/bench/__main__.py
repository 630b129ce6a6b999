"""`python -m tests.bench [WORK …] [--json FILE]`: measure a cloud of six daemons on RabbitMQ and
MariaDB with the simulated hypervisor; all works, or those named."""

from __future__ import annotations

import argparse
import pathlib
import sys

from tests.bench import figures, works
from tests.bench.clouds import measured


def main() -> int:
    """Exit status 0, whatever was reached: a busy machine is nobody's failure."""
    parser = argparse.ArgumentParser(prog="tools/minicloud.sh bench")
    parser.add_argument("work", nargs="*", help=", ".join(works.WORKS))
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    asked = parser.parse_args()
    for name in asked.work:
        if name not in works.WORKS:
            parser.error(f"there is no work {name}; there are {', '.join(works.WORKS)}")
    found: list[figures.Figure] = []
    try:
        with measured() as cloud:
            for name, work in works.WORKS.items():
                if not asked.work or name in asked.work:
                    print(f"--- {name}: {work.__doc__}", flush=True)
                    found.extend(work(cloud))
    finally:  # also what there is when a work fails
        print(figures.table(found))
        if asked.json:
            asked.json.write_text(figures.as_json(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
