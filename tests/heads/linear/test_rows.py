from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from pipeline.heads.factor import Factor
from pipeline.heads.linear.rows import Rows
from pipeline.heads.linear.subspace import PlainRows, Subspace
from tests.heads.linear.conftest import rows_like_vgg

X = rows_like_vgg(50, 300, 2)[0].astype(np.float64)


def seen() -> Rows:
    """The rows from 20 directions."""
    subspace = Subspace(PlainRows.of(X))
    subspace.widen(X[:20].T, np.zeros((1, 0)))
    return subspace.rows


FORMS = [pytest.param(lambda: Rows.of_factor(Factor.of(X)), id="factor"), pytest.param(seen, id="subspace")]


@pytest.mark.parametrize("form", FORMS)
def test_rows__products(form: Callable[[], Rows]) -> None:
    rows = form()
    random = np.random.default_rng(0)
    heads, residuals = random.normal(size=(rows.matrix.shape[1] + 1, 3)), random.normal(size=(50, 3))
    with_ones = np.hstack([rows.matrix, np.ones((50, 1))])
    np.testing.assert_allclose(rows.scores(heads), with_ones @ heads)
    np.testing.assert_allclose(rows.gradient(residuals), with_ones.T @ residuals)
    assert rows.norm == pytest.approx(np.sqrt((X**2).sum(axis=1).mean()))


@pytest.mark.parametrize("intercept_penalty", [0.0, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_precondition__inverts_the_hessian_of_equal_weights(
    form: Callable[[], Rows], intercept_penalty: float
) -> None:
    rows = form()
    with_ones = np.hstack([rows.matrix, np.ones((50, 1))])
    curvature, penalties = np.array([50.0, 3.0]), np.array([1e6, 1e3])
    wanted = np.random.default_rng(0).normal(size=(rows.matrix.shape[1] + 1, 2))
    right = np.empty_like(wanted)
    for column in range(2):
        hessian = curvature[column] / 50 * with_ones.T @ with_ones
        hessian[np.diag_indices(len(hessian))] += penalties[column]
        hessian[-1, -1] += (intercept_penalty - 1) * penalties[column]
        right[:, column] = hessian @ wanted[:, column]
    found = rows.precondition(right, curvature, penalties, intercept_penalty * penalties)
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
