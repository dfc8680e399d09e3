from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from pipeline.heads.factor import Factor
from pipeline.heads.gram import Gram, precomputed

ROWS, COLUMNS = 60, 300


@pytest.fixture
def X() -> npt.NDArray[np.float32]:
    """Rows like VGG16's: most numbers are 0, the others large; two rows are copies, and one is all zeros."""
    random = np.random.default_rng(0)
    X = (random.exponential(20, (ROWS, COLUMNS)) * (random.random((ROWS, COLUMNS)) < 0.15)).astype(np.float32)
    X[7], X[9] = X[3], 0
    return X


@pytest.fixture
def parts() -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    order = np.random.default_rng(1).permutation(ROWS)
    return order[:20], order[20:]


def test_distances__equal_scipy(X: Any, parts: Any) -> None:
    rows, others = parts
    gram = Gram.of(X)
    exact = X.astype(np.float64)
    expected = cdist(exact[rows], exact[others], "sqeuclidean")
    np.testing.assert_allclose(gram.squared_distances(rows, others), expected, rtol=1e-9, atol=1e-6)
    some = rows[rows != 9], others[others != 9]
    np.testing.assert_allclose(
        gram.cosine_distances(*some), cdist(exact[some[0]], exact[some[1]], "cosine"), atol=1e-12
    )


def test_distances__of_copies_are_never_below_0(X: Any) -> None:
    gram = Gram.of(X)
    everything = np.arange(ROWS)
    assert gram.squared_distances(everything, everything).min() == 0
    assert gram.cosine_distances(everything, everything).min() == 0
    assert gram.squared_distances(np.array([3]), np.array([7]))[0, 0] < 1e-6


def test_cosine__a_row_of_zeros_is_at_1_from_all(X: Any) -> None:
    distances = Gram.of(X).cosine_distances(np.array([9]), np.arange(ROWS))
    np.testing.assert_array_equal(distances, 1)


def test_variance__of_some_rows(X: Any, parts: Any) -> None:
    for rows in parts:
        assert Gram.of(X).variance(rows) == pytest.approx(X[rows].astype(np.float64).var(), rel=1e-12)


def test_factor__is_that_of_the_rows(X: Any) -> None:
    np.testing.assert_array_equal(Gram.of(X).factor.eigenvalues, Factor.of(X).eigenvalues)


@pytest.mark.parametrize(
    "estimator",
    [
        KNeighborsClassifier(metric="cosine", n_neighbors=3),
        KNeighborsClassifier(metric="cosine", n_neighbors=1, algorithm="brute"),
        KNeighborsClassifier(n_neighbors=5),
        KNeighborsClassifier(metric="euclidean", n_neighbors=4, weights="distance"),
        SVC(C=10),
        SVC(C=0.1, gamma="auto"),
        SVC(C=3, gamma=1e-4, class_weight="balanced"),
        SVC(C=3, decision_function_shape="ovo"),
    ],
    ids=str,
)
def test_precomputed__predicts_as_the_estimator_itself_does(estimator: Any, X: Any, parts: Any) -> None:
    test, train = parts
    y = np.arange(ROWS) % 3
    X[:, :40] += 30 * (y[:, None] == np.arange(40) % 3)
    y[::7] = 0  # so that not all are right
    found = precomputed(estimator)
    assert found is not None
    gram = Gram.of(X)
    ours = found.estimator.fit(found.measure.matrix(gram, train, train), y[train])
    theirs = estimator.fit(X[train], y[train])
    expected = theirs.predict(X[test])
    np.testing.assert_array_equal(ours.predict(found.measure.matrix(gram, test, train)), expected)
    assert len(set(expected.tolist())) > 1
    if isinstance(estimator, SVC):
        np.testing.assert_allclose(
            ours.decision_function(found.measure.matrix(gram, test, train)),
            theirs.decision_function(X[test]),
            rtol=1e-6,
            atol=1e-6,
        )


class Neighbours(KNeighborsClassifier):  # type: ignore[misc]
    """May do anything."""


@pytest.mark.parametrize(
    "estimator",
    [
        KNeighborsClassifier(metric="manhattan"),
        KNeighborsClassifier(p=1),
        KNeighborsClassifier(metric="minkowski", metric_params={"w": [1.0]}),
        SVC(kernel="linear"),
        SVC(kernel="poly"),
        LogisticRegression(),
        Neighbours(),
    ],
    ids=str,
)
def test_precomputed__none_for_the_others(estimator: Any) -> None:
    assert precomputed(estimator) is None


def test_rbf__constant_rows_have_a_width_of_1() -> None:
    found = precomputed(SVC())
    assert found is not None
    everything = np.arange(4)
    matrix = found.measure.matrix(Gram.of(np.full((4, 5), 2, np.float32)), everything, everything)
    np.testing.assert_array_equal(matrix, 1)
