from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.store import FeatureStore, RowKey
from pipeline.networks.inputs import HeldInputs, ImageInputs, in_order
from pipeline.workspace import Workspace


@pytest.fixture
def extraction(workspace: Workspace) -> Extraction:
    return Extraction.of(workspace)


@pytest.fixture
def extractor(extraction: Extraction) -> Extractor:
    return extraction.extractor(Execution("cpu", workers=2))


def test_held__batches_are_copies() -> None:
    X = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    batches = list(HeldInputs(X).batches([np.array([3, 1]), np.array([0])], 1))
    assert [batch.tolist() for batch in batches] == [[[9, 10, 11], [3, 4, 5]], [[0, 1, 2]]]
    batches[0][:] = 0
    assert X[3, 0] == 9


def test_images__are_the_stored_features(
    workspace: Workspace, extraction: Extraction, extractor: Extractor
) -> None:
    images = extraction.manifest.of_split("val")
    order = [np.array([4, 0, 1]), np.array([2])]
    found = list(ImageInputs(images, extraction.root, extractor).batches(order, 1))
    for places, batch in zip(order, found, strict=True):
        keys = [RowKey(images[place].sha256) for place in places]
        assert np.array_equal(batch, FeatureStore.open(workspace.store_folder).read(keys))


def test_images__augmented_anew_in_each_epoch_whatever_the_batches(
    extraction: Extraction, extractor: Extractor
) -> None:
    images = extraction.manifest.of_split("val")

    def seen(epoch: int, size: int, seed: int | None = 5) -> bytes:
        inputs = ImageInputs(images, extraction.root, extractor, seed)
        return np.concatenate(list(inputs.batches(in_order(len(images), size), epoch))).tobytes()

    assert seen(1, 2) == seen(1, 5)
    assert len({seen(1, 6), seen(2, 6), seen(1, 6, seed=6), seen(1, 6, seed=None)}) == 4


def test_images__one_that_has_changed(extraction: Extraction, extractor: Extractor) -> None:
    images = extraction.manifest.of_split("val")
    other = (extraction.root / images[1].path).read_bytes()
    (extraction.root / images[0].path).write_bytes(other)
    batches = ImageInputs(images, extraction.root, extractor).batches([np.array([1]), np.array([0])], 1)
    next(batches)
    with pytest.raises(SourceError, match=f"{images[0].path}: changed_since_prepare, and the network cannot"):
        next(batches)
