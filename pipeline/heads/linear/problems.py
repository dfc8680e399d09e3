"""What is to be solved: heads as objectives over rows, many side by side.

Owns the way from labels, class weights and scikit-learn's ``C`` or ``alpha`` to targets, weights
and penalties. Solves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.heads.linear.losses import Logistic, Loss, Softmax, Squared, SquaredHinge

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

#: The objectives of LogisticRegression, LinearSVC and RidgeClassifier.
Objective = Literal["logistic", "squared-hinge", "squared"]
#: As scikit-learn's ``class_weight``; a tuple has a weight for each class, in the order of their numbers.
ClassWeight = Literal["balanced"] | tuple[float, ...] | None


@dataclass
class Problems:
    """Heads to be fitted: for each the loss over its rows plus ``penalty / 2`` times its squared norm.

    Attributes
    ----------
    loss : Loss
    targets : ndarray of float64, shape (n, problems * width)
    weights : ndarray of float64, shape (n, problems)
        0 for rows that the problem does not train on.
    penalties : ndarray of float64, shape (problems,)
        Greater than 0.
    """

    loss: Loss
    targets: Float64
    weights: Float64
    penalties: Float64

    @property
    def width(self) -> int:
        """Columns a problem has."""
        return int(self.targets.shape[1]) // len(self.penalties)

    def by_problem(self, columns: Float64) -> Float64:
        """Sum numbers of columns, shape (columns,), over the columns that each problem has."""
        sums: Float64 = columns.reshape(-1, self.width).sum(axis=1)
        return sums

    def of(self, problems: npt.NDArray[np.intp]) -> Problems:
        """Return some of the problems."""
        if len(problems) == len(self.penalties):
            return self
        columns = columns_of(problems, self.width)
        return Problems(
            self.loss, self.targets[:, columns], self.weights[:, problems], self.penalties[problems]
        )


def columns_of(problems: npt.NDArray[np.intp], width: int) -> npt.NDArray[np.intp]:
    """Columns that belong to problems, in their order."""
    return (problems[:, None] * width + np.arange(width)).ravel()


class Head(NamedTuple):
    """One problem: a head trained on some rows.

    Attributes
    ----------
    train : ndarray of int
        The rows.
    strength : float
        scikit-learn's ``C``, or ``alpha`` for the objective ``squared``.
    target : int or None
        The class that it tells from the others; None where all classes share one problem.
    """

    train: Indices
    strength: float
    target: int | None


def problems_of(
    heads: Sequence[Head], y: npt.NDArray[np.integer], k: int, objective: Objective, class_weight: ClassWeight
) -> Problems:
    """Write heads down as problems, in their order.

    Parameters
    ----------
    heads : sequence of Head
        With a target for all of them or for none.
    y : ndarray of int, shape (n,)
        Classes of all rows, 0 to k − 1.
    class_weight : "balanced", tuple of float, or None
        ``balanced`` is counted in a head's own training rows.
    """
    weights = np.zeros((len(y), len(heads)))
    for column, head in enumerate(heads):
        weights[head.train, column] = _row_weights(y[head.train], k, objective, class_weight, head.target)
    strengths = np.array([head.strength for head in heads])
    targets = [head.target for head in heads]
    goals = np.where(y[:, None] == np.array(targets), 1.0, -1.0)
    loss: Loss
    match objective:
        case "logistic" if targets[0] is None:
            loss, goals = Softmax(k), np.tile(np.eye(k)[y], len(heads))
        case "logistic":
            loss = Logistic()
        case "squared-hinge":
            loss = SquaredHinge()
        case "squared":
            loss = Squared()
    # What scikit-learn multiplies the loss by, or the penalty, moved to the penalty.
    penalties = {"logistic": 1 / strengths, "squared-hinge": 0.5 / strengths, "squared": strengths}[objective]
    return Problems(loss, goals, weights, penalties)


def _row_weights(
    y: npt.NDArray[np.integer], k: int, objective: Objective, class_weight: ClassWeight, target: int | None
) -> Float64:
    if class_weight is None:
        return np.ones(len(y))
    counts = np.bincount(y, minlength=k)
    by_class = len(y) / (k * counts) if class_weight == "balanced" else np.array(class_weight)
    weights: Float64 = by_class[y]
    if objective == "squared-hinge" and k > 2:
        weights = np.where(y == target, weights, 1.0)  # liblinear weighs the class, and not the rest
    return weights
