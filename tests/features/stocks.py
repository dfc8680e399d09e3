"""Stores and manifests made by number: row n belongs to image n, in whatever shard it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pipeline.dataset.manifest import ImageRow, Manifest, Status, read_manifest, write_manifest
from pipeline.features.identity import Identity
from pipeline.features.store import FeatureStore, RowKey
from pipeline.workspace import Workspace
from tests.features.conftest import MADE_WITH, some_features, some_keys


def key_of(number: int) -> RowKey:
    return some_keys(1, number)[0]


def stock(
    folder: Path,
    identity: Identity,
    shards: Iterable[Sequence[int]],
    made_with: Mapping[str, str] = MADE_WITH,
) -> FeatureStore:
    """Add shards that hold these rows."""
    store = FeatureStore.create(folder, identity)
    for numbers in shards:
        features = np.concatenate([some_features(1, number) for number in numbers])
        store.add([key_of(number) for number in numbers], features, made_with)
    return store


def holds(folder: Path, numbers: Sequence[int]) -> bool:
    """Whether a store gives exactly these rows, each as it was written."""
    store = FeatureStore.open(folder)
    keys = [key_of(number) for number in numbers]
    expected = np.concatenate([some_features(1, number) for number in numbers])
    return store.keys() == set(keys) and bool((store.read(keys) == expected).all())


def list_images(workspace: Workspace, numbers: Iterable[int], status: Status = "ok") -> Manifest:
    """Write the manifest of these images; those that are not ``ok`` are in it, too."""
    rows = [
        ImageRow(
            f"{number:04}.png", "cat", "train" if status == "ok" else "", "", key_of(number).sha256, 9, 4, 4,
            status, "" if status == "ok" else "same_bytes_two_labels",
        )
        for number in numbers
    ]  # fmt: skip
    write_manifest(workspace.manifest_file, rows)
    return read_manifest(workspace.manifest_file)
