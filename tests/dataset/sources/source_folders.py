"""Sources for tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.dataset.sources import Source, open_source
from pipeline.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    root = tmp_path / "workspace"
    root.mkdir()
    (root / "params.yaml").touch()
    return Workspace(root)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return fill(tmp_path / "pets", "cat/1.jpg", "cat/old/2.PNG", "dog/1.jpeg")


def fill(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)
    return folder


def opened(folder: Path, workspace: Workspace) -> Source:
    return open_source(str(folder), workspace)


def rows(source: Source) -> list[tuple[str, ...]]:
    """Path, label and whatever else is not empty."""
    return [
        (item.path, item.label, *filter(None, (item.split, item.group, item.reason)))
        for item in source.candidates
    ]
