from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from pipeline.results.report.feature_map import principal_components


def test_principal_components__as_scikit_learn_has_them() -> None:
    random = np.random.default_rng(0)
    X = (random.normal(size=(80, 12)) * np.arange(12, 0, -1) + 3).astype(np.float32)
    places, shares = principal_components(X)
    reference = PCA(2, svd_solver="full").fit(X.astype(np.float64))
    expected = reference.transform(X.astype(np.float64))
    np.testing.assert_allclose(np.abs(places), np.abs(expected), atol=1e-5)
    assert shares == pytest.approx(reference.explained_variance_ratio_)


def test_principal_components__of_equal_rows_are_all_in_one_place() -> None:
    places, shares = principal_components(np.ones((5, 3), np.float32))
    assert not places.any()
    assert shares == (0, 0)
