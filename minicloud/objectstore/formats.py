"""What an image's bytes are: looked at before any tool opens them.

A qcow2 header can name other files of the host (CVE-2015-5163, CVE-2024-32498), so such an image
is refused, and the format found here is the one every later command is told.
"""

from __future__ import annotations

import io

from oslo_utils.imageutils import format_inspector

from minicloud import errors

QCOW2_MAGIC = b"QFI\xfb"
BOOT_BYTES = 512 << 20  # of a kernel or ramdisk: QEMU reads all of it into the host's memory
CRYPT_METHOD = slice(32, 36)  # of a qcow2 header; zero: not encrypted
# a partition table, and none: to a guest both are a raw disk
RAW = ("raw", "gpt")


def inspect(kind: str, size: int, head: bytes, limit: int) -> tuple[str, int]:
    """Format ("raw" or "qcow2") and virtual size in bytes of an image of `kind`.

    `head` is the beginning of its `size` bytes.  BadRequest when no guest may have it: another
    format, an encrypted one, a reference to another file, a disk larger than `limit`, a kernel or
    ramdisk larger than BOOT_BYTES.
    """
    if size == 0:
        raise errors.BadRequest(reason="The image is empty")
    if kind != "machine":
        if size > BOOT_BYTES:
            raise errors.BadRequest(
                reason=f"A {kind} has at most {BOOT_BYTES} bytes, this one has {size}"
            )
        return "raw", size  # a kernel or ramdisk is handed to QEMU as bytes, never as a disk
    found = _format(head)
    name = "raw" if str(found) in RAW else str(found)
    if name not in ("raw", "qcow2"):
        raise errors.BadRequest(reason=f"Images of the format {name} are not taken")
    if name == "qcow2" and any(head[CRYPT_METHOD]):
        raise errors.BadRequest(reason="The qcow2 image is encrypted")
    virtual_size = size if name == "raw" else _virtual_size(found)
    if virtual_size > limit:
        raise errors.BadRequest(
            reason=f"The disk in the image has {virtual_size} bytes, {limit} are allowed"
        )
    return name, virtual_size


def _format(head: bytes) -> format_inspector.FileInspector:
    stream = format_inspector.InspectWrapper(io.BytesIO(head))
    stream.read(len(head))
    stream.close()
    try:
        found = stream.format
    except format_inspector.ImageFormatError as error:
        raise errors.BadRequest(reason=f"The image's format is not clear: {error}") from error
    if found is None or (str(found) == "raw" and head.startswith(QCOW2_MAGIC)):
        raise errors.BadRequest(reason="The image ends within its header")
    return found


def _virtual_size(found: format_inspector.FileInspector) -> int:
    try:
        found.safety_check()
    except format_inspector.SafetyCheckFailed as error:
        reasons = ", ".join(sorted(str(failed) for failed in error.failures.values()))
        raise errors.BadRequest(reason=f"The qcow2 image is not safe: {reasons}") from error
    except format_inspector.ImageFormatError as error:
        raise errors.BadRequest(reason=f"The qcow2 image is broken: {error}") from error
    if found.virtual_size == 0:
        raise errors.BadRequest(reason="The qcow2 image has no size")
    return int(found.virtual_size)
