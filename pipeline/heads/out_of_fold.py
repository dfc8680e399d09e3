"""What a head says of its own training rows when it has not learned from them.

Owns the folds that a head is trained in beside the one training that counts: for a temperature, and for
scores on rows that the final head has learned from. A sweep compares many heads: that is `cross_validation`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.console import progress
from pipeline.heads.calibration import Calibration, Floats, scores
from pipeline.heads.folds import FOLDS, NOT_HELD_OUT, fold_of_rows
from pipeline.heads.labelled_rows import FeatureMatrix
from pipeline.heads.memory import Memory
from pipeline.heads.model import Model, Predictions
from pipeline.heads.recipe import Fitted


@dataclass(frozen=True)
class OutOfFold:
    """Answers about each image, from the head of the fold that held it out.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,)
        The class that it was given, or `NOT_HELD_OUT`.
    probabilities : ndarray of float64, shape (n, k), or None
        The head's own; None where it has none.
    scores : ndarray of float64, shape (n, k), or None
        See `calibration.scores`; None where they were not asked for.
    """

    codes: npt.NDArray[np.int64]
    probabilities: Floats | None
    scores: Floats | None

    def calibration(self, y: npt.NDArray[np.int64]) -> Calibration | None:
        """Fit a temperature to the scores of rows whose classes are `y`; None if there are no scores.

        Raises
        ------
        HeadError
            They are not finite.
        """
        held = self.codes != NOT_HELD_OUT
        return None if self.scores is None else Calibration.fit(self.scores[held], y[held])

    def predictions(self, model: Model) -> Predictions:
        """Return the answers as those of a model that was trained beside."""
        probabilities = self.probabilities
        if model.calibration is not None and self.scores is not None:
            probabilities = model.calibration.probabilities(self.scores)
        codes = self.codes
        if probabilities is not None:
            codes = np.where(codes == NOT_HELD_OUT, NOT_HELD_OUT, probabilities.argmax(axis=1))
        return Predictions(codes, model.classes, probabilities, model.unsure_below)


def out_of_fold(
    fit: Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], Fitted],
    rows: FeatureMatrix,
    memory: Memory,
    seed: int,
    *,
    scored: bool,
) -> OutOfFold:
    """Train a head in every fold, and ask it about the rows that it was not given.

    Parameters
    ----------
    fit : callable
        Makes a head from rows and labels, as the final one is made.
    rows : FeatureMatrix
        The training rows, derived. Read only.
    memory : Memory
        Where the copies go that are learned from.
    seed : int
        Of the folds.
    scored : bool
        Whether to ask for scores, too; the head must have some (`calibration.can_be_calibrated`).

    Raises
    ------
    HeadError
        There are too few rows to hold some out, or the head's scores do not fit the classes.
    """
    fold_of = fold_of_rows(rows.y, rows.groups, FOLDS, seed)
    n, k = len(rows.y), len(rows.classes)
    codes = np.full(n, NOT_HELD_OUT, np.int64)
    probabilities: Floats | None = None
    found: Floats | None = np.full((n, k), np.nan) if scored else None
    with progress("held out", FOLDS, "folds") as advance:
        for fold in range(FOLDS):
            held, learned = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
            places = rows.learned(learned)
            X = memory.empty((len(places), rows.X.shape[1]), rows.X.dtype)
            np.take(rows.X, places, axis=0, out=X, mode="clip")  # "raise" would make a copy first
            fitted = fit(X, rows.row_y[places])
            asked, head = fitted.scaled(rows.X[held]), fitted.estimator
            codes[held] = head.predict(asked)
            if hasattr(head, "predict_proba"):
                probabilities = np.full((n, k), np.nan) if probabilities is None else probabilities
                probabilities[held] = head.predict_proba(asked)
            if found is not None:
                found[held] = scores(head, asked, k, len(learned))
            advance(1)
    return OutOfFold(codes, probabilities, found)
