"""What is held out in a sweep: folds over the images, and within the rest of each further ones.

Owns which rows these are, where an image has several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.heads.cross_validation import Fold, Indices
from pipeline.heads.folds import fold_of_rows
from pipeline.heads.labelled_rows import FeatureMatrix, LabelledRows


@dataclass(frozen=True)
class Parts:
    """Folds over the images, and within the training rows of each fold further ones, if they are wanted.

    Attributes
    ----------
    outer : list of Fold
        Rows to learn from, and rows to be asked about.
    inner : list of list of Fold
        The same within the training rows of each of them; empty where nothing is nested.
    """

    outer: list[Fold]
    inner: list[list[Fold]]

    @classmethod
    def of(cls, rows: LabelledRows, folds: int, seed: int, *, nested: bool) -> Parts:
        """Part the images of `rows` in so many folds; copies, and images of one group, stay together."""

        def within(some: Indices) -> list[Fold]:
            fold_of = fold_of_rows(rows.y[some], rows.groups[some], folds, seed)
            return [(some[fold_of != fold], some[fold_of == fold]) for fold in range(folds)]

        outer = within(np.arange(len(rows.y)))
        return cls(outer, [within(train) for train, _ in outer] if nested else [])

    def on(self, matrix: FeatureMatrix) -> Parts:
        """Return the same folds over the rows that teach of each image, and those that are asked about."""

        def rows_of(folds: list[Fold]) -> list[Fold]:
            return [(matrix.learned(train), test) for train, test in folds]

        return Parts(rows_of(self.outer), [rows_of(folds) for folds in self.inner])

    @property
    def count(self) -> int:
        """How many heads are fitted of each recipe."""
        return len(self.outer) + sum(map(len, self.inner))
