"""Every check of the doctor has a test of its own and its line in docs/doctor.md."""

from __future__ import annotations

import pathlib
import re

from minicloud import doctor  # noqa: F401  (registers all checks)
from minicloud.doctor import check

TOP = pathlib.Path(__file__).resolve().parents[2]
TESTS = (TOP / "tests" / "unit" / "test_doctor.py").read_text()


def test_each_check_has_a_test_by_its_name() -> None:
    without = [name for name in check.CHECKS if not re.search(rf"^def test_{name}_", TESTS, re.M)]
    assert without == []


def test_the_page_says_of_each_check_what_it_proves() -> None:
    page = (TOP / "docs" / "doctor.md").read_text()
    table = "".join(f"| `{name}` | {one.proves} |\n" for name, one in check.CHECKS.items())
    assert table in page, f"docs/doctor.md: the rows of its table are to be\n{table}"
