"""What the tests of `extract` share: a network that is set up once, small shards, and what was stored."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.features import shard_writer
from pipeline.features.backbone import Backbone, open_backbone
from pipeline.features.index import current_index, row_keys
from pipeline.features.store import FeatureStore
from pipeline.features.weights import resolve_weights
from pipeline.params import read_params
from pipeline.workspace import Workspace


@pytest.fixture(scope="module")
def random_backbone() -> Backbone:
    return open_backbone(resolve_weights("random", Path()), "float32", device="cpu", backend="torch")


@pytest.fixture
def quick(random_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Set the network up once for all tests, and count the images that are pushed through."""
    pushed: list[int] = []

    def counting(pixels: Any) -> Any:
        pushed.append(len(pixels))
        return random_backbone(pixels)

    counting.batch_size, counting.made_with = 4, random_backbone.made_with  # type: ignore[attr-defined]
    monkeypatch.setattr("pipeline.features.extractor.open_backbone", lambda *_, **__: counting)
    return pushed


def small_shards(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    monkeypatch.setattr(shard_writer, "SHARD_ROWS", rows)


def stored_features(workspace: Workspace) -> Any:
    """Features of the manifest, read the way that heads read them."""
    manifest = read_manifest(workspace.manifest_file)
    index = current_index(workspace, read_params(workspace.params_file), manifest)
    return FeatureStore.open(workspace.store_folder, index.identity).read(row_keys(manifest))


def failed_rows(workspace: Workspace) -> list[list[str]]:
    with workspace.failed_file.open(newline="") as file:
        return list(csv.reader(file))
