"""`tools/minicloud.sh storm`: everything fails while tenants ask; nothing is wrong afterwards."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.integration.test_lab import Lab, new_place

SEED = "2010"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three hosts that sweep often."""
    with new_place() as path:
        made = Lab(path)
        made.lab("3")
        made.set_option("work", "sweep_s", 5)
        made.lab("kill", "head")
        for host in ("h1", "h2", "h3"):
            made.lab("kill", host)
        made.lab("3")
        yield made


@pytest.mark.exhaustive
def test_after_a_storm_nothing_is_wrong(lab: Lab) -> None:
    done = lab.command("storm", "--seed", SEED, "--minutes", "0.5", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    shown = dict(re.findall(r"(\w+): (\d+)", done.stdout.splitlines()[-1]))
    assert shown["findings"] == "0"
    assert int(shown["failures"]) > 0
    assert int(re.findall(r"(\d+) accepted", done.stdout)[0]) > 0
    left = lab.rows("SELECT id FROM instances WHERE state <> 'terminated'")
    assert left == []


def test_what_makes_no_sense_is_said(lab: Lab) -> None:
    for words in (["--seed"], ["--seed", "x"], ["--minutes", "-1"], ["h1"]):
        done = lab.command("storm", *words, check=False)
        assert done.returncode == 2, words
        assert "error: " in done.stderr
