from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from pipeline.heads.calibration import expected_calibration_error
from pipeline.results.report.curves import calibration_bins, rankings


def synthetic(n: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y = random.integers(k, size=n)
    logits = random.normal(size=(n, k)) + 1.5 * np.eye(k)[y]
    probabilities = np.exp(logits)
    return y, probabilities / probabilities.sum(axis=1, keepdims=True)


def area_by_pairs(positive: np.ndarray, ranks: np.ndarray) -> float:
    """How often a positive is ranked above a negative, ties counting half: the definition."""
    difference = ranks[positive][:, None] - ranks[~positive][None, :]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


@pytest.mark.parametrize("k", [2, 4])
def test_rankings__are_areas_by_definition_and_by_scikit_learn(k: int) -> None:
    y, probabilities = synthetic(300, k)
    labels = tuple("abcd"[:k])
    found = rankings(y, probabilities, labels)
    assert [each.area for each in found] == sorted(each.area for each in found)
    for each in found:
        code = labels.index(each.label)
        assert each.area == pytest.approx(area_by_pairs(y == code, probabilities[:, code]))
        assert each.area == pytest.approx(metrics.roc_auc_score(y == code, probabilities[:, code]))
        expected = metrics.average_precision_score(y == code, probabilities[:, code])
        assert each.average_precision == pytest.approx(expected)
        # the drawn lines enclose these areas, though they have fewer points
        false_rate, true_rate = each.roc.T
        assert float(np.trapezoid(true_rate, false_rate)) == pytest.approx(each.area, abs=2e-3)
        assert each.roc[0].tolist() == [0, 0]
        assert each.roc[-1].tolist() == [1, 1]
        assert len(each.roc) <= 150
        assert len(each.precision_recall) <= 150


def test_rankings__of_decision_values_of_two_classes() -> None:
    """Those of the first class are 0 throughout (`calibration.scores`), and must not tie."""
    y, probabilities = synthetic(200, 2)
    logit = np.log(probabilities[:, 1] / probabilities[:, 0])
    by_decision = rankings(y, np.stack([np.zeros(200), logit], axis=1), ("a", "b"))
    by_probability = rankings(y, probabilities, ("a", "b"))
    assert {each.label for each in by_decision} == {"a", "b"}
    assert {each.label: each.area for each in by_decision} == pytest.approx(
        {each.label: each.area for each in by_probability}
    )


def test_rankings__a_class_without_images_is_left_out() -> None:
    y, probabilities = synthetic(50, 3)
    y[y == 1] = 0
    assert {each.label for each in rankings(y, probabilities, ("a", "b", "c"))} == {"a", "c"}


def test_calibration_bins__as_scikit_learn_has_them() -> None:
    y, probabilities = synthetic(500, 3)
    bins = calibration_bins(y, probabilities)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    share, mean = calibration_curve(right, confidence, n_bins=15)
    np.testing.assert_allclose([each.accuracy for each in bins], share)
    np.testing.assert_allclose([each.confidence for each in bins], mean)
    assert sum(each.n for each in bins) == 500
    assert all(each.accuracy_95[0] <= each.accuracy <= each.accuracy_95[1] for each in bins)
    error = sum(each.n * abs(each.accuracy - each.confidence) for each in bins) / 500
    assert error == pytest.approx(expected_calibration_error(probabilities, y))


def test_calibration_bins__of_certainty() -> None:
    (only,) = calibration_bins(np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]))
    assert (only.n, only.confidence, only.accuracy) == (2, 1.0, 0.5)
