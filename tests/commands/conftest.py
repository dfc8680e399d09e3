"""A finished workspace to start from, and what counts as a proper error."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from pipeline.cli import cli
from pipeline.edit_params import write_params
from pipeline.scaffold import create_workspace
from pipeline.workspace import Workspace
from tests.conftest import SMALL_NETWORK, write_images

HEADS = ("logreg", "linear-svm")
_PROGRESS = re.compile(r"(examining|hashing|extract|predict): \d+ images? in [\d.]+ s")


def tree(root: Path) -> dict[str, str]:
    """Every file and folder below `root`, files with a hash of their bytes.

    Locks and the memory of files already examined are left out: they hold nothing of the user's.
    """
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(root.rglob("*"))
        if path.name not in {".lock", ".seen.json"}
    }


def the_error(result: Result) -> str:
    """Return the one line that says what went wrong; nothing but progress may stand before it."""
    *before, error = result.stderr.splitlines()
    assert error.startswith("pipeline: ")
    assert [line for line in before if not _PROGRESS.fullmatch(line)] == []
    assert result.stdout == ""
    return error


def finish(folder: Path) -> Path:
    """Run everything once, on 40 images in `folder`; the folder can be copied as a whole."""
    write_images(folder / "photos", {"cat": 20, "dog": 20})
    root = folder / "workspace"
    create_workspace(root)
    write_params(
        root / "params.yaml", {**SMALL_NETWORK, "dataset.source": "../photos", "dataset.limit": None}
    )
    steps = [["prepare"], ["extract"]]
    steps += [[verb, head] for head in HEADS for verb in ("train", "evaluate")]
    for step in steps:
        result = CliRunner().invoke(cli, ["--root", str(root), *step], catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="session")
def finished_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.getbasetemp() / "finished"
    if not folder.exists():  # rooms that import this fixture share what it made
        finish(tmp_path_factory.mktemp("unfinished")).rename(folder)
    return folder


@pytest.fixture
def finished(finished_folder: Path, tmp_path: Path) -> Workspace:
    """A finished workspace, and beside it its `photos`, free to be changed."""
    shutil.copytree(finished_folder, tmp_path / "copy")
    return Workspace(tmp_path / "copy" / "workspace")


@pytest.fixture
def fails(workspace: Workspace, run: Callable[..., Result]) -> Callable[..., str]:
    """Run a command that has to fail with exit code 1 and one line, and change nothing; return the line."""

    def check(*arguments: str) -> str:
        before = tree(workspace.root)
        error = the_error(run(*arguments, code=1))
        assert tree(workspace.root) == before
        return error

    return check
