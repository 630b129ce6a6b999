"""Whether kvm is worth using: a boot sector that counts is run under it, and under emulation.

A /dev/kvm that can be opened proves nothing: some answer every probe and then run a guest far
slower than emulation does.  Standard library only: it is read before anything is installed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence

DEVICE = "/dev/kvm"
QEMU = "qemu-system-x86_64"

# 16-bit code at 0x7c00: count ecx down from 2^27, then leave by isa-debug-exit at port 0xf4.
_COUNT_AND_LEAVE = bytes.fromhex(
    "66b900000008"  # mov ecx, 0x8000000
    "6649"  # dec ecx
    "75fc"  # jnz -4
    "b010"  # mov al, 0x10
    "e6f4"  # out 0xf4, al
    "f4"  # hlt
)
_BOOT_SECTOR = _COUNT_AND_LEAVE.ljust(510, b"\0") + b"\x55\xaa"
LEFT = 0x10 << 1 | 1  # QEMU's exit status after that `out`
LIMIT_S = {"kvm": 4.0, "tcg": 15.0}

# runs a command for so many seconds at most: its exit status, None when it did not end in time
Run = Callable[[Sequence[str], float], int | None]


def works(run: Run) -> bool:
    """Whether the boot sector runs faster under kvm than under emulation.

    Takes a few seconds, 20 at most; needs the right to open /dev/kvm.
    """
    kvm = boot_s(run, "kvm")
    return kvm is not None and kvm < (boot_s(run, "tcg") or LIMIT_S["tcg"])


def boot_s(run: Run, accelerator: str) -> float | None:
    """Seconds the boot sector took; None when it did not come to its end in time."""
    with tempfile.NamedTemporaryFile() as disk:
        disk.write(_BOOT_SECTOR)
        disk.flush()
        argv = [QEMU, "-accel", accelerator, "-m", "16", "-nodefaults", "-display", "none",
                "-no-reboot", "-device", "isa-debug-exit,iobase=0xf4,iosize=4",
                "-drive", f"file={disk.name},format=raw,if=ide"]  # fmt: skip
        begun = time.monotonic()
        status = run(argv, LIMIT_S[accelerator])
        return time.monotonic() - begun if status == LEFT else None
