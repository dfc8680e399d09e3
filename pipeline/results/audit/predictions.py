"""What heads that had not learned from an image say of it: what its label is compared with.

Owns the choice of the head. About test rows a head is asked that has learned from train and val; they teach
nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt

from pipeline.dataset.manifest import ImageRow
from pipeline.heads.calibration import Calibration, scores
from pipeline.heads.derived import Derivation
from pipeline.heads.factor import Factor, load_or_make, worth_factoring
from pipeline.heads.folds import NOT_HELD_OUT
from pipeline.heads.labelled_rows import FeatureMatrix, digest_of_rows, factor_key
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.out_of_fold import OutOfFold, out_of_fold
from pipeline.heads.recipe import Recipe
from pipeline.params import SPLITS

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Largest values of channels: the best that wrong labels of photographs were found with. Features without
#: positions are one number a channel as they are.
POOLED = Derivation("max", "l2")
# Drawings and the like, in which it matters where something is, need all positions. Of 5 % wrong labels of
# digits these found as many as the pooled features did, and listed a third of the good labels.
_WHOLE = Derivation("none", "l2")
# Of a logistic regression on rows of length 1: more regularisation than a head wants, for this one must not
# learn wrong labels by heart.
_C = {POOLED: 1.0, _WHOLE: 3.0}


@dataclass(frozen=True)
class Predicted:
    """Labels and what was predicted.

    Attributes
    ----------
    images : tuple of ImageRow, length n
    y : ndarray of int64, shape (n,)
        Their labels, as positions among the classes.
    probabilities : ndarray of float64, shape (n, k)
        Calibrated.
    """

    images: Sequence[ImageRow]
    y: Codes
    probabilities: Floats

    @property
    def log_loss(self) -> float:
        """How surprising the labels are, on average."""
        given = self.probabilities[np.arange(len(self.y)), self.y]
        return float(-np.log(np.maximum(given, np.finfo(np.float64).tiny)).mean())

    @property
    def accuracy(self) -> float:
        """Share of the labels that are the most probable."""
        return float((self.probabilities.argmax(axis=1) == self.y).mean())


@dataclass(frozen=True)
class _Asked:
    """Heads of one kind, and what they say of the rows that each had not learned from."""

    rows: FeatureMatrix
    recipe: Recipe
    held_out: OutOfFold
    calibration: Calibration

    @classmethod
    def of(cls, rows: FeatureMatrix, derivation: Derivation, features: LabelledFeatures) -> _Asked:
        learned, seed = _of_test(rows, wanted=False), features.params.seed
        recipe = Recipe("logreg", {"C": _C[derivation]}, rows.classes, derivation, seed, trust=False)
        held_out = out_of_fold(recipe.fit, learned, features.memory, seed, scored=True)
        held = held_out.codes != NOT_HELD_OUT
        calibration = Calibration.fit(cast("Floats", held_out.scores)[held], learned.y[held])
        return cls(rows, recipe, held_out, calibration)

    def of_learned(self) -> Predicted:
        """Return what is said of the rows of train and val that some fold held out."""
        learned = _of_test(self.rows, wanted=False)
        held = np.flatnonzero(self.held_out.codes != NOT_HELD_OUT)
        probabilities = self.calibration.probabilities(cast("Floats", self.held_out.scores)[held])
        return Predicted([learned.images[place] for place in held.tolist()], learned.y[held], probabilities)

    def of_test(self) -> Predicted:
        """Return what a head of all rows of train and val says of those of test."""
        learned, asked = _of_test(self.rows, wanted=False), _of_test(self.rows, wanted=True)
        head = self.recipe.fit(learned.X, learned.y)
        found = scores(head.estimator, asked.X, len(asked.classes), len(learned.y))
        return Predicted(asked.images, asked.y, self.calibration.probabilities(found))


def predicted(
    features: LabelledFeatures, pooled: FeatureMatrix, factors: Path, *, include_test: bool
) -> tuple[Predicted, Predicted | None]:
    """Predict every label from images other than its own.

    Parameters
    ----------
    features : LabelledFeatures
    pooled : FeatureMatrix
        All splits, by `POOLED`, as it fits the features.
    factors : Path
        Folder of cached factors.
    include_test : bool
        Whether to ask about test rows.

    Returns
    -------
    learned : Predicted
        Rows of train and val, out of fold; without those that no fold could hold out.
    test : Predicted or None
        None unless they were asked about, and there are some.

    Raises
    ------
    HeadError
        There are too few rows to hold some out.
    """
    asked = [_Asked.of(rows, derivation, features) for derivation, rows in _views(features, pooled, factors)]
    best = min(asked, key=lambda each: each.of_learned().log_loss)
    any_test = include_test and any(image.split == "test" for image in pooled.images)
    return best.of_learned(), best.of_test() if any_test else None


def _views(
    features: LabelledFeatures, pooled: FeatureMatrix, factors: Path
) -> Iterator[tuple[Derivation, FeatureMatrix]]:
    """Yield what heads may learn from: all features only of rows that are few enough for a factor."""
    dimension = features.identity.dimension
    first = POOLED.fitting(dimension)
    yield first, pooled
    if first != _WHOLE and worth_factoring(len(pooled.y), _WHOLE.columns(dimension)):
        # no label is in it, so that test rows may be, and so that it outlasts corrections of labels
        key = factor_key(features.identity, digest_of_rows(pooled.keys, [""] * len(pooled.y)), _WHOLE)
        factor = load_or_make(factors, key, lambda: Factor.of(features.matrix(*SPLITS, derivation=_WHOLE).X))
        yield _WHOLE, replace(pooled, X=factor.matrix.astype(np.float32))


def _of_test(rows: FeatureMatrix, *, wanted: bool) -> FeatureMatrix:
    """Return the rows of the test split, or all others."""
    chosen = np.flatnonzero([(image.split == "test") is wanted for image in rows.images])
    images = tuple(rows.images[place] for place in chosen.tolist())
    return replace(rows, y=rows.y[chosen], images=images, X=rows.X[chosen])
