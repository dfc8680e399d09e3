"""Sources, workspaces, and what `prepare` looked into."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.dataset import verdicts
from pipeline.workspace import Workspace

MakeWorkspace = Callable[..., Workspace]


def png(number: int) -> bytes:
    """Make one of 65,536 different images."""
    file = io.BytesIO()
    Image.new("RGB", (3, 2), (number % 256, number // 256, 7)).save(file, "PNG")
    return file.getvalue()


def fill(folder: Path, numbers: range) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (folder / f"{number}.png").write_bytes(png(number))


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files here are a moment old, and verdicts on such are otherwise not remembered."""
    monkeypatch.setattr("pipeline.files._SETTLED_NS", 0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with 20 cats and 20 dogs."""
    fill(tmp_path / "source" / "cat", range(20))
    fill(tmp_path / "source" / "dog", range(100, 120))
    return tmp_path / "source"


@pytest.fixture
def make_workspace(tmp_path: Path) -> MakeWorkspace:
    def make(source: Path | str, **dataset: object) -> Workspace:
        root = tmp_path / "workspace"
        root.mkdir(exist_ok=True)
        lines = "".join(f"  {key}: {value}\n" for key, value in dataset.items())
        (root / "params.yaml").write_text(f"dataset:\n  source: {source}\n{lines}")
        return Workspace(root)

    return make


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Names of the files that were looked into, and whether they were decoded."""
    seen: list[tuple[str, bool]] = []
    real = verdicts.examine

    def examine(files: list[Path], *, decode: bool = True) -> object:
        seen.extend((file.name, decode) for file in files)
        return real(files, decode=decode)

    monkeypatch.setattr(verdicts, "examine", examine)
    return seen
