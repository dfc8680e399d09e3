"""Stores and shards for the tests of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.features.identity import Identity
from pipeline.features.store import FeatureStore
from tests.features.conftest import MADE_WITH, some_features, some_keys

ROWS = 5  # in each of the two shards of `store`


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "features"


@pytest.fixture
def store(folder: Path, identity: Identity) -> FeatureStore:
    """Two shards of five rows."""
    made = FeatureStore.create(folder, identity)
    for number in range(2):
        made.add(some_keys(ROWS, ROWS * number), some_features(ROWS, number), MADE_WITH)
    return FeatureStore.open(folder, identity)


def shard_of(store: FeatureStore, number: int) -> Path:
    """Path of the shard that holds the rows from ``ROWS * number``."""
    (path,) = store._catalogue().sought(some_keys(1, ROWS * number))
    return path
