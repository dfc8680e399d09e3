from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import binomtest
from sklearn import metrics as reference

from pipeline.heads.calibration import expected_calibration_error
from pipeline.heads.model import Predictions
from pipeline.results.metrics import score, wilson_interval


def guesses(n: int, k: int, seed: int) -> tuple[npt.NDArray[np.int64], Predictions]:
    """Labels, and probabilities that lean towards them."""
    random = np.random.default_rng(seed)
    y = random.integers(0, k, n)
    probabilities = random.random((n, k))
    probabilities[np.arange(n), y] += random.random(n)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    classes = tuple("abcdefghij"[:k])
    return y, Predictions(probabilities.argmax(axis=1), classes, probabilities)


@pytest.mark.parametrize(("n", "k"), [(200, 2), (150, 5), (7, 4), (1, 2)])
def test_score__equals_scikit_learn(n: int, k: int) -> None:
    y, predictions = guesses(n, k, seed=n)
    found = score("m", "val", y, predictions)
    codes = list(range(k))

    assert (found.head, found.split, found.n, found.test_looks) == ("m", "val", n, None)
    assert found.accuracy == pytest.approx(reference.accuracy_score(y, predictions.codes), abs=1e-6)
    assert found.macro_f1 == pytest.approx(
        reference.f1_score(y, predictions.codes, average="macro"), abs=1e-6
    )
    loss = reference.log_loss(y, predictions.probabilities, labels=codes)
    assert found.log_loss == pytest.approx(loss, abs=1e-6)
    assert found.confusion == reference.confusion_matrix(y, predictions.codes, labels=codes).tolist()
    expected = reference.precision_recall_fscore_support(y, predictions.codes, labels=codes, zero_division=0)
    for code, label in enumerate(predictions.classes):
        assert list(found.per_class[label].values()) == pytest.approx(
            [part[code] for part in expected], abs=1e-6
        )


def test_score__certain_and_wrong_is_finite_and_as_scikit_learn_has_it() -> None:
    y = np.array([0, 1])
    predictions = Predictions(np.array([0, 0]), ("a", "b"), np.array([[1.0, 0.0], [1.0, 0.0]]))
    loss = reference.log_loss(y, predictions.probabilities)
    assert score("m", "val", y, predictions).log_loss == pytest.approx(loss, abs=1e-6)


def test_score__without_probabilities() -> None:
    y, predictions = guesses(20, 3, seed=1)
    found = score("m", "val", y, replace(predictions, probabilities=None))
    assert found.log_loss is None
    assert "log_loss" not in found.as_dict()


@pytest.mark.parametrize(("right", "n"), [(8, 10), (0, 10), (10, 10), (975, 1000), (1, 1)])
def test_wilson_interval__equals_scipy(right: int, n: int) -> None:
    interval = binomtest(right, n).proportion_ci(method="wilson")
    assert wilson_interval(right, n) == pytest.approx((interval.low, interval.high), abs=2e-6)


def test_score__calibration_error_is_that_of_rows_that_calibrated_nothing() -> None:
    y, predictions = guesses(80, 3, seed=2)
    assert predictions.probabilities is not None
    expected = expected_calibration_error(predictions.probabilities, y)
    for split in ("val", "test"):
        assert score("m", split, y, predictions).ece == pytest.approx(expected, abs=1e-6)
    assert score("m", "train", y, predictions, calibrating=True).ece is None
    assert score("m", "val", y, replace(predictions, probabilities=None)).ece is None


def test_score__rejection() -> None:
    probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2], [0.3, 0.7]])
    predictions = Predictions(np.array([0, 1, 0, 1]), ("a", "b"), probabilities, unsure_below=0.7)
    found = score("m", "val", np.array([0, 0, 1, 1]), predictions)
    # sure of the first, third and fourth; wrong in the second and third
    assert (found.unsure_below, found.coverage, found.accuracy_covered) == (0.7, 0.75, 0.666667)
    assert found.accuracy == 0.5
    assert found.confusion == [[1, 1], [1, 1]]
    assert {"unsure_below", "coverage", "accuracy_covered", "ece"} <= found.as_dict().keys()


def test_score__sure_of_nothing() -> None:
    predictions = Predictions(np.array([0]), ("a", "b"), np.array([[0.6, 0.4]]), unsure_below=0.9)
    found = score("m", "val", np.array([0]), predictions)
    assert (found.coverage, found.accuracy_covered) == (0.0, None)
    assert "accuracy_covered" not in found.as_dict()


def test_score__nothing_demanded() -> None:
    y, predictions = guesses(20, 3, seed=1)
    found = score("m", "val", y, predictions)
    assert (found.unsure_below, found.coverage, found.accuracy_covered) == (None, None, None)
    assert not {"unsure_below", "coverage", "accuracy_covered"} & found.as_dict().keys()
