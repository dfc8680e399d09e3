"""Accuracy against the number of training images: whether more of them would help.

Owns which images each size learns from. Heads are made and asked as in a sweep (`CrossValidation`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.console import progress
from pipeline.heads.cross_validation import CrossValidation, Fold
from pipeline.heads.folds import ALWAYS_TRAINING, FOLDS, fold_of_rows
from pipeline.heads.labelled_rows import FeatureMatrix
from pipeline.heads.leaderboard import rounded, standard_error
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import Model
from pipeline.heads.recipe import Recipe
from pipeline.heads.registry import preset_of
from pipeline.results.report.answers import Answers

# Of the training part of each fold, before the whole of it. It is the logarithm of the size that matters.
_SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)

Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Point:
    """What training on so many images is worth.

    Attributes
    ----------
    images : int
        Learned from, on average over the folds.
    accuracy : float
        Mean over the folds, on images not learned from.
    standard_error : float
        Of it.
    """

    images: int
    accuracy: float
    standard_error: float


def learning_curve(
    model: Model, recipe: Recipe, rows: FeatureMatrix, features: LabelledFeatures, answers: Answers
) -> list[Point]:
    """Train on growing parts of train and val, in folds.

    The strength of regularisation stays that of the model. Sizes at which the head cannot be trained, such as
    fewer images than it has neighbours, are left out.

    Parameters
    ----------
    model : Model
        The head in focus.
    recipe : Recipe
        How it was made.
    rows : FeatureMatrix
        Train and val, as the recipe reads them.
    features : LabelledFeatures
    answers : Answers
        What is known already: what the whole training part of each fold is worth.

    Returns
    -------
    list of Point
        Up to five, by size.

    Raises
    ------
    HeadError
        There are too few images to hold some out.
    """
    preset = preset_of(recipe.estimator)
    strength = {name: model.params[name] for name in preset.grid if name in preset.scaled}
    recipe = replace(recipe, params={**strength, **recipe.params})
    validation = CrossValidation(
        np.asarray(rows.X, np.float32),
        rows.row_y,
        rows.classes,
        standardize=recipe.derivation.normalize == "standardize",
        memory=features.memory,
        jobs=1 if recipe.estimator == "linear" else None,  # it is quicker than to load torch in each process
    )
    fold_of = fold_of_rows(rows.y, rows.groups, FOLDS, recipe.seed)
    points: list[Point] = []
    with progress("learning curve", len(_SHARES) * FOLDS, "fits") as advance:
        for folds in _growing_folds(rows, fold_of, recipe.seed):
            on_rows = [(rows.learned(learned), held) for learned, held in folds]
            (found,) = validation.held_out([recipe], on_rows, advance)
            if not found.failure:
                by_fold = [float((found.codes[held] == rows.y[held]).mean()) for _, held in folds]
                points.append(_point(sum(len(learned) for learned, _ in folds), by_fold))
    right, fold = answers.predictions.codes == answers.y, fold_of[fold_of != ALWAYS_TRAINING]
    by_fold = [float(right[fold == number].mean()) for number in range(FOLDS)]
    points.append(_point(sum(int((fold_of != number).sum()) for number in range(FOLDS)), by_fold))
    return list({point.images: point for point in points}.values())  # of few images all parts are small


def _point(learned: int, by_fold: list[float]) -> Point:
    return Point(round(learned / FOLDS), rounded(np.mean(by_fold)), standard_error(by_fold))


def _growing_folds(rows: FeatureMatrix, fold_of: Codes, seed: int) -> Iterator[list[Fold]]:
    """Yield folds that learn from ever larger parts of the same images, and hold out the same ones."""
    parts = [
        (_mixed(np.flatnonzero(fold_of != fold), rows.y, seed + fold), np.flatnonzero(fold_of == fold))
        for fold in range(FOLDS)
    ]
    for share in _SHARES:
        sizes = [max(len(rows.classes), round(share * len(learned))) for learned, _ in parts]
        yield [(np.sort(learned[:size]), held) for (learned, held), size in zip(parts, sizes, strict=True)]


def _mixed(places: npt.NDArray[np.intp], y: Codes, seed: int) -> npt.NDArray[np.intp]:
    """Shuffle rows so that every beginning holds all classes, in their shares or nearly."""
    shuffled = np.random.default_rng(seed).permutation(places)
    rank = np.empty(len(shuffled))
    for code in np.unique(y[shuffled]):
        of_class = np.flatnonzero(y[shuffled] == code)
        rank[of_class] = np.arange(len(of_class)) / len(of_class)
    return shuffled[np.argsort(rank, kind="stable")]
