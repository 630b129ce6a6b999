"""The commands in docs/*-clients.md work as they stand there, on a cloud like a new one."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.conformance.clients import User

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"
PAGES = sorted(DOCS.glob("*-clients.md"))
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_of_the_page_works(user: User, page: pathlib.Path) -> None:
    blocks = BLOCK.findall(page.read_text())
    assert blocks
    for language, text in blocks:
        if language == "sh":
            done = user.run("sh", "-ec", text)
            assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
        else:
            user.python(text)
