"""What linear heads minimise, for many heads at once.

Owns the losses: their value, first and second derivatives, and the head that sees no feature.
Each is scikit-learn's own, up to a factor: `Problems` brings strengths to the same scale.

A problem is one head on one fold at one strength, and has `width` columns: all the classes'
scores for the softmax, whose classes need each other; one for the other losses, where a head of
several classes is several problems.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


class Evaluation(NamedTuple):
    """A loss at some scores.

    Attributes
    ----------
    value : ndarray, shape (problems,)
        Weighted sum over the rows.
    residuals : ndarray, shape (n, columns)
        Derivatives by the scores.
    curvature : ndarray, shape (columns,)
        Sum over the rows of the second derivatives by the scores.
    """

    value: Float64
    residuals: Float64
    curvature: Float64


class Loss(Protocol):
    """A loss of scores against targets.

    `targets` has shape (n, columns): −1 or 1, or for the softmax 1 in the column of the row's
    class and 0 elsewhere. `weights` has shape (n, problems) and is 0 for rows that a problem does
    not train on.
    """

    #: Whether the intercept is regularised as the coefficients are.
    intercept_penalised: bool

    def __call__(self, scores: Float64, targets: Float64, weights: Float64) -> Evaluation:
        """Evaluate the loss and its derivatives."""

    def constant(self, targets: Float64, weights: Float64, penalty: Float64) -> Float64:
        """Return the best scores that are the same for every row, shape (columns,)."""


class Logistic:
    """``log(1 + exp(-target * score))``, as in LogisticRegression on two classes."""

    intercept_penalised = False

    def __call__(self, scores: Float64, targets: Float64, weights: Float64) -> Evaluation:
        """Evaluate the loss and its derivatives."""
        margins = targets * scores
        small = np.exp(-np.abs(margins))
        inverse = 1 / (1 + small)
        losses = np.maximum(-margins, 0) - np.log(inverse)
        wrong = np.where(margins < 0, inverse, small * inverse)  # probability of the other class
        return Evaluation(
            _sums(weights, losses), -weights * targets * wrong, _sums(weights, wrong * (1 - wrong))
        )

    def constant(self, targets: Float64, weights: Float64, penalty: Float64) -> Float64:
        """Log odds of the classes."""
        positive, negative = _sums(weights, targets > 0), _sums(weights, targets < 0)
        odds: Float64 = np.log(positive / negative)
        return odds


class Softmax:
    """Cross-entropy of the softmax over `width` columns, as in LogisticRegression on several classes."""

    intercept_penalised = False

    def __init__(self, width: int) -> None:
        self._width = width

    def __call__(self, scores: Float64, targets: Float64, weights: Float64) -> Evaluation:
        """Evaluate the loss and its derivatives."""
        shape = (*weights.shape, self._width)  # (n, problems, width)
        logits, chosen = scores.reshape(shape), targets.reshape(shape)
        logits = logits - logits.max(axis=2, keepdims=True)
        probabilities = np.exp(logits)
        totals = probabilities.sum(axis=2, keepdims=True)
        probabilities /= totals
        losses = np.log(totals[:, :, 0]) - np.einsum("npk,npk->np", logits, chosen)
        residuals = weights[:, :, None] * (probabilities - chosen)
        curvature = np.einsum("np,npk->pk", weights, probabilities * (1 - probabilities))
        return Evaluation(_sums(weights, losses), residuals.reshape(scores.shape), curvature.ravel())

    def constant(self, targets: Float64, weights: Float64, penalty: Float64) -> Float64:
        """Log shares of the classes, centred: the softmax sees differences only."""
        shares = np.log(np.einsum("np,npk->pk", weights, targets.reshape(*weights.shape, self._width)))
        centred: Float64 = shares - shares.mean(axis=1, keepdims=True)
        return centred.ravel()


class SquaredHinge:
    """Half of ``max(0, 1 - target * score) ** 2``, as in LinearSVC."""

    intercept_penalised = True

    def __call__(self, scores: Float64, targets: Float64, weights: Float64) -> Evaluation:
        """Evaluate the loss and its derivatives."""
        short = np.maximum(1 - targets * scores, 0)
        pull = weights * short
        return Evaluation(_sums(pull, short) / 2, -targets * pull, _sums(weights, short > 0))

    def constant(self, targets: Float64, weights: Float64, penalty: Float64) -> Float64:
        """Between −1 and 1, where every row is short of its margin and the loss is a parabola."""
        best: Float64 = _sums(weights, targets) / (weights.sum(axis=0) + penalty)
        return best


class Squared:
    """Half of ``(score - target) ** 2``, as in RidgeClassifier."""

    intercept_penalised = False

    def __call__(self, scores: Float64, targets: Float64, weights: Float64) -> Evaluation:
        """Evaluate the loss and its derivatives."""
        errors = scores - targets
        pull = weights * errors
        return Evaluation(_sums(pull, errors) / 2, pull, weights.sum(axis=0))

    def constant(self, targets: Float64, weights: Float64, penalty: Float64) -> Float64:
        """Weighted mean of the targets."""
        mean: Float64 = _sums(weights, targets) / weights.sum(axis=0)
        return mean


def _sums(left: Float64, right: npt.NDArray[Any]) -> Float64:
    """Column sums of a product."""
    sums: Float64 = np.einsum("ij,ij->j", left, right)
    return sums
