"""What the documents point to is there."""

from __future__ import annotations

import pathlib
import re

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
PAGES = sorted([*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md")])
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s]+)\)")


def links(page: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Words and target of every link into the tree."""
    found = LINK.findall(page.read_text())
    return [
        (words, page.parent / target.partition("#")[0])
        for words, target in found
        if "://" not in target
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_leads_somewhere(page: pathlib.Path) -> None:
    assert [str(target) for _, target in links(page) if not target.exists()] == []


def test_the_readme_leads_to_every_page() -> None:
    linked = {target.resolve() for _, target in links(TOP / "README.md")}
    lost = {page.name for page in (TOP / "docs").glob("*.md")} - {page.name for page in linked}
    assert lost == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_function_named_by_a_link_is_in_that_file(page: pathlib.Path) -> None:
    named = [
        (words.strip("`"), target)
        for words, target in links(page)
        if target.suffix == ".py" and re.fullmatch(r"`\w+`", words)
    ]
    gone = [
        f"{name} in {target.name}"
        for name, target in named
        if not re.search(rf"^\s*(def|class) {name}\b", target.read_text(), re.MULTILINE)
    ]
    assert gone == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_no_line_is_left_to_be_written(page: pathlib.Path) -> None:
    assert not re.search(r"TODO|FIXME|@[A-Z]{4,}@", page.read_text())


def test_decisions_are_numbered_without_a_gap_and_listed_by_their_titles() -> None:
    folder = TOP / "docs" / "decisions"
    pages = sorted(folder.glob("[0-9]*.md"))
    titles = [page.read_text().partition("\n")[0].removeprefix("# ") for page in pages]
    assert [page.name[:4] for page in pages] == [f"{n + 1:03}-" for n in range(len(pages))]
    assert [title.split()[0] for title in titles] == [f"{n + 1}." for n in range(len(pages))]
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", (folder / "README.md").read_text(), re.MULTILINE)
    assert listed == list(zip(titles, [page.name for page in pages], strict=True))
