from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.linear_model import Perceptron
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from pipeline.errors import HeadError
from pipeline.features.store import Features
from pipeline.heads.calibration import (
    Calibration,
    calibrated,
    can_be_calibrated,
    expected_calibration_error,
    scores,
    temperature_of,
)
from pipeline.heads.derived import Derivation, Standardization
from pipeline.heads.folds import fold_of_rows
from pipeline.heads.matrix import FeatureMatrix
from pipeline.heads.memory import Memory
from pipeline.heads.recipe import Fitted, Recipe
from pipeline.heads.registry import PRESETS, build
from tests.heads.conftest import CLASSES, image_rows

Floats = npt.NDArray[np.float64]


def drawn(n: int, k: int, seed: int, truth: float) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Scores, and labels drawn from ``softmax(scores / truth)``."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (n, k))
    noise = random.gumbel(size=(n, k))
    return logits * truth, (logits + noise).argmax(axis=1)


# --- the temperature


@pytest.mark.parametrize("truth", [0.01, 0.5, 1.0, 40.0])
@pytest.mark.parametrize("k", [2, 5])
def test_temperature__is_found_again(truth: float, k: int) -> None:
    logits, y = drawn(20_000, k, 0, truth)
    assert temperature_of(logits, y) == pytest.approx(truth, rel=0.05)


