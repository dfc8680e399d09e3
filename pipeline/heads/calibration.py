"""Probabilities that mean what they say: a temperature, fitted to rows that the head had not learned from.

Owns scores (what a head says before it is made into probabilities), the temperature, and the measure of
how far off probabilities are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import HeadError

Floats = npt.NDArray[np.float64]

#: Intervals of confidence in `expected_calibration_error`.
BINS = 15
# The temperature is sought where the scores' root-mean-square, divided by it, is between these.
_SPREADS = (1e-3, 1e3)
_HALVINGS = 30  # of the interval between their logarithms: nine digits


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities: ``softmax(scores / temperature)``.

    Attributes
    ----------
    temperature : float
        Above 0. The label does not depend on it.
    rows : int
        How many out-of-fold rows it was fitted to.
    """

    temperature: float
    rows: int

    @classmethod
    def fit(cls, scores: Floats, y: npt.NDArray[np.int64]) -> Calibration:
        """Fit a temperature to scores, shape (n, k), of rows that the heads had not learned from.

        Raises
        ------
        HeadError
            The scores are not finite.
        """
        if not np.isfinite(scores).all():
            raise HeadError("calibrate: the scores of rows that were held out are not finite.")
        return cls(temperature_of(scores, y), len(y))

    def probabilities(self, scores: Floats) -> Floats:
        """Return the probabilities, shape (n, k), rows summing to 1."""
        return _softmax(scores / self.temperature)


def can_be_calibrated(estimator: Any) -> bool:
    """Say whether an estimator, fitted or not, has scores."""
    return hasattr(estimator, "decision_function") or hasattr(estimator, "predict_proba")


def scores(estimator: Any, X: npt.NDArray[np.float32], classes: int, rows: int) -> Floats:
    """Return a number for each class, the larger the likelier.

    Decision values, where there are any: for two classes 0 and the one value. Else logarithms of
    probabilities; one of 0 is taken for 1 / (rows + 2), as Laplace's rule of succession has it.

    Parameters
    ----------
    estimator : object
        Fitted, with `can_be_calibrated`.
    X : ndarray of float32, shape (n, columns)
        Rows as it has learned them.
    classes, rows : int
        How many there were of each in its training.

    Returns
    -------
    ndarray of float64, shape (n, classes)

    Raises
    ------
    HeadError
        The decision values are not one a class.
    """
    if hasattr(estimator, "decision_function"):
        found = np.asarray(estimator.decision_function(X), np.float64)
        if found.ndim == 1:
            found = np.stack([np.zeros(len(found)), found], axis=1)
        of_pairs = classes > 2 and getattr(estimator, "decision_function_shape", "") == "ovo"
        if of_pairs or found.shape[1] != classes:
            raise HeadError(
                f"a decision value for each of {classes} classes is needed, and this estimator has "
                f"{found.shape[1]}{' for pairs of classes: set decision_function_shape: ovr' * of_pairs}."
            )
        return found
    if hasattr(estimator, "predict_joint_log_proba"):  # naive Bayes, whose probabilities underflow
        return np.asarray(estimator.predict_log_proba(X), np.float64)
    probabilities = np.asarray(estimator.predict_proba(X), np.float64)
    return np.log(np.maximum(probabilities, 1 / (rows + 2)))


def temperature_of(scores: Floats, y: npt.NDArray[np.int64]) -> float:
    """Find the temperature under which labels are likeliest.

    The labels are softened as if each class had been seen once more, and once wrong: else scores that
    separate the classes would make it 0.

    Parameters
    ----------
    scores : ndarray of float64, shape (n, k)
        Finite.
    y : ndarray of int64, shape (n,)
        Columns of the right classes.

    Returns
    -------
    float
        Six digits of it; more differ among processors.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017.
    J. Platt, "Probabilistic outputs for support vector machines", 1999 (softened labels).
    """
    n, k = scores.shape
    scores = scores - scores.mean(axis=1, keepdims=True)
    spread = float(np.sqrt(np.mean(scores**2)))
    if spread == 0:
        return 1.0
    count = np.bincount(y, minlength=k)[y]
    targets = np.repeat(1 / (count + k), k).reshape(n, k)
    targets[np.arange(n), y] = (count + 1) / (count + k)
    wanted = np.sum(targets * scores)

    def too_cold(slope: float) -> bool:  # the derivative of a convex function of 1 / temperature
        return bool(np.sum(_softmax(scores * slope) * scores) > wanted)

    low, high = (np.log(value / spread) for value in _SPREADS)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if too_cold(np.exp(middle)) else (middle, high)
    return float(f"{np.exp(-low):.5e}")


def expected_calibration_error(probabilities: Floats, y: npt.NDArray[np.int64]) -> float:
    """Return how far confidence is from accuracy, on average.

    The mean, over rows in 15 intervals of equal width of the largest probability, of the distance between
    an interval's mean probability and the share of it that is right. Some of it is chance: with few rows it
    is never 0.

    Parameters
    ----------
    probabilities : ndarray of float64, shape (n, k)
        Rows sum to 1.
    y : ndarray of int64, shape (n,)
        Columns of the right classes; n is at least 1.

    Returns
    -------
    float
        0 to 1.

    References
    ----------
    M. P. Naeini, G. F. Cooper, M. Hauskrecht, "Obtaining well calibrated probabilities using Bayesian
    binning", AAAI 2015; 15 intervals as in C. Guo et al., "On calibration of modern neural networks", ICML
    2017.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == y
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    return float(np.abs(np.bincount(place, weights=confidence - right, minlength=BINS)).sum() / len(y))


def _softmax(scores: Floats) -> Floats:
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    total: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return total
