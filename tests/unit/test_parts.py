"""A file of a simulated host is whole or not there, whoever else works on the host."""

from __future__ import annotations

import pathlib

import pytest

from minicloud import parts


def write(file: pathlib.Path, text: str) -> None:
    parts.write(parts.fresh(file.parent, file), file, text)


def test_what_another_process_took_for_a_dead_ones_is_written_again(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, tries = pathlib.Path.replace, []

    def too_late(part: pathlib.Path, file: pathlib.Path) -> pathlib.Path:
        if not tries:
            parts.clear(tmp_path)
        tries.append(part)
        return replace(part, file)

    monkeypatch.setattr(pathlib.Path, "replace", too_late)
    write(tmp_path / "domain", "running")
    assert len(tries) == 2
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("domain", "running")]


def test_a_file_whose_directory_is_gone_is_an_error_and_leaves_nothing(
    tmp_path: pathlib.Path,
) -> None:
    file = tmp_path / "exports" / "one"
    with pytest.raises(FileNotFoundError):
        parts.write(parts.fresh(tmp_path, file), file, "text")
    assert list(tmp_path.iterdir()) == []


def test_what_a_dead_process_left_is_cleared_and_nothing_else(tmp_path: pathlib.Path) -> None:
    write(tmp_path / "domain", "running")
    parts.fresh(tmp_path, tmp_path / "domain").write_text("runn")
    parts.clear(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == ["domain"]
