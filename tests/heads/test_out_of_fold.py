from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import Perceptron

from pipeline.errors import HeadError
from pipeline.heads.calibration import Calibration, expected_calibration_error, scores
from pipeline.heads.derived import Derivation, Standardization
from pipeline.heads.folds import NOT_HELD_OUT, fold_of_rows
from pipeline.heads.labelled_rows import FeatureMatrix
from pipeline.heads.memory import Memory
from pipeline.heads.out_of_fold import out_of_fold
from pipeline.heads.recipe import Fitted, Recipe
from tests.heads.conftest import CLASSES, image_rows

Features = npt.NDArray[np.float32]


def matrix_of(X: Features, codes: npt.NDArray[np.int64]) -> FeatureMatrix:
    """The first rows of the tests' manifest, with other features."""
    images = [row for row in image_rows() if row.status == "ok"]
    of_class = {label: [row for row in images if row.label == label] for label in CLASSES}
    return FeatureMatrix(codes, CLASSES, tuple(of_class[CLASSES[code]].pop(0) for code in codes), X)


def test_each_row_is_scored_by_a_head_that_has_not_seen_it(tmp_path: Path) -> None:
    codes = np.arange(45) % 3
    X = np.random.default_rng(0).normal(0, 1, (45, 6)).astype(np.float32) + 10 * codes[:, None]
    X[:, 5] = np.arange(45)  # by which rows are known again
    rows = matrix_of(X.astype(np.float32), codes)
    seen: list[set[float]] = []
    asked: list[set[float]] = []

    class Head:
        def decision_function(self, X: Any) -> Any:
            asked.append(set(X[:, 5].tolist()))
            return np.eye(3)[X[:, 5].astype(int) % 3]

        def predict(self, X: Any) -> Any:
            return X[:, 5].astype(int) % 3

    def fit(X: Any, y: Any) -> Fitted:
        seen.append(set(X[:, 5].tolist()))
        np.testing.assert_array_equal(y, X[:, 5].astype(int) % 3)
        X[:] = -1  # as a standardisation would, in place
        return Fitted(Head(), None, ())

    before = rows.X.copy()
    found = out_of_fold(fit, rows, Memory(tmp_path, 10**9), seed=1, scored=True)
    np.testing.assert_array_equal(found.codes, codes)
    assert found.probabilities is None
    calibration = found.calibration(rows.y)
    assert calibration is not None
    assert calibration.rows == 45
    np.testing.assert_array_equal(rows.X, before)
    folds = fold_of_rows(rows.y, rows.groups, 5, 1)
    assert asked == [set(np.flatnonzero(folds == fold).astype(float)) for fold in range(5)]
    assert seen == [set(map(float, range(45))) - held for held in asked]


def test_standardises_within_the_fold(tmp_path: Path) -> None:
    codes = np.arange(30) % 3
    X = np.random.default_rng(0).normal(50, 9, (30, 4)).astype(np.float32)
    rows = matrix_of(X, codes)
    folds = fold_of_rows(rows.y, rows.groups, 5, 0)
    held: list[npt.NDArray[Any]] = []

    class Head:
        def decision_function(self, X: Any) -> Any:
            held.append(X.copy())
            return np.random.default_rng(len(held)).normal(size=(len(X), 3))

        def predict(self, X: Any) -> Any:
            return np.zeros(len(X), np.int64)

    def fit(X: Any, y: Any) -> Fitted:
        return Fitted(Head(), Standardization.fit(X), ())

    out_of_fold(fit, rows, Memory(tmp_path, 10**9), seed=0, scored=True)
    for fold, found in enumerate(held):
        training = X[folds != fold].astype(np.float64)
        expected = (X[folds == fold] - training.mean(axis=0)) / training.std(axis=0)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("estimator", ["linear-svm", "logreg", "knn"])
