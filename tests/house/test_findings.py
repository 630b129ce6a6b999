"""docs/audit.md has every kind of finding, in the words of minicloud/findings.py."""

from __future__ import annotations

import pathlib
import re

from minicloud.findings import KINDS

TOP = pathlib.Path(__file__).resolve().parents[2]


def test_the_page_of_the_auditor_has_every_kind_as_declared() -> None:
    lines = [
        f"| `{kind.name}` | {kind.wrong} | {'' if kind.mended else 'By hand: '}{kind.fix} |"
        for kind in KINDS.values()
    ]
    page = (TOP / "docs" / "audit.md").read_text().splitlines()
    listed = [line for line in page if line.startswith("| `")]
    assert listed == lines, "the table is to be:\n" + "\n".join(lines)


def test_a_kinds_words_are_sentences() -> None:
    for kind in KINDS.values():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)+", kind.name), kind.name
        for words in (kind.wrong, kind.fix):
            assert re.fullmatch(r"[A-Z][^|]*\.", words), words