@pytest.mark.parametrize(("n", "k"), [(30, 2), (200, 4)])
def test_temperature__minimises_the_loss_of_softened_labels(n: int, k: int) -> None:
    logits, y = drawn(n, k, 3, 2.0)
    counts = np.bincount(y, minlength=k)
    targets = np.full((n, k), 1.0) / (counts[y] + k)[:, None]
    targets[np.arange(n), y] = (counts[y] + 1) / (counts[y] + k)
    found = minimize_scalar(
        lambda log_t: -np.mean(np.sum(targets * log_softmax(logits / np.exp(log_t), axis=1), axis=1)),
        bounds=(-5, 5),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert temperature_of(logits, y) == pytest.approx(np.exp(found.x), rel=1e-4)


def test_temperature__does_not_depend_on_what_all_classes_have_in_common() -> None:
    logits, y = drawn(300, 3, 1, 1.0)
    shifted = logits + np.random.default_rng(0).normal(0, 100, (300, 1))
    assert temperature_of(shifted, y) == pytest.approx(temperature_of(logits, y), rel=1e-4)


def test_temperature__of_scores_that_separate_is_above_0() -> None:
    y = np.arange(40) % 2
    logits = np.stack([np.zeros(40), np.where(y, 5.0, -5.0)], axis=1)
    probabilities = Calibration(temperature_of(logits, y), 40).probabilities(logits)
    # of 21 rows of a class, the next is expected to be right in 21 of 22
    np.testing.assert_allclose(probabilities[np.arange(40), y], 21 / 22, rtol=1e-3)


@pytest.mark.parametrize("worth", [0.0, -1.0])
def test_temperature__of_scores_that_say_nothing_makes_all_alike(worth: float) -> None:
    logits, y = drawn(500, 3, 2, 1.0)
    logits = logits * worth if worth else np.zeros_like(logits)
    probabilities = Calibration(temperature_of(logits, y), 500).probabilities(logits)
    np.testing.assert_allclose(probabilities, 1 / 3, atol=2e-3)


def test_probabilities__rows_sum_to_1_and_do_not_overflow() -> None:
    found = Calibration(0.5, 9).probabilities(np.array([[1e4, -1e4, 0], [3.0, 3.0, 3.0]]))
    np.testing.assert_allclose(found, np.array([[1, 0, 0], [1 / 3] * 3]), atol=1e-12)


# --- scores


def test_scores__of_every_preset_name_the_same_class_as_the_head() -> None:
    y = np.arange(60) % 3
    random = np.random.default_rng(0)
    X = (random.exponential(1, (60, 12)) + 3 * (np.arange(12) // 4 == y[:, None])).astype(np.float32)
    fast = {
        "mlp": {"max_iter": 600},
        "linear": {"epochs": 5},
        "forest": {"n_jobs": 1},
        "hist-boosting": {"max_iter": 9},
    }
    for name in PRESETS:
        head = build(name, fast.get(name, {}), seed=0, norm=6).fit(X, y)
        assert can_be_calibrated(head)
        found = scores(head, X, 3, 60)
        assert found.dtype == np.float64
        assert found.shape == (60, 3)
        assert np.isfinite(found).all()
        assert (found.argmax(axis=1) == head.predict(X)).mean() > 0.98  # ties, and libsvm's votes


def test_scores__two_classes_have_one_decision_value() -> None:
    X, y = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), np.array([0, 0, 1, 1])
    head = Perceptron().fit(X, y)
    found = scores(head, X, 2, 4)
    np.testing.assert_array_equal(found[:, 0], 0)
    np.testing.assert_array_equal(found[:, 1], head.decision_function(X))


def test_scores__votes_of_none_are_taken_for_less_than_one() -> None:
    X, y = np.array([[0.0], [1.0], [9.0], [10.0]], np.float32), np.array([0, 0, 1, 1])
    head = KNeighborsClassifier(2).fit(X, y)
    np.testing.assert_allclose(scores(head, X, 2, 4)[0], [0, np.log(1 / 6)])


def test_scores__of_naive_bayes_do_not_underflow() -> None:
    X, y = np.array([[0.0], [0.1], [900.0], [900.1]], np.float32), np.array([0, 0, 1, 1])
    found = scores(GaussianNB().fit(X, y), X, 2, 4)
    assert found[0, 1] < -1e5
    assert np.isfinite(found).all()


def test_scores__a_decision_value_for_each_pair_of_classes() -> None:
    random = np.random.default_rng(0)
    for k, pairs in ((3, 3), (4, 6)):
        head = SVC(decision_function_shape="ovo").fit(random.random((40, 3)), np.arange(40) % k)
        with pytest.raises(HeadError, match=rf"has {pairs} for pairs .*decision_function_shape: ovr"):
            scores(head, random.random((2, 3)).astype(np.float32), k, 40)


# --- out of fold


def matrix_of(X: Features, codes: npt.NDArray[np.int64]) -> FeatureMatrix:
    """The first rows of the tests' manifest, with other features."""
    images = [row for row in image_rows() if row.status == "ok"]
    of_class = {label: [row for row in images if row.label == label] for label in CLASSES}
    return FeatureMatrix(X, codes, CLASSES, tuple(of_class[CLASSES[code]].pop(0) for code in codes))


def test_calibrated__each_row_is_scored_by_a_head_that_has_not_seen_it(tmp_path: Path) -> None:
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

    def fit(X: Any, y: Any) -> Fitted:
        seen.append(set(X[:, 5].tolist()))
        np.testing.assert_array_equal(y, X[:, 5].astype(int) % 3)
        X[:] = -1  # as a standardisation would, in place
        return Fitted(Head(), None, ())

    before = rows.X.copy()
    found = calibrated(fit, rows, Memory(tmp_path, 10**9), seed=1)
    assert found.rows == 45
    np.testing.assert_array_equal(rows.X, before)
    folds = fold_of_rows(rows.y, rows.groups, 5, 1)
    assert asked == [set(np.flatnonzero(folds == fold).astype(float)) for fold in range(5)]
    assert seen == [set(map(float, range(45))) - held for held in asked]


def test_calibrated__standardises_within_the_fold(tmp_path: Path) -> None:
    codes = np.arange(30) % 3
    X = np.random.default_rng(0).normal(50, 9, (30, 4)).astype(np.float32)
    rows = matrix_of(X, codes)
    folds = fold_of_rows(rows.y, rows.groups, 5, 0)
    held: list[npt.NDArray[Any]] = []

    class Head:
        def decision_function(self, X: Any) -> Any:
            held.append(X.copy())
            return np.random.default_rng(len(held)).normal(size=(len(X), 3))

    def fit(X: Any, y: Any) -> Fitted:
        return Fitted(Head(), Standardization.fit(X), ())

    calibrated(fit, rows, Memory(tmp_path, 10**9), seed=0)
    for fold, found in enumerate(held):
        training = X[folds != fold].astype(np.float64)
        expected = (X[folds == fold] - training.mean(axis=0)) / training.std(axis=0)
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("estimator", ["linear-svm", "logreg", "knn"])
def test_calibrated__probabilities_mean_what_they_say(tmp_path: Path, estimator: str) -> None:
    random = np.random.default_rng(0)
    y = np.arange(45) % 3
    X = (random.normal(0, 1, (45, 5)) + 1.2 * np.eye(3, 5)[y]).astype(np.float32)
    recipe = Recipe(estimator, {}, CLASSES, Derivation(), 0, False)
    rows = matrix_of(X, y)
    found = calibrated(recipe.fit, rows, Memory(tmp_path, 10**9), seed=0)
    head = recipe.fit(X.copy(), y).estimator
    more = np.arange(3000) % 3
    fresh = (random.normal(0, 1, (3000, 5)) + 1.2 * np.eye(3, 5)[more]).astype(np.float32)
    probabilities = found.probabilities(scores(head, fresh, 3, 45))
    assert expected_calibration_error(probabilities, more) < 0.12
    doubled = Calibration(found.temperature / 4, 45).probabilities(scores(head, fresh, 3, 45))
    assert expected_calibration_error(doubled, more) > 0.15


def test_calibrated__groups_are_never_parted(tmp_path: Path) -> None:
    codes = np.arange(36) % 3
    rows = matrix_of(np.random.default_rng(0).random((36, 3)).astype(np.float32), codes)
    object.__setattr__(rows, "groups", np.arange(36) // 6)  # each of all classes
    learned: list[int] = []

    def fit(X: Any, y: Any) -> Fitted:
        learned.append(len(y))
        return Fitted(Perceptron().fit(X, y), None, ())

    calibrated(fit, rows, Memory(tmp_path, 10**9), seed=0)
    assert sorted(learned) == [24, 30, 30, 30, 30]


def test_calibrated__larger_than_memory(tmp_path: Path) -> None:
    codes = np.arange(30) % 3
    rows = matrix_of(np.random.default_rng(0).random((30, 3)).astype(np.float32), codes)
    kinds: list[type] = []

    def fit(X: Any, y: Any) -> Fitted:
        kinds.append(type(X))
        return Fitted(Perceptron().fit(X, y), None, ())

    in_memory = calibrated(fit, rows, Memory(tmp_path, 10**9), seed=0)
    assert calibrated(fit, rows, Memory(tmp_path, 10), seed=0) == in_memory
    assert kinds == [np.ndarray] * 5 + [np.memmap] * 5


def test_calibrated__one_row_a_class(tmp_path: Path) -> None:
    rows = matrix_of(np.eye(3, dtype=np.float32), np.arange(3))
    with pytest.raises(HeadError, match="5 folds need at least as many training images"):
        calibrated(partial(pytest.fail, "fitted"), rows, Memory(tmp_path, 10**9), seed=0)


def test_calibrated__scores_that_are_not_finite(tmp_path: Path) -> None:
    class Head:
        def decision_function(self, X: Any) -> Any:
            return np.full((len(X), 3), np.nan)

    rows = matrix_of(np.zeros((30, 2), np.float32), np.arange(30) % 3)
    with pytest.raises(HeadError, match="not finite"):
        calibrated(lambda *_: Fitted(Head(), None, ()), rows, Memory(tmp_path, 10**9), seed=0)


# --- the error


def test_error__by_hand() -> None:
    # two in the interval (8/15, 9/15): mean 0.57, half right; one at 1.0, wrong
    probabilities = np.array([[0.55, 0.45], [0.59, 0.41], [0.0, 1.0]])
    expected = 2 / 3 * abs(0.57 - 0.5) + 1 / 3 * 1.0
    assert expected_calibration_error(probabilities, np.array([0, 1, 0])) == pytest.approx(expected)


@pytest.mark.parametrize("k", [2, 4])
def test_error__equals_a_plain_loop(k: int) -> None:
    logits, y = drawn(500, k, 0, 1.0)
    probabilities = Calibration(0.6, 1).probabilities(logits)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & (confidence < low + 1 / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert expected_calibration_error(probabilities, y) == pytest.approx(expected)


def test_error__is_small_for_the_right_temperature_and_large_for_others() -> None:
    logits, y = drawn(20_000, 3, 5, 1.0)
    errors = [
        expected_calibration_error(Calibration(temperature, 1).probabilities(logits), y)
        for temperature in (0.3, 1.0, 3.0)
    ]
    assert errors[1] < 0.01
    assert min(errors[0], errors[2]) > 0.05


def test_error__of_certainty() -> None:
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([0])) == 0
    assert expected_calibration_error(np.array([[1.0, 0.0]]), np.array([1])) == 1
