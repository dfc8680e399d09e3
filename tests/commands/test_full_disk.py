"""A disk that is full: one line, and nothing lost."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from pipeline.edit_params import write_params
from pipeline.workspace import Workspace
from tests.commands.conftest import tree
from tests.commands.workspaces import photos, workspace
from tests.conftest import write_images

__all__ = ["photos", "workspace"]  # fixtures

Fails = Callable[..., str]
Run = Callable[..., Result]


def _fill_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file end half-way, as on a full disk."""

    def write_half(path: Path, data: Any, *_: object) -> int:
        with path.open("wb") as file:
            file.write((data if isinstance(data, bytes) else data.encode())[: len(data) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_half)
    monkeypatch.setattr(Path, "write_text", write_half)


@pytest.mark.parametrize(
    ("command", "written"),
    [
        (["prepare", "--resplit"], "manifest.csv"),
        (["prepare", "--limit", "20"], "params.yaml"),
        (["extract"], ".h5"),
        (["train", "logreg", "--set", "C=1"], "models/logreg"),
        (["evaluate", "logreg", "--split", "test"], "test-looks.json"),
        (["predict", "logreg", "PHOTOS", "--output", "OUT"], "labels.csv"),
    ],
)
def test_full_disk__simulated(
    workspace: Workspace,
    fails: Fails,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    written: str,
) -> None:
    places = {"PHOTOS": str(photos), "OUT": str(workspace.root / "labels.csv")}
    (workspace.root / "labels.csv").write_text("what was there\n")
    if command[0] == "extract":
        write_images(photos, {"cat": 22})
        _prepare_again(workspace)
    if "--resplit" in command:
        write_params(workspace.params_file, {"dataset.seed": 9})
    _fill_up(monkeypatch)
    error = fails(*(places.get(word, word) for word in command))
    assert written in error
    assert "No space left on device" in error
    assert "Free some space" in error


def _prepare_again(workspace: Workspace) -> None:
    from pipeline.dataset.prepare import prepare

    prepare(workspace)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not shutil.which("mount"):
        pytest.skip("no mount here")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_extract__really_full_disk(workspace: Workspace, run: Run, small_disk: Path) -> None:
    shutil.rmtree(workspace.root / "cache")
    (workspace.root / "cache").symlink_to(small_disk)
    error = run("extract", code=1).stderr.splitlines()[-1]
    assert error.startswith(f"pipeline: {workspace.store_folder}")
    assert "No space left on device" in error
    left = {path.name for path in small_disk.rglob("*") if path.is_file()}
    assert left == {"store.json", ".lock"}

    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    report = json.loads(run("extract", "--json").stdout)
    assert (report["computed"], report["reused"]) == (40, 0)


def test_train__really_full_disk(workspace: Workspace, run: Run, small_disk: Path) -> None:
    shutil.copytree(workspace.models_folder, small_disk, dirs_exist_ok=True)
    shutil.rmtree(workspace.models_folder)
    workspace.models_folder.symlink_to(small_disk)
    room = shutil.disk_usage(small_disk).free
    (small_disk / "filler").write_bytes(b"\0" * (room - 20_000))
    before = tree(small_disk)
    error = run("train", "logreg", "--set", "C=1", code=1).stderr.splitlines()[-1]
    assert "No space left on device" in error
    assert tree(small_disk) == before
    run("evaluate", "logreg")
