"""The README's commands, run as a newcomer would run them, with sources swapped for small local ones."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from pipeline.cli import cli
from pipeline.edit_params import write_params
from tests.conftest import SMALL_NETWORK, write_images

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def commands() -> list[str]:
    """All lines of the README that a reader would type, in order."""
    blocks = re.findall(r"```console\n(.*?)```", README, flags=re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def test_every_command_in_the_readme_is_typed_in_a_console_block() -> None:
    assert len(commands()) >= 15
    assert {shlex.split(command)[0] for command in commands()} == {"make", "pipeline", "cd", "dvc"}


def run(words: list[str]) -> None:
    """Run a command: `pipeline` in this process, for the imports take longer than most commands."""
    if words[0] == "pipeline":
        result = CliRunner().invoke(cli, words[1:])
        code, output = result.exit_code, result.output
    else:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        code, output = done.returncode, done.stdout
    print(f"$ {shlex.join(words)}\n{output}")
    assert code == 0


def test_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    write_images(home / "photos" / "birds", {"robin": 12, "wren": 12})
    cats_dogs = write_images(tmp_path / "cats-dogs", {"cat": 20, "dog": 20})
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path / "dvc"))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "dvc-site"))
    ran = []
    for command in commands():
        words = shlex.split(command, comments=True)
        if words[0] == "make":  # .ci/run runs these
            continue
        if words[0] == "cd":
            monkeypatch.chdir(tmp_path / words[1])
            continue
        words = [str(home / word[2:]) if word.startswith("~/") else word for word in words]
        if words[:2] == ["pipeline", "init"]:
            monkeypatch.chdir(tmp_path)
            words = [str(cats_dogs) if word == "cats-dogs" else word for word in words]
        run(words)
        ran.append(command)
        if words[:2] == ["pipeline", "init"]:
            made = tmp_path / words[2]
            heads = {"logreg": {"estimator": "logreg"}}  # one of four, for time
            write_params(made / "params.yaml", SMALL_NETWORK | {"heads": heads})
            write_images(made, {"holiday": 3})
            (made / "holiday" / "holiday-000.png").rename(made / "photo.jpg")
    assert sum(command.startswith("dvc repro") for command in ran) == 3
    assert (tmp_path / "pets" / "holiday.json").is_file()
    assert (tmp_path / "birds" / "reports" / "metrics" / "logreg.test.json").is_file()


@pytest.mark.parametrize(
    "path", re.findall(r"`((?:pipeline|data|cache|tests|reports|models)/[\w./*-]*)`", README)
)
def test_files_named_in_the_readme_exist(path: str) -> None:
    made_by_stages = (
        "data/images/",
        "data/manifest.csv",
        "data/corrections.csv",
        "cache/",
        "models/",
        "reports/",
    )
    assert path.startswith(made_by_stages) or (ROOT / path).exists()
