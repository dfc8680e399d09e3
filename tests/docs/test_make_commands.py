"""``docs/commands/``: up to date with what the commands say of themselves."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.cli import COMMANDS
from tests.docs.pages import DOCS, ROOT

FOLDER = DOCS / "commands"
SCRIPT = FOLDER.with_name("make_commands.py")
REMEDY = f"out of date: run `python {SCRIPT.relative_to(ROOT)}`, and commit what it writes"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture(scope="module")
def made(script: dict[str, Any]) -> dict[str, str]:
    """Pages as they would be written now, by name."""
    pages: Callable[[], dict[str, str]] = script["pages"]
    return pages()


def test_there_is_a_page_for_each_command_and_no_other(made: dict[str, str]) -> None:
    assert sorted(made) == sorted(["README.md", *(f"{name}.md" for name in COMMANDS)])
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(made), REMEDY


@pytest.mark.parametrize("name", ["README", *COMMANDS])
def test_page_is_what_the_command_says(made: dict[str, str], name: str) -> None:
    path = FOLDER / f"{name}.md"
    assert path.is_file(), REMEDY
    assert path.read_text("utf-8") == made[f"{name}.md"], REMEDY


def test_page__says_what_help_says(made: dict[str, str]) -> None:
    """Spelt for Markdown: a bar would end a cell, and a star or a bracket would vanish."""
    page = made["predict.md"]
    assert "IMAGE is a file, a folder, or a quoted pattern such as 'holiday/\\*.jpg'. Features" in page
    assert "```text\npipeline predict [OPTIONS] MODEL IMAGE...\n```" in page
    assert "| `--format [table\\|json\\|csv]` | json: a list of objects with path, label" in page
    assert "```console\n$ pipeline predict logreg holiday/ cat.jpg --format json" in page
    assert "## pipeline store verify\n" in made["store.md"]
    assert "| [train](train.md) | Train a head on the stored features. |" in made["README.md"]
    assert "| `--root DIR` | The workspace" in made["README.md"]
    assert not any("--help`" in text for name, text in made.items() if name != "README.md")


def test_write_pages__mends_adds_and_removes(
    script: dict[str, Any], made: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    write = script["write_pages"]
    monkeypatch.setitem(write.__globals__, "FOLDER", tmp_path)
    (tmp_path / "train.md").write_text("stale")
    (tmp_path / "gone.md").write_text("of a command that is gone")
    write()
    assert {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()} == made
