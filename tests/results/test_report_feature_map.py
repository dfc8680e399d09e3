from __future__ import annotations

import importlib.util

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.decomposition import PCA

from pipeline.errors import PipelineError
from pipeline.results.report.feature_map import neighbourhoods, principal_components, projected, require


def test_principal_components__as_scikit_learn_has_them() -> None:
    random = np.random.default_rng(0)
    X = (random.normal(size=(80, 12)) * np.arange(12, 0, -1) + 3).astype(np.float32)
    found = principal_components(X)
    reference = PCA(2, svd_solver="full").fit(X.astype(np.float64))
    expected = reference.transform(X.astype(np.float64))
    np.testing.assert_allclose(np.abs(found.places), np.abs(expected), atol=1e-5)
    assert found.axes == tuple(
        f"component {place}, {share:.0%} of the variance"
        for place, share in enumerate(reference.explained_variance_ratio_, start=1)
    )
    assert "other 10 directions" in found.caution


def test_principal_components__of_equal_rows_are_all_in_one_place() -> None:
    found = principal_components(np.ones((5, 3), np.float32))
    assert not found.places.any()
    assert found.axes[0] == "component 1, 0% of the variance"


def three_clouds(each: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    random = np.random.default_rng(0)
    which = np.repeat(np.arange(3), each)
    return (random.normal(size=(3 * each, 20)) + 12 * np.eye(3, 20)[which]).astype(np.float32), which


@pytest.mark.parametrize("each", [3, 30])
def test_neighbourhoods__keep_clouds_apart(each: int) -> None:
    pytest.importorskip("umap", reason="the extra umap is not installed")
    X, which = three_clouds(each)
    found = neighbourhoods(X, seed=3)
    assert found.places.shape == (3 * each, 2)
    np.testing.assert_array_equal(projected(X, "umap", 3).places, found.places)
    if each > 15:  # fewer are all each other's neighbours
        distances = np.linalg.norm(found.places[:, None] - found.places, axis=2)
        np.fill_diagonal(distances, np.inf)
        np.testing.assert_array_equal(which[distances.argmin(axis=1)], which)


def test_require__without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"--map umap needs the package umap-learn.*\.\[umap\]"):
        require("umap")
    require("pca")
