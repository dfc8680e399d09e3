"""`pipeline.load_features`: what a workspace holds, as arrays."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.preprocessing import normalize as sklearn_normalize

import pipeline
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import ParamsError, WorkspaceError
from pipeline.heads.matrix import LabelledFeatures
from pipeline.workspace import Workspace


def test_load_features__all_in_the_order_of_the_manifest(workspace: Workspace) -> None:
    X, y, paths = pipeline.load_features(workspace.root)
    rows = read_manifest(workspace.manifest_file).usable
    assert paths.tolist() == [row.path for row in rows]
    assert y.tolist() == [row.label for row in rows]
    features = LabelledFeatures.open(workspace)
    expected = features.store.read(features.labels("train", "val", "test").keys)
    assert X.dtype == np.float16
    assert (expected == X).all()


@pytest.mark.parametrize(
    ("split", "count"), [("train", 36), ("val", 12), (("val", "test"), 24), (["test"], 12), ([], 0)]
)
def test_load_features__of_splits(workspace: Workspace, split: Any, count: int) -> None:
    X, y, paths = pipeline.load_features(str(workspace.root), split)
    assert len(X) == len(y) == len(paths) == count
    wanted = {split} if isinstance(split, str) else set(split)
    assert {row.path for row in read_manifest(workspace.manifest_file).usable if row.split in wanted} == set(
        paths.tolist()
    )


def test_load_features__the_current_folder(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workspace.root)
    assert pipeline.load_features(split="val").X.shape == (12, 25088)


def test_load_features__pooled_and_normalised(workspace: Workspace) -> None:
    X = pipeline.load_features(workspace.root, "val").X.astype(np.float64)
    found = pipeline.load_features(workspace.root, "val", pooling="avg", normalize="l2").X
    assert found.dtype == np.float32
    expected = sklearn_normalize(X.reshape(len(X), 512, 49).mean(axis=2))
    assert np.abs(found - expected).max() < 1e-6


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"split": "vall"}, r"split 'vall': expected train, val, test\. Did you mean 'val'\?"),
        ({"split": ("val", "dev")}, "split 'dev'"),
        ({"pooling": "mean"}, "pooling 'mean': expected none, avg, max"),
        ({"normalize": "standardize"}, "normalize 'standardize': expected none, l2, sqrt_l2"),
    ],
)
def test_load_features__values_that_mean_nothing(
    workspace: Workspace, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(ParamsError, match=told):
        pipeline.load_features(workspace.root, **given)


def test_load_features__no_workspace(tmp_path: Any) -> None:
    with pytest.raises(WorkspaceError, match="not a workspace"):
        pipeline.load_features(tmp_path)


# --- the package


def test_package__what_it_offers_is_imported_when_asked_for() -> None:
    code = (
        "import sys, pipeline; heavy = {'numpy', 'sklearn', 'torch', 'h5py', 'PIL'};"
        "assert not heavy & sys.modules.keys(); assert 'load_features' in dir(pipeline);"
        "from pipeline import load_features; assert 'h5py' in sys.modules;"
        "assert not {'sklearn', 'torch'} & sys.modules.keys();"
        "from pipeline import VGG16Features; assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_package__offers_no_more() -> None:
    assert set(pipeline.__all__) == {"BackboneFeatures", "VGG16Features", "__version__", "load_features"}
    assert all(getattr(pipeline, name) for name in pipeline.__all__)
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'load_feature'"):
        pipeline.load_feature  # noqa: B018
