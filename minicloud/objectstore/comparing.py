"""What the object store's disk shows against what the rows say: pure, for the sweep and for the
auditor."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from minicloud import findings
from minicloud.findings import Finding


def orphans(unnamed: Iterable[str]) -> list[Finding]:
    """Files that no row names; the disk was listed before the rows were read."""
    return [
        Finding(
            findings.FILE_WITHOUT_ROW,
            name,
            f"the file {name} is nobody's",
            facts={"about": name.partition("-")[2].rpartition("-")[0]},  # KIND-ID-RANDOM
        )
        for name in unnamed
    ]


def images(rows: Iterable[Any], files: Mapping[str, int]) -> Iterator[Finding]:
    """Images whose rows say something else of their bytes than the disk, which was listed last;
    `state` and `reason` in the facts are what such a row is to say."""
    for row in rows:
        size = files.get(row.file)
        fine = size is not None and (row.size is None or size == row.size)
        if row.state == "active" and not fine:
            seen = "is gone" if size is None else f"has {size} bytes, not {row.size}"
            facts = {"state": "error", "reason": f"its file {seen}"}
            words = f"image {row.id} is said to be active, its file {row.file} {seen}"
        elif (row.state, row.rest) == ("error", "active") and fine:
            facts = {"state": "active", "reason": ""}
            words = f"image {row.id} is said to be in error, its file {row.file} is there"
        else:
            continue
        yield Finding(findings.IMAGE_DIFFERS, row.id, words, facts=facts)


def lost(
    rows: Iterable[tuple[str, str, int | None]], files: Mapping[str, int]
) -> Iterator[Finding]:
    """`rows` are (id, file, size) of objects and parts that are complete."""
    for id, file, size in rows:
        if file not in files:
            yield Finding(findings.OBJECT_LOST, id, f"the file {file} is gone")
        elif size is not None and files[file] != size:
            words = f"the file {file} has {files[file]} bytes, not {size}"
            yield Finding(findings.OBJECT_LOST, id, words)


def cut_off(ids: Iterable[str], receiving: Collection[str]) -> list[Finding]:
    """Rows that wait for bytes which nobody receives; they were read before `receiving`."""
    return [
        Finding(findings.UPLOAD_CUT_OFF, id, f"{id} waits for bytes that nobody sends")
        for id in ids
        if id not in receiving
    ]
