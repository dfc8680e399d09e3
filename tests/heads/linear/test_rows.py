from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from pipeline.heads.factor import Factor
from pipeline.heads.linear import rows as rows_module
from pipeline.heads.linear.rows import Rows
from tests.heads.linear.conftest import rows_like_vgg

X = rows_like_vgg(50, 300, 2)[0].astype(np.float64)

FORMS = [
    pytest.param(lambda: Rows.of_factor(Factor.of(X)), id="factor"),
    pytest.param(lambda: Rows.of_features(X), id="features"),
    pytest.param(lambda: Rows.of_features(sparse.csr_array(X)), id="sparse"),
]


@pytest.mark.parametrize("form", FORMS)
def test_rows__products(form: Callable[[], Rows]) -> None:
    rows = form()
    matrix = np.asarray(rows.matrix.todense() if sparse.issparse(rows.matrix) else rows.matrix)
    random = np.random.default_rng(0)
    heads, residuals = random.normal(size=(matrix.shape[1] + 1, 3)), random.normal(size=(50, 3))
    with_ones = np.hstack([matrix, np.ones((50, 1))])
    np.testing.assert_allclose(rows.scores(heads), with_ones @ heads)
    np.testing.assert_allclose(rows.gradient(residuals), with_ones.T @ residuals)
    assert rows.norm == pytest.approx(np.sqrt((X**2).sum(axis=1).mean()))


@pytest.mark.parametrize("intercept_penalty", [0.0, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_precondition__inverts_the_hessian_of_equal_weights(
    form: Callable[[], Rows], intercept_penalty: float
) -> None:
    rows = form()
    matrix = np.asarray(rows.matrix.todense() if sparse.issparse(rows.matrix) else rows.matrix)
    with_ones = np.hstack([matrix, np.ones((50, 1))])
    curvature, penalties = np.array([50.0, 3.0]), np.array([1e6, 1e3])
    random = np.random.default_rng(0)
    wanted = random.normal(size=(matrix.shape[1] + 1, 2))
    if rows.basis is not None:  # all rows lie in it; outside the inverse is approximate
        wanted[:-1] = rows.basis @ (rows.basis.T @ wanted[:-1])
    right = np.empty_like(wanted)
    for column in range(2):
        hessian = curvature[column] / 50 * with_ones.T @ with_ones
        hessian[np.diag_indices(len(hessian))] += penalties[column]
        hessian[-1, -1] += (intercept_penalty - 1) * penalties[column]
        right[:, column] = hessian @ wanted[:, column]
    found = rows.precondition(right, curvature, penalties, intercept_penalty * penalties)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


def test_of_features__leading_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_LEADING", 10)
    left, _, right = np.linalg.svd(np.random.default_rng(0).normal(size=(40, 200)), full_matrices=False)
    singular = 0.5 ** np.arange(40)
    rows = Rows.of_features((left * singular) @ right)
    np.testing.assert_allclose(rows.squares[:4], singular[:4] ** 2, rtol=1e-3)
    assert rows.basis is not None
    np.testing.assert_allclose(rows.basis.T @ rows.basis, np.eye(len(rows.squares)), atol=1e-10)
    assert rows.ones @ rows.ones <= 1 + 1e-12


def test_of_features__not_copied() -> None:
    features: Any = X.astype(np.float32)
    assert Rows.of_features(features).matrix is features
