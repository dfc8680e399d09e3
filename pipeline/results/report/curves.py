"""ROC, precision-recall and calibration: how far a head's numbers can be trusted, as points to be drawn.

Owns the arithmetic. It draws nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.heads.calibration import BINS
from pipeline.results.metrics import wilson_interval

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

# Points of a curve that is drawn: more cannot be told apart.
_POINTS = 150


@dataclass(frozen=True, eq=False)
class Ranking:
    """How well a head tells one class from all others, whatever the threshold.

    Attributes
    ----------
    label : str
        The class.
    roc : ndarray of float64, shape (points, 2)
        False and true positive rate, from (0, 0) to (1, 1).
    precision_recall : ndarray of float64, shape (points, 2)
        Recall and precision.
    area : float
        Under the ROC curve: how often one of the class is ranked above one of the others.
    average_precision : float
        Mean precision over the steps of recall.
    """

    label: str
    roc: Floats
    precision_recall: Floats
    area: float
    average_precision: float


@dataclass(frozen=True)
class Bin:
    """Images whose best label is about equally probable.

    Attributes
    ----------
    low, high : float
        Of the probability.
    n : int
        How many images.
    confidence : float
        Their mean probability.
    accuracy : float
        Share of them whose best label is right.
    accuracy_95 : tuple of float
        95 % confidence interval of it (Wilson's).
    """

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float
    accuracy_95: tuple[float, float]


def rankings(y: Codes, decisions: Floats, classes: tuple[str, ...]) -> list[Ranking]:
    """Return how well each class is told from the others, the worst first.

    Parameters
    ----------
    y : ndarray of int64, shape (n,)
        Positions in `classes`.
    decisions : ndarray of float64, shape (n, k)
        The larger, the likelier the class.
    classes : tuple of str, length k
        Labels; left out are those that no image, or every image, has.
    """
    from sklearn import metrics

    found = []
    for code, label in enumerate(classes):
        positive, ranks = y == code, decisions[:, code]
        if len(classes) == 2:  # decision values of the first class are 0 throughout
            ranks = (decisions[:, 1] - decisions[:, 0]) * (1 if code else -1)
        if positive.all() or not positive.any():
            continue
        false_rate, true_rate, _ = metrics.roc_curve(positive, ranks)
        precision, recall, _ = metrics.precision_recall_curve(positive, ranks, drop_intermediate=True)
        found.append(
            Ranking(
                label,
                _thinned(np.stack([false_rate, true_rate], axis=1)),
                _thinned(np.stack([recall, precision], axis=1)),
                float(metrics.roc_auc_score(positive, ranks)),
                float(metrics.average_precision_score(positive, ranks)),
            )
        )
    return sorted(found, key=lambda ranking: (ranking.area, ranking.label))


def calibration_bins(y: Codes, probabilities: Floats) -> list[Bin]:
    """Compare the probability of the best label with how often it is right.

    The intervals are those of `expected_calibration_error`; empty ones are left out.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == y
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = []
    for number in range(BINS):
        here = place == number
        n = int(here.sum())
        if n:
            hits = int(right[here].sum())
            interval = wilson_interval(hits, n)
            mean = float(confidence[here].mean())
            bins.append(Bin(number / BINS, (number + 1) / BINS, n, mean, hits / n, interval))
    return bins


def _thinned(points: Floats) -> Floats:
    """Return some of the points, the first and the last among them."""
    if len(points) <= _POINTS:
        return points
    chosen: Floats = points[np.linspace(0, len(points) - 1, _POINTS).round().astype(np.int64)]
    return chosen