def test_probabilities_mean_what_they_say(tmp_path: Path, estimator: str) -> None:
    random = np.random.default_rng(0)
    y = np.arange(45) % 3
    X = (random.normal(0, 1, (45, 5)) + 1.2 * np.eye(3, 5)[y]).astype(np.float32)
    recipe = Recipe(estimator, {}, CLASSES, Derivation(), 0, False)
    rows = matrix_of(X, y)
    found = out_of_fold(recipe.fit, rows, Memory(tmp_path, 10**9), 0, scored=True).calibration(y)
    assert found is not None
    head = recipe.fit(X.copy(), y).estimator
    more = np.arange(3000) % 3
    fresh = (random.normal(0, 1, (3000, 5)) + 1.2 * np.eye(3, 5)[more]).astype(np.float32)
    probabilities = found.probabilities(scores(head, fresh, 3, 45))
    assert expected_calibration_error(probabilities, more) < 0.12
    doubled = Calibration(found.temperature / 4, 45).probabilities(scores(head, fresh, 3, 45))
    assert expected_calibration_error(doubled, more) > 0.15


def test_groups_are_never_parted(tmp_path: Path) -> None:
    codes = np.arange(36) % 3
    rows = matrix_of(np.random.default_rng(0).random((36, 3)).astype(np.float32), codes)
    object.__setattr__(rows, "groups", np.arange(36) // 6)  # each of all classes
    learned: list[int] = []

    def fit(X: Any, y: Any) -> Fitted:
        learned.append(len(y))
        return Fitted(Perceptron().fit(X, y), None, ())

    out_of_fold(fit, rows, Memory(tmp_path, 10**9), seed=0, scored=True)
    assert sorted(learned) == [24, 30, 30, 30, 30]


def test_larger_than_memory(tmp_path: Path) -> None:
    codes = np.arange(30) % 3
    rows = matrix_of(np.random.default_rng(0).random((30, 3)).astype(np.float32), codes)
    kinds: list[type] = []

    def fit(X: Any, y: Any) -> Fitted:
        kinds.append(type(X))
        return Fitted(Perceptron().fit(X, y), None, ())

    in_memory, mapped = (
        out_of_fold(fit, rows, Memory(tmp_path, budget), seed=0, scored=True) for budget in (10**9, 10)
    )
    assert mapped.scores is not None
    assert in_memory.scores is not None
    np.testing.assert_array_equal(mapped.scores, in_memory.scores)
    assert kinds == [np.ndarray] * 5 + [np.memmap] * 5


def test_one_row_a_class(tmp_path: Path) -> None:
    rows = matrix_of(np.eye(3, dtype=np.float32), np.arange(3))
    with pytest.raises(HeadError, match="5 folds need at least as many training images"):
        out_of_fold(partial(pytest.fail, "fitted"), rows, Memory(tmp_path, 10**9), seed=0, scored=True)


def test_scores_that_are_not_finite(tmp_path: Path) -> None:
    class Head:
        def decision_function(self, X: Any) -> Any:
            return np.full((len(X), 3), np.nan)

        def predict(self, X: Any) -> Any:
            return np.zeros(len(X), np.int64)

    rows = matrix_of(np.zeros((30, 2), np.float32), np.arange(30) % 3)
    found = out_of_fold(lambda *_: Fitted(Head(), None, ()), rows, Memory(tmp_path, 10**9), 0, scored=True)
    with pytest.raises(HeadError, match="not finite"):
        found.calibration(rows.y)


def test_the_only_row_of_a_class_is_never_asked_about(tmp_path: Path) -> None:
    codes = np.array([*(np.arange(20) % 2), 2])
    X = np.random.default_rng(0).random((21, 3)).astype(np.float32)
    recipe = Recipe("logreg", {}, CLASSES, Derivation(), 0, False)
    found = out_of_fold(recipe.fit, matrix_of(X, codes), Memory(tmp_path, 10**9), 0, scored=True)
    assert np.flatnonzero(found.codes == NOT_HELD_OUT).tolist() == [20]
    calibration = found.calibration(codes)
    assert calibration is not None
    assert calibration.rows == 20
