from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.errors import HeadError, MissingRows
from pipeline.features.store import FeatureStore, RowKey
from pipeline.heads.matrix import LabelledFeatures
from pipeline.workspace import Workspace
from tests.heads.conftest import CLASSES, IDENTITY, features_like_vgg, image_rows, relabelled

Change = Callable[[Callable[[ImageRow], ImageRow]], None]


@pytest.mark.parametrize(("split", "n"), [("train", 36), ("val", 12), ("test", 12)])
def test_matrix__rows_in_manifest_order_with_their_own_features(
    workspace: Workspace, split: str, n: int
) -> None:
    usable = [row for row in image_rows() if row.status == "ok"]
    expected_X = features_like_vgg(np.array([CLASSES.index(row.label) for row in usable]))
    places = [place for place, row in enumerate(usable) if row.split == split]

    matrix = LabelledFeatures.open(workspace).matrix(split)  # type: ignore[arg-type]

    assert matrix.X.dtype == np.float32
    assert matrix.X.shape == (n, 25088)
    np.testing.assert_array_equal(matrix.X, expected_X[places].astype(np.float32))
    assert matrix.paths == tuple(usable[place].path for place in places)
    assert [matrix.classes[code] for code in matrix.y] == [usable[place].label for place in places]
    assert matrix.keys == tuple(RowKey(usable[place].sha256, "center") for place in places)


def test_matrix__split_without_images_has_no_rows(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, split="train") if row.split == "test" else row)
    matrix = LabelledFeatures.open(workspace).matrix("test")
    assert matrix.X.shape == (0, 25088)
    assert matrix.y.shape == (0,)


def test_digest__follows_labels_and_not_names(workspace: Workspace, change_rows: Change) -> None:
    features = LabelledFeatures.open(workspace)
    before = features.training_digest
    assert features.matrix("train").digest == before

    change_rows(lambda row: replace(row, path="moved/" + row.path))
    assert LabelledFeatures.open(workspace).training_digest == before

    change_rows(lambda row: relabelled(row, "moved/cat/00.jpg", "dog"))
    assert LabelledFeatures.open(workspace).training_digest != before


def test_open__one_training_class(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, label="cat"))
    with pytest.raises(HeadError, match=r"at least two classes, found only 'cat'.*pipeline prepare"):
        LabelledFeatures.open(workspace)


def test_open__no_training_image(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, split=row.split and "val"))
    with pytest.raises(HeadError, match="found no training image"):
        LabelledFeatures.open(workspace)


def test_matrix__class_without_training_image(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, label="new\x1b[2J") if row.split == "val" else row)
    features = LabelledFeatures.open(workspace)
    assert len(features.matrix("train").y) == 36
    with pytest.raises(HeadError, match=r"val: .*no training image.*'new\\x1b\[2J' \(12\).*--resplit"):
        features.matrix("val")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_matrix__feature_not_finite(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    read = FeatureStore.read

    def read_badly(store: FeatureStore, keys: list[RowKey]) -> np.ndarray:
        X = read(store, keys)
        X[5, 1000] = bad
        return X

    monkeypatch.setattr(FeatureStore, "read", read_badly)
    features = LabelledFeatures.open(workspace)
    sixth = read_manifest(workspace.manifest_file).of_split("train")[5].path
    with pytest.raises(HeadError, match=f"{sixth}: its features hold numbers that are not finite"):
        features.matrix("train")


def test_matrix__missing_shard_names_the_remedy(workspace: Workspace) -> None:
    next(workspace.store_folder.glob("*.h5")).unlink()
    with pytest.raises(MissingRows, match="pipeline extract"):
        LabelledFeatures.open(workspace).matrix("train")


def test_open__manifest_changed_since_extract(workspace: Workspace) -> None:
    lines = workspace.manifest_file.read_text().splitlines()
    workspace.manifest_file.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(MissingRows, match="pipeline extract"):
        LabelledFeatures.open(workspace)


def test_identity__is_that_of_the_store(workspace: Workspace) -> None:
    assert LabelledFeatures.open(workspace).identity == IDENTITY
