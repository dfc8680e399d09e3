"""Cross-validation of linear heads: every fold and every regularisation solved at once.

Owns the way from labels, folds and strengths to scores of held-out rows. What is minimised is
scikit-learn's own objective of LogisticRegression, LinearSVC and RidgeClassifier, to a tolerance
that does not depend on the features' scale. Class weights are computed from a fold's training
rows alone; the rows of a factor are only rotated, so that nothing of a held-out row is learnt.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import HeadError
from pipeline.heads.linear.problems import ClassWeight, Head, Objective, problems_of
from pipeline.heads.linear.rows import Rows
from pipeline.heads.linear.solver import minimise
from pipeline.heads.linear.subspace import PlainRows, minimise_in_subspace

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

TOLERANCE = 1e-6  # LogisticRegression's default stops at 3e-6 to 9e-6 on raw features, at 0.1 on normalised
MAX_ITERATIONS = 500  # 52 are needed on raw features up to C = 1, where nearly every row is fitted exactly

_COLUMNS = 512  # solved at once: a wider product is no faster, and a hundred classes must not fill the memory


@dataclass(frozen=True)
class PathFit:
    """Heads for every fold and strength.

    Attributes
    ----------
    coefficients : ndarray in the dtype of the rows, shape (n_folds, n_strengths, k, r)
        For the matrix of the rows. k is 1 for two classes, else the number of classes.
    intercepts : ndarray of float64, shape (n_folds, n_strengths, k)
    held_out : ndarray of float64, shape (n_strengths, n_rows, k)
        Decision values of each row from the fold that held it out; NaN where none did.
    iterations : ndarray of int64, shape (n_folds, n_strengths)
    converged : ndarray of bool, shape (n_folds, n_strengths)
    """

    coefficients: npt.NDArray[np.floating]
    intercepts: Float64
    held_out: Float64
    iterations: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]


def fit_path(
    rows: Rows | PlainRows,
    y: npt.NDArray[np.integer],
    classes: Sequence[str],
    folds: Sequence[tuple[Indices, Indices]],
    strengths: Sequence[float],
    objective: Objective,
    *,
    class_weight: ClassWeight = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> PathFit:
    """Fit a head for every fold and strength, and score the rows that each fold holds out.

    Parameters
    ----------
    rows : Rows or PlainRows
        Of a factor, or the features themselves, where they are too many to be factored.
    y : ndarray of int, shape (n_rows,)
        Positions in `classes`.
    classes : sequence of str
        At least two.
    folds : sequence of (training rows, held-out rows)
        As scikit-learn's splitters give them. A row is held out by one fold at most.
    strengths : sequence of float
        scikit-learn's ``C`` for ``logistic`` and ``squared-hinge``, ``alpha`` for ``squared``.
    objective : {"logistic", "squared-hinge", "squared"}
    class_weight : "balanced", tuple of float, or None, default None
        As scikit-learn has it; ``balanced`` is counted in a fold's training rows.
    tolerance : float
        Of the gradient's norm, relative to the head that sees no feature.
    max_iterations : int
        What has not converged by then is said in one warning, and kept as it is.

    Raises
    ------
    HeadError
        There are fewer than two classes, a fold has no training row of one, a row is held out
        twice, or a strength is not above 0.
    """
    _check(y, classes, folds, strengths)
    k, shape = len(classes), (len(folds), len(strengths))
    columns = 1 if k == 2 else k
    fit = PathFit(
        coefficients=np.empty((*shape, columns, rows.matrix.shape[1]), rows.matrix.dtype),
        intercepts=np.empty((*shape, columns)),
        held_out=np.full((len(strengths), len(y), columns), np.nan),
        iterations=np.zeros(shape, np.int64),
        converged=np.ones(shape, np.bool_),
    )
    # Two classes are one head, for the second of them; the softmax's classes share a problem.
    targets = [1] if k == 2 else [None] if objective == "logistic" else list(range(k))
    places = list(itertools.product(range(len(folds)), range(len(strengths)), range(len(targets))))
    at_once = max(_COLUMNS * len(targets) // columns, 1)
    for start in range(0, len(places), at_once):
        batch = places[start : start + at_once]
        heads = [Head(folds[fold][0], strengths[place], targets[target]) for fold, place, target in batch]
        problems = problems_of(heads, y, k, objective, class_weight)
        if isinstance(rows, PlainRows):
            solution = minimise_in_subspace(rows, problems, tolerance, max_iterations)
        else:
            solution = minimise(rows, problems, tolerance, max_iterations)
        if problems.width > 1:  # the softmax sees differences only; scikit-learn's heads sum to 0
            by_class = solution.heads.reshape(len(solution.heads), len(batch), k)
            by_class -= by_class.mean(axis=2, keepdims=True)
        scores = rows.scores(solution.heads)  # (n_rows, columns of the batch)
        for number, (fold, place, target) in enumerate(batch):
            own = slice(number * problems.width, (number + 1) * problems.width)
            into = slice(target * problems.width, (target + 1) * problems.width)
            test = folds[fold][1]
            fit.coefficients[fold, place, into] = solution.heads[:-1, own].T
            fit.intercepts[fold, place, into] = solution.heads[-1, own]
            fit.held_out[place, test, into] = scores[test, own]
            fit.iterations[fold, place] = max(fit.iterations[fold, place], solution.iterations[number])
            fit.converged[fold, place] &= solution.converged[number]
    if not fit.converged.all():
        _warn_of(fit, strengths, objective)
    return fit


def winners(scores: Float64) -> Indices:
    """Return the classes that decision values of shape (..., k) name; (..., 1) is of two classes."""
    found: Indices = scores.argmax(axis=-1) if scores.shape[-1] > 1 else (scores[..., 0] > 0).astype(np.intp)
    return found


def _check(
    y: npt.NDArray[np.integer],
    classes: Sequence[str],
    folds: Sequence[tuple[Indices, Indices]],
    strengths: Sequence[float],
) -> None:
    if len(classes) < 2:
        raise HeadError(f"a head needs rows of at least two classes, found {len(classes)}")
    for strength in strengths:
        if not (np.isfinite(strength) and strength > 0):
            raise HeadError(f"strength {strength!r}: regularisation must be a number above 0")
    times = np.zeros(len(y), np.int64)
    for number, (train, test) in enumerate(folds, start=1):
        counts = np.bincount(y[train], minlength=len(classes))
        if not counts.all():
            missing = classes[int(counts.argmin())]
            raise HeadError(
                f"fold {number} of {len(folds)}: no training row of class {missing!r} is left, "
                f"and a head needs every class. Use fewer folds, or add images of it."
            )
        times[test] += 1
    if times.max(initial=0) > 1:
        row = int(times.argmax())
        raise HeadError(f"row {row} is held out by {times[row]} folds: expected one at most")


def _warn_of(fit: PathFit, strengths: Sequence[float], objective: Objective) -> None:
    from sklearn.exceptions import ConvergenceWarning

    late = ", ".join(
        f"{s:g}"
        for s, ends in zip(strengths, np.all(fit.converged, axis=0).tolist(), strict=True)
        if not ends
    )
    iterations = fit.iterations[~fit.converged].max()
    message = f"{objective} at strength {late}: stopped short of the optimum, after {iterations} iterations"
    warnings.warn(message, ConvergenceWarning, stacklevel=3)
