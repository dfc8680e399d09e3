from __future__ import annotations

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
from pipeline.heads.calibration import (
    Calibration,
    can_be_calibrated,
    expected_calibration_error,
    scores,
    temperature_of,
)
from pipeline.heads.registry import PRESETS, build

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
