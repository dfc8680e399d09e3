from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.heads.factor import Factor
from pipeline.heads.linear import subspace as subspace_module
from pipeline.heads.linear.problems import Head, Objective, Problems, problems_of
from pipeline.heads.linear.rows import Array, Rows
from pipeline.heads.linear.solver import minimise
from pipeline.heads.linear.subspace import PlainRows, Subspace, minimise_in_subspace
from tests.heads.linear.conftest import rows_like_vgg, stratified

STRENGTHS: dict[Objective, list[float]] = {
    "logistic": [1e-7, 1e-5, 1e-3],
    "squared-hinge": [1e-9, 1e-7, 1e-5],
    "squared": [1e9, 1e7, 1e5],
}


def path(objective: Objective, k: int, n: int = 90) -> tuple[Any, Problems]:
    """Rows, and a problem for every fold and strength."""
    X, y = rows_like_vgg(n, 400, k)
    target = 1 if k == 2 else None if objective == "logistic" else 2
    heads = [Head(train, strength, target) for train, _ in stratified(y) for strength in STRENGTHS[objective]]
    return X.astype(np.float64), problems_of(heads, y, k, objective, None)


def on_features(X: Array, problems: Problems) -> Array:
    """Heads by the other way: on the factor, and then back."""
    factor = Factor.of(X)
    found = minimise(Rows.of_factor(factor), problems, 1e-10, 20_000)
    assert found.converged.all()
    return np.vstack([factor.coefficients(found.heads[:-1].T.astype(np.float64), X).T, found.heads[-1:]])


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("objective", list(STRENGTHS))
def test_minimise_in_subspace__as_on_the_factor(objective: Objective, k: int) -> None:
    X, problems = path(objective, k)
    found = minimise_in_subspace(PlainRows.of(X), problems, 1e-10, 500)
    assert found.converged.all()
    expected = on_features(X, problems)
    difference = (found.heads - expected).reshape(401, -1, problems.width)
    if problems.width > 1:  # the softmax sees differences only
        difference -= difference.mean(axis=2, keepdims=True)
    np.testing.assert_allclose(difference, 0, atol=1e-5 * np.abs(expected).max())
    # what else a solution says is true of these heads
    plain = PlainRows.of(X)
    loss = problems.loss(plain.scores(found.heads), problems.targets, problems.weights)
    scale = np.abs(loss.residuals).max()
    np.testing.assert_allclose(found.residuals, loss.residuals, atol=1e-6 * scale)
    assert (found.norms <= found.goals).all()


def test_minimise_in_subspace__reads_the_features_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    X, problems = path("logistic", 2, n=400)
    reads = []
    gradient = PlainRows.gradient

    def counted(self: PlainRows, residuals: npt.NDArray[np.float64]) -> Array:
        reads.append(len(residuals))
        return gradient(self, residuals)

    monkeypatch.setattr(PlainRows, "gradient", counted)
    found = minimise_in_subspace(PlainRows.of(X), problems, 1e-6, 500)
    assert found.converged.all()
    assert len(reads) == found.iterations.max() + 1
    alone = minimise(Rows.of_factor(Factor.of(X)), problems, 1e-6, 500)
    assert len(reads) < alone.iterations.max()


@pytest.mark.parametrize("objective", list(STRENGTHS))
def test_minimise_in_subspace__never_wider_than_it_may_be(
    monkeypatch: pytest.MonkeyPatch, objective: Objective
) -> None:
    X, problems = path(objective, 2)
    monkeypatch.setattr(subspace_module, "_WIDENING", 5)
    monkeypatch.setattr(subspace_module, "_WIDEST", 30)
    widths = []
    widen = Subspace.widen

    def watched(self: Subspace, directions: Array, heads: Array) -> Array:
        moved = widen(self, directions, heads)
        widths.append(self.width)
        return moved

    monkeypatch.setattr(Subspace, "widen", watched)
    found = minimise_in_subspace(PlainRows.of(X), problems, 1e-8, 500)
    assert found.converged.all()
    assert max(widths) <= 30 < len(widths) * 5
    expected = on_features(X, problems)
    np.testing.assert_allclose(found.heads, expected, atol=1e-3 * np.abs(expected).max())


def test_minimise_in_subspace__given_up() -> None:
    X, problems = path("logistic", 2)
    found = minimise_in_subspace(PlainRows.of(X), problems, 1e-10, 2)
    np.testing.assert_array_equal(found.iterations, 2)
    assert not found.converged.any()
    assert (found.norms > found.goals).all()


def test_subspace__sees_the_features_from_its_directions() -> None:
    X, _ = rows_like_vgg(60, 400, 2)
    plain = PlainRows.of(X.astype(np.float32))
    random = np.random.default_rng(0)
    subspace = Subspace(plain)
    heads = np.ones((1, 3), np.float32)
    for count in (3, 1, 20):
        heads = subspace.widen(random.normal(size=(400, count)).astype(np.float32), heads)
        heads[:-1] += 1
        before = plain.scores(subspace.unfolded(heads))
        np.testing.assert_allclose(subspace.rows.scores(heads), before, rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(subspace.basis.T @ subspace.basis, np.eye(24), atol=1e-6)
    np.testing.assert_allclose(subspace.rows.matrix, plain.matrix @ subspace.basis, rtol=1e-4, atol=1e-2)
    singular = np.linalg.svd(subspace.rows.matrix, compute_uv=False)
    np.testing.assert_allclose(np.sort(subspace.rows.squares)[::-1], singular**2, rtol=1e-4)
    assert subspace.rows.ones @ subspace.rows.ones <= 1 + 1e-6
    # what is added leaves heads what they were; what is left out, too
    wider = subspace.widen(random.normal(size=(400, 2)).astype(np.float32), heads)
    np.testing.assert_allclose(subspace.rows.scores(wider), before, rtol=1e-4, atol=1e-2)
    narrow, fewer = subspace.narrowed(wider)
    assert narrow.width == 3
    np.testing.assert_allclose(narrow.rows.scores(fewer), before, rtol=1e-4, atol=1e-2)


def test_subspace__outside() -> None:
    X, _ = rows_like_vgg(60, 400, 2)
    subspace = Subspace(PlainRows.of(X.astype(np.float64)))
    subspace.widen(np.eye(400)[:, :10], np.zeros((1, 0)))
    vector = np.arange(400.0)[:, None]
    np.testing.assert_allclose(subspace.outside(vector)[:, 0], [*[0] * 10, *range(10, 400)], atol=1e-9)


def test_plain_rows() -> None:
    X = rows_like_vgg(50, 300, 2)[0].astype(np.float32)
    plain = PlainRows.of(X)
    assert plain.matrix is X
    assert plain.norm == pytest.approx(np.sqrt((X.astype(np.float64) ** 2).sum(axis=1).mean()))
    random = np.random.default_rng(0)
    residuals = random.normal(size=(50, 3))
    np.testing.assert_allclose(plain.gradient(residuals), X.T @ residuals, rtol=1e-4, atol=1e-2)
