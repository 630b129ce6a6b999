"""The nursery of daemons that play the release before this one: this one's code, whose interfaces
have no method that was not there yet.

`python -m tests.upgrade.old` is `tests.promises.nursery` otherwise.
"""

from __future__ import annotations

from minicloud import concurrency

concurrency.patch()

# ruff: noqa: E402  (as in minicloud.main: patching comes first)
import minicloud.doctor.shared  # noqa: F401  (looks at the interfaces as it is imported)
from tests.promises import nursery
from tests.upgrade import before, keep


def main() -> None:
    """Nothing newer is served, and the rows of hosts say the older version."""
    for protocol in keep.protocols():
        kept = before.INTERFACES["topics"][protocol.topic]
        protocol.version = kept["version"]
        for name in keep.methods(protocol):
            if name not in kept["methods"]:
                delattr(protocol, name)
    nursery.main()


if __name__ == "__main__":
    main()
