"""A workspace to predict in, and its photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.features.extractor import Extractor
from pipeline.workspace import Workspace
from tests.conftest import write_images


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    """Forty images in the store, and two heads trained on them."""
    return finished


@pytest.fixture
def photos(workspace: Workspace) -> Path:
    return workspace.root.parent / "photos"


@pytest.fixture
def known(photos: Path) -> list[str]:
    """Two images that the store holds."""
    return [str(photos / "cat" / "cat-000.png"), str(photos / "dog" / "dog-000.png")]


@pytest.fixture
def new(tmp_path: Path) -> list[str]:
    """Images that the store does not hold, more than go through the network at once."""
    write_images(tmp_path / "holiday", {"beach": 0, "city": 0, "food": 19}, size=36)
    return sorted(map(str, (tmp_path / "holiday" / "food").iterdir()))


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images went through the network, batch by batch."""
    counts: list[int] = []
    original = Extractor.forward

    def forward(extractor: Extractor, pixels: Any) -> Any:
        counts.append(len(pixels))
        return original(extractor, pixels)

    monkeypatch.setattr(Extractor, "forward", forward)
    return counts
