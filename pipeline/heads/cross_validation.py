"""Cross-validation: what heads say of rows that they have not learned from.

Owns the choice among three ways to the same answers. Linear heads are solved together, all folds and
strengths at once; heads that go by distance are given inner products; what is left is fitted as it will be in
the end, several at a time. Everything that is fitted, the scale of columns too, is fitted inside the fold.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import gpu
from pipeline.heads.derived import Rows as Features
from pipeline.heads.derived import Standardization
from pipeline.heads.factor import Factor, Float64
from pipeline.heads.folds import NOT_HELD_OUT
from pipeline.heads.gram import Gram, Measure, Precomputed, precomputed
from pipeline.heads.linear.estimators import LinearHead, linear_head
from pipeline.heads.linear.rows import Rows
from pipeline.heads.linear.subspace import PlainRows
from pipeline.heads.linear_path import fit_path, winners
from pipeline.heads.memory import Memory
from pipeline.heads.recipe import FIT_ERRORS, Recipe, listening, one_line
from pipeline.heads.stored_matrix import StoredMatrix

Codes = npt.NDArray[np.int64]
Indices = npt.NDArray[np.intp]
Fold = tuple[Indices, Indices]

# Rows that are factored where three linear estimators share the factor. The number is from when a path on the
# features took 27 s for 3,500 rows, and their factor 25 s; what it should be now, benchmarks/heads.py says.
_MOST_FACTORED = 4000


@dataclass
class HeldOut:
    """What the heads of one recipe said, one head a fold.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,)
        The class that each row was given by the head that had not learned from it, or `NOT_HELD_OUT`.
    seconds : float
        That a fit took, on average.
    warnings : tuple of str
        What the estimator complained of, each complaint once.
    failure : str
        Why there is no answer; empty where there is.
    """

    codes: Codes
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    failure: str = ""


class _Answer(NamedTuple):
    """What the head of one recipe and one fold said; `codes` is None where it failed."""

    codes: Codes | None
    seconds: float
    warnings: tuple[str, ...]
    failure: str


@dataclass
class CrossValidation:
    """Derived rows, to be learned from and held out in turn.

    Attributes
    ----------
    X : ndarray of float32, shape (n, columns)
        Finite. Never changed: standardised rows are copies.
    y : ndarray of int64, shape (n,)
        Positions in `classes`.
    classes : tuple of str
        Labels.
    standardize : bool
        Whether columns are standardised, by each fold's training rows.
    memory : Memory
        Where standardised rows go, and how much inner products and copies of rows may take together.
    jobs : int or None
        Heads fitted at a time, of those that are fitted one by one; None for one a processor.
    factor_of : callable, optional
        Gives the factor of all rows where they are not standardised, such as one that was made before.
    device : {"cpu", "auto", "cuda"}
        Where the products with rows too many to be factored are computed.
    stored : StoredMatrix, optional
        Where the workers of joblib's backend find the rows, if they are not to be sent them.
    """

    X: Features
    y: Codes
    classes: tuple[str, ...]
    standardize: bool
    memory: Memory
    jobs: int | None = None
    factor_of: Callable[[Gram], Factor] = lambda gram: gram.factor
    device: str = "cpu"
    stored: StoredMatrix | None = None
    _grams: dict[bytes, Gram] = field(default_factory=dict, init=False, repr=False)

    def held_out(
        self,
        recipes: Sequence[Recipe],
        folds: Sequence[Fold],
        advance: Callable[[int], object] = lambda fits: None,
    ) -> list[HeldOut]:
        """Fit recipes in every fold, and ask each head about the rows that it was not given.

        Parameters
        ----------
        recipes : sequence of Recipe
            Of this derivation and of one estimator; of its parameters only the strength of
            regularisation may differ where it is linear.
        folds : sequence of (training rows, held-out rows)
            A row is held out once at most.
        advance : callable, optional
            Called with the number of fits just done.

        Returns
        -------
        list of HeldOut
            One a recipe. One that fails says why, and the others go on.
        """
        linear = [head for recipe in recipes if (head := linear_head(recipe.unfitted()))]
        if len(linear) == len(recipes):
            found = self._solved_together(linear, folds)
            advance(len(recipes) * len(folds))
            return found
        by_distance = [each for recipe in recipes if (each := precomputed(recipe.unfitted()))]
        if len(by_distance) == len(recipes) and self._fits(folds):
            answers = self._from_products(by_distance, folds)
        else:
            answers = self._from_features(recipes, folds)
        found = [HeldOut(self._unanswered()) for _ in recipes]
        for (place, number), answer in answers:
            line = found[place]
            if answer.codes is None:
                line.failure = line.failure or answer.failure
            else:
                line.codes[folds[number][1]] = answer.codes
            line.seconds += answer.seconds / len(folds)
            line.warnings = tuple(dict.fromkeys((*line.warnings, *answer.warnings)))
            advance(1)
        return found

    def _solved_together(self, heads: Sequence[LinearHead], folds: Sequence[Fold]) -> list[HeldOut]:
        found = [HeldOut(self._unanswered()) for _ in heads]
        objective, strengths = heads[0].objective, [head.strength for head in heads]
        weights = heads[0].weights(np.arange(len(self.classes)))
        started = time.perf_counter()
        try:
            for rows, those in self._rows_of(folds):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # which heads have not converged is told of each
                    fit = fit_path(
                        rows, self.y, self.classes, those, strengths, objective, class_weight=weights
                    )
                held = np.concatenate([test for _, test in those])
                for place, line in enumerate(found):
                    line.codes[held] = winners(fit.held_out[place, held])
                    if not fit.converged[:, place].all():
                        line.warnings = ("stopped short of the optimum",)
        except FIT_ERRORS as error:
            return [HeldOut(self._unanswered(), failure=one_line(error)) for _ in heads]
        for line in found:
            line.seconds = (time.perf_counter() - started) / (len(heads) * len(folds))
        return found

    def _rows_of(self, folds: Sequence[Fold]) -> Iterator[tuple[Rows | PlainRows, Sequence[Fold]]]:
        """Yield what linear heads are solved on, and the folds that share it."""
        factored = len(self.y) <= _MOST_FACTORED and self._fits(folds)
        for those in [[fold] for fold in folds] if self.standardize else [folds]:
            train, _ = those[0]
            if factored:
                gram = self._gram(train)
                factor = gram.factor if self.standardize else self.factor_of(gram)
                yield Rows.of_factor(factor, np.float32), those
            else:
                yield self._plain(self._scaled_by(train)), those

    def _plain(self, X: Features) -> PlainRows:
        if self.device == "cpu" or (self.device == "auto" and not gpu.may_be_here()):
            return PlainRows.of(X)
        from pipeline.heads.torch_plain_rows import plain_rows_on

        return plain_rows_on(self.device, X)

    def _from_products(
        self, heads: Sequence[Precomputed], folds: Sequence[Fold]
    ) -> Iterator[tuple[tuple[int, int], _Answer]]:
        for number, (train, test) in enumerate(folds):
            gram, compared = self._gram(train), dict[Measure, tuple[Float64, Float64]]()
            for place, head in enumerate(heads):
                measure = head.measure
                if measure not in compared:  # and only the latest is kept
                    learned = measure.matrix(gram, train, train)
                    compared = {measure: (learned, measure.matrix(gram, test, train))}
                yield (place, number), _answer(_by_distance, head, *compared[measure], self.y[train])

    def _from_features(
        self, recipes: Sequence[Recipe], folds: Sequence[Fold]
    ) -> Iterator[tuple[tuple[int, int], _Answer]]:
        from joblib import Parallel, delayed

        tasks = [(place, number) for place in range(len(recipes)) for number in range(len(folds))]
        if self.stored is not None:
            yield from zip(
                tasks,
                Parallel(n_jobs=self.jobs or -1)(
                    delayed(_answer)(_by_stored, recipes[place], self.stored, folds[number])
                    for place, number in tasks
                ),
                strict=True,
            )
            return
        # Each process maps the one file of the rows that joblib writes, and copies what it learns from.
        room = max(self.memory.budget // max(self.X.nbytes, 1), 1)
        jobs = min(self.jobs or os.cpu_count() or 1, len(tasks), room)
        answers = Parallel(n_jobs=jobs, mmap_mode="r", return_as="generator")(
            delayed(_answer)(_by_features, recipes[place], self.X, self.y, folds[number])
            for place, number in tasks
        )
        yield from zip(tasks, answers, strict=True)

    def _fits(self, folds: Sequence[Fold]) -> bool:
        """Whether there is room for inner products, and for as many numbers of the factor."""
        matrices = 2 * (len(folds) if self.standardize else 1)
        return matrices * len(self.y) ** 2 * np.dtype(np.float64).itemsize <= self.memory.budget

    def _gram(self, train: Indices) -> Gram:
        """Return the inner products of all rows, scaled by some."""
        key = train.tobytes() if self.standardize else b""
        if key not in self._grams:
            self._grams[key] = Gram.of(self._scaled_by(train))
        return self._grams[key]

    def _scaled_by(self, train: Indices) -> Features:
        if not self.standardize:
            return self.X
        scaled = self.memory.empty(self.X.shape, self.X.dtype)
        return Standardization.fit(self.X[train]).apply(self.X, out=scaled)

    def _unanswered(self) -> Codes:
        return np.full(len(self.y), NOT_HELD_OUT, np.int64)


def _answer(fit_and_ask: Callable[..., tuple[Codes, tuple[str, ...]]], *about: Any) -> _Answer:
    started = time.perf_counter()
    try:
        codes, complaints = fit_and_ask(*about)
    except FIT_ERRORS as error:
        return _Answer(None, time.perf_counter() - started, (), one_line(error))
    return _Answer(codes, time.perf_counter() - started, complaints, "")


def _by_distance(
    head: Precomputed, learned: Float64, asked: Float64, y: Codes
) -> tuple[Codes, tuple[str, ...]]:
    from sklearn.base import clone

    estimator = clone(head.estimator)
    with listening() as complaints:
        estimator.fit(learned, y)
        codes = estimator.predict(asked)
    return codes, tuple(complaints)


def _by_stored(recipe: Recipe, stored: StoredMatrix, fold: Fold) -> tuple[Codes, tuple[str, ...]]:
    matrix = stored.load()
    return _by_features(recipe, matrix.X, matrix.row_y, fold)


def _by_features(recipe: Recipe, X: Features, y: Codes, fold: Fold) -> tuple[Codes, tuple[str, ...]]:
    train, test = fold
    fitted = recipe.fit(X[train], y[train])
    return fitted.estimator.predict(fitted.scaled(X[test])), fitted.warnings
