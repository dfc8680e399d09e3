"""A workspace to export from, and its photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.workspace import Workspace


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    """Forty images in the store, and two heads trained on them."""
    return finished


@pytest.fixture
def photos(workspace: Workspace) -> list[Path]:
    """All images."""
    return sorted((workspace.root.parent / "photos").rglob("*.png"))
