"""Rows as their inner products, and heads that need to know no more of them.

Owns what follows from inner products alone: distances, the kernel of an RBF SVM, and the factor for linear
heads. N rows of 25,088 features become N × N numbers, once for all heads, strengths and folds; scikit-learn
would go through the features again for each. It fits and predicts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.heads.factor import Factor, Float64, gram_matrix

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Gram:
    """What is known of N rows.

    Attributes
    ----------
    products : ndarray of float64, shape (N, N)
        Of each row with each.
    sums : ndarray of float64, shape (N,)
        Of each row's numbers.
    columns : int
        D, of the rows.
    """

    products: Float64
    sums: Float64
    columns: int

    @classmethod
    def of(cls, X: npt.NDArray[np.floating[Any]]) -> Gram:
        """Take the inner products of rows, shape (N, D); they are finite, and not copied whole."""
        return cls(gram_matrix(X), X.sum(axis=1, dtype=np.float64), X.shape[1])

    @cached_property
    def factor(self) -> Factor:
        """The rows, turned into as few columns as can be."""
        return Factor.of_gram(self.products)

    def squared_distances(self, rows: Indices, others: Indices) -> Float64:
        """Return the squared Euclidean distance of each of `rows` from each of `others`."""
        squares = np.diag(self.products)
        found: Float64 = squares[rows][:, None] + squares[others] - 2 * self.products[np.ix_(rows, others)]
        # rounding leaves something of copies of one image, and may leave less than nothing
        return np.maximum(found, 0, out=found)

    def cosine_distances(self, rows: Indices, others: Indices) -> Float64:
        """Return 1 less the cosine of the angle between each of `rows` and each of `others`."""
        lengths = np.sqrt(np.diag(self.products))
        lengths = np.where(lengths == 0, 1.0, lengths)  # as scikit-learn has it: rows of zeros are at 1
        cosines = self.products[np.ix_(rows, others)] / lengths[rows][:, None] / lengths[others]
        distances: Float64 = np.clip(1 - cosines, 0, 2)
        return distances

    def variance(self, rows: Indices) -> float:
        """Return the variance of all numbers of `rows` taken together."""
        count = len(rows) * self.columns
        mean = self.sums[rows].sum() / count
        return float(np.diag(self.products)[rows].sum() / count - mean**2)


@dataclass(frozen=True)
class Measure:
    """How two rows are compared.

    Attributes
    ----------
    kind : {"cosine", "euclidean", "rbf"}
    gamma : "scale", "auto" or float
        Width of the RBF kernel, as SVC has it.
    """

    kind: str
    gamma: Any = None

    def matrix(self, gram: Gram, rows: Indices, train: Indices) -> Float64:
        """Compare each of `rows` with each of `train`: what a head is fitted to, or predicts from."""
        if self.kind == "cosine":
            return gram.cosine_distances(rows, train)
        squares = gram.squared_distances(rows, train)
        if self.kind == "euclidean":
            return np.sqrt(squares, out=squares)
        return np.exp(np.multiply(squares, -self._width(gram, train), out=squares), out=squares)

    def _width(self, gram: Gram, train: Indices) -> float:
        if self.gamma == "scale":
            variance = gram.variance(train)
            return 1 / (gram.columns * variance) if variance > 0 else 1.0
        return 1 / gram.columns if self.gamma == "auto" else float(self.gamma)


@dataclass(frozen=True)
class Precomputed:
    """A classifier that takes comparisons with its training rows in the place of features.

    Attributes
    ----------
    estimator : KNeighborsClassifier or SVC
        Unfitted, with ``precomputed``.
    measure : Measure
        What it is to be given.
    """

    estimator: Any
    measure: Measure


def precomputed(estimator: Any) -> Precomputed | None:
    """Say how an estimator is fitted to inner products, or None where it needs the features themselves.

    Parameters
    ----------
    estimator : object
        Unfitted. KNeighborsClassifier by cosine or Euclidean distance and SVC with an RBF kernel can be;
        their subclasses are left alone.
    """
    from sklearn.base import clone

    kind, params = type(estimator), estimator.get_params(deep=False)
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name == "sklearn.neighbors._classification.KNeighborsClassifier" and not params["metric_params"]:
        metric = params["metric"]
        if metric == "minkowski" and params["p"] == 2:
            metric = "euclidean"
        if metric in ("cosine", "euclidean"):
            settings = {"metric": "precomputed", "algorithm": "brute"}
            return Precomputed(clone(estimator).set_params(**settings), Measure(metric))
    if name == "sklearn.svm._classes.SVC" and params["kernel"] == "rbf":
        return Precomputed(clone(estimator).set_params(kernel="precomputed"), Measure("rbf", params["gamma"]))
    return None
