"""``docs/tutorial.md``: its commands run, on small images, and print what the page says, but for numbers."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image
from ruamel.yaml import YAML

from pipeline.cli import cli
from pipeline.edit_params import write_params
from pipeline.workspace import Workspace
from tests.conftest import SMALL_NETWORK, write_images
from tests.docs.pages import DOCS, blocks

PAGE = DOCS / "tutorial.md"
#: What depends on the images, and not on the command.
_CHANGES = re.compile(r"[-\d.,−]+|\bcat\b|\bdog\b|\s+|─+|-+")


def told(line: str) -> str:
    """Blank whatever depends on the images and the machine."""
    return _CHANGES.sub("", line)


def steps() -> list[tuple[str, list[str]]]:
    """Commands of the page, each with the lines that the page says that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in "".join(blocks(PAGE, "console")).splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif line and line != "…":
            found[-1][1].append(line)
    return found


def test_commands_run_and_print_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vl_convert")
    photos = write_images(tmp_path / "photos", {"cat": 20, "dog": 20})
    with Image.open(photos / "dog" / "dog-000.png") as image:
        image.save(photos / "dog" / "dog.1.jpg")
    (photos / "dog" / "dog-000.png").unlink()
    monkeypatch.chdir(tmp_path)
    ran, missing = [], []
    for command, lines in steps():
        words = shlex.split(command)
        if words[0] == "cd":
            monkeypatch.chdir(words[1])
            [split] = blocks(PAGE, "yaml")
            chosen = YAML(typ="safe", pure=True).load(split)["dataset"]["split"]
            write_params(Path("params.yaml"), {**SMALL_NETWORK, "dataset.split": chosen})
            continue
        assert words[0] == "pipeline"
        result = CliRunner().invoke(cli, words[1:], catch_exceptions=False)
        print(f"$ {command}\n{result.output}")
        assert result.exit_code == 0
        ran.append(words[1])
        printed = {told(line) for line in result.output.splitlines()}
        missing += [line for line in lines if told(line) not in printed]
    assert missing == []
    assert " ".join(ran) == (
        "init prepare extract train summary train evaluate show predict "
        "train-network evaluate finetune evaluate report"
    )
    workspace = Workspace(tmp_path / "pets")
    assert {path.name for path in workspace.models_folder.iterdir()} == {
        "linear",
        "linear-finetuned",
        "logreg",
        "network",
    }
    assert 'id="ways"' in workspace.report_file.read_text("utf-8")
