"""A workspace in which everything has been run once."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.workspace import Workspace


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    """Everything has been run once, so that there is something to lose."""
    return finished


@pytest.fixture
def photos(workspace: Workspace) -> Path:
    return workspace.root.parent / "photos"
