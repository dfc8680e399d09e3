"""Stores to be compacted."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.features import compaction
from pipeline.features.store import FeatureStore
from pipeline.workspace import Workspace

FULL = 4


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SHARD_ROWS", FULL)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """No image, no store."""
    (tmp_path / "params.yaml").write_text("dataset: {source: photos}\n")
    return Workspace(tmp_path)


def rows_per_shard(workspace: Workspace) -> list[int]:
    store = FeatureStore.open(workspace.store_folder)
    return sorted(len(store.format.contents(path).keys) for path in store.shards())
