"""Heads on features of networks other than VGG16: one number a channel, with no positions to pool over."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.dataset.manifest import read_manifest, write_manifest
from pipeline.errors import HeadError, ModelError
from pipeline.features.store import FeatureStore, RowKey
from pipeline.heads import model_folder
from pipeline.heads.derived import Derivation, has_positions
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.sweep import Space, sweep
from pipeline.heads.train import train
from pipeline.params import NORMALIZATIONS
from pipeline.workspace import Workspace
from tests.heads.conftest import CLASSES, IDENTITY, image_rows
from tests.index_file import write_index

RESNET = replace(IDENTITY, backbone="resnet18", layer="input of fc", dimension=512)
PARAMS = """\
extract: {backbone: resnet18, weights: random}
heads:
  logreg: {estimator: logreg}
  linear: {estimator: linear, params: {epochs: 3}}
  pooled: {estimator: knn, pooling: avg}
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Sixty images in three classes, with 512 features each."""
    (tmp_path / "params.yaml").write_text(PARAMS)
    workspace = Workspace(tmp_path)
    usable = [row for row in image_rows() if row.status == "ok"]
    store = FeatureStore.create(workspace.store_folder, RESNET)
    store.add([RowKey(row.sha256) for row in usable], np.stack([features_of(row) for row in usable]), {})
    write_manifest(workspace.manifest_file, image_rows())
    write_index(workspace, RESNET, "random", read_manifest(workspace.manifest_file))
    return workspace


def features_of(row: Any) -> Any:
    """512 numbers, of which 50 are larger in each class, and others than those of any other image."""
    seed = int.from_bytes(hashlib.sha256(row.path.encode()).digest()[:4], "big")
    features = np.random.default_rng(seed).exponential(1, 512)
    start = 50 * CLASSES.index(row.label)
    features[start : start + 50] += 1
    return features.astype(np.float16)


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_matrix__rows_are_as_wide_as_the_network_makes_them(workspace: Workspace, normalize: Any) -> None:
    features = LabelledFeatures.open(workspace)
    derivation = Derivation("none", normalize)
    matrix = features.matrix("train", derivation=derivation)
    stored = np.stack([features_of(image) for image in matrix.images])
    np.testing.assert_array_equal(matrix.X, derivation.rows(stored))
    assert matrix.X.shape == (36, 512)
    np.testing.assert_array_equal(features.matrix("train").X, stored)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_pooling__refused(workspace: Workspace, pooling: Any) -> None:
    said = (
        f"pooling {pooling}: the 512 features of an image have no positions to pool over; only vgg16's have. "
        f"Set pooling to none."
    )
    with pytest.raises(HeadError) as caught:
        train(workspace, "logreg", changes={"pooling": pooling})
    assert str(caught.value) == f"heads.logreg: {said}"
    with pytest.raises(HeadError) as caught:
        sweep(workspace, Space(("knn",), ("none", pooling)))
    assert str(caught.value) == said
    assert not workspace.sweep_file.exists()
    assert not workspace.model_folder("logreg").exists()


def test_pooling__refused_in_params_yaml(workspace: Workspace) -> None:
    with pytest.raises(HeadError, match=r"pooling avg: the 512 features of an image have no positions"):
        train(workspace, "pooled")


@pytest.mark.parametrize("head", ["logreg", "linear"])
def test_train__learns_and_predicts(workspace: Workspace, head: str) -> None:
    report = train(workspace, head)
    assert report.metrics["accuracy"] > 0.6
    model = model_folder.load(report.folder)
    assert model.identity == RESNET
    assert json.loads((report.folder / "model.json").read_bytes())["features"] == 512
    validation = LabelledFeatures.open(workspace).matrix("val")
    right = model.predict(validation.X).codes == validation.y
    assert right.mean() == pytest.approx(report.metrics["accuracy"], abs=1e-6)
    with pytest.raises(ModelError, match="expects rows of 512 features, found"):
        model.predict(np.zeros((1, 25_088), np.float16))


def test_sweep__the_default_leaves_out_what_would_pool(workspace: Workspace) -> None:
    board = sweep(workspace, Space(("ridge", "knn")), folds=3)
    assert {(line.pooling, line.normalize) for line in board.lines} == {
        ("none", normalize) for normalize in NORMALIZATIONS
    }
    assert board.best is not None
    assert (board.best.accuracy or 0) > 0.6
    assert Space(("ridge", "knn")).holds(board.best)


def test_space__tries_all_poolings_where_there_are_positions() -> None:
    found = Space().derivations(25_088)
    assert [derivation.columns(25_088) for derivation in found] == [512] * 8 + [25_088] * 4
    assert len(set(found)) == 12


@pytest.mark.parametrize(("dimension", "expected"), [(25_088, "max"), (512, "none"), (4096, "none")])
def test_fitting__drops_the_pooling_only_where_it_has_to(dimension: int, expected: str) -> None:
    assert Derivation("max", "l2").fitting(dimension) == Derivation(expected, "l2")  # type: ignore[arg-type]
    assert Derivation("none", "l2").fitting(dimension) == Derivation("none", "l2")
    assert has_positions(dimension) is (dimension == 25_088)
