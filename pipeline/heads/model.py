"""A trained head with what it was trained from, and how it predicts.

Owns prediction. It reads and writes nothing; `model_folder` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.features.identity import Identity

# Rows scored together for the heads of `_scores_in_blocks`.
_BLOCK = 64


@dataclass(frozen=True)
class Predictions:
    """What a head says of some rows.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,)
        Positions in `classes`; where there are probabilities, of the largest.
    classes : tuple of str, length k
        Labels.
    probabilities : ndarray of float64, shape (n, k), or None
        Rows sum to 1; None for a head that has none, such as a linear SVM.
    """

    codes: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float64] | None

    @property
    def labels(self) -> list[str]:
        """The label of each row."""
        return [self.classes[code] for code in self.codes.tolist()]


@dataclass(frozen=True)
class Model:
    """A trained head, and what it was trained from.

    Attributes
    ----------
    name : str
        Of the folder.
    estimator : str
        Short name or dotted path.
    params : dict
        Every parameter that was set, presets and seed included.
    classes : tuple of str, length k
        Labels; the estimator knows them as 0 … k − 1.
    view : str
        Of the images.
    identity : Identity
        Of the extractor.
    rows, rows_sha256 : int, str
        Number and digest (`FeatureMatrix.digest`) of the training rows.
    warnings : tuple of str
        What the estimator complained of while fitting.
    head : object
        The fitted estimator.
    """

    name: str
    estimator: str
    params: dict[str, Any]
    classes: tuple[str, ...]
    view: str
    identity: Identity
    rows: int
    rows_sha256: str
    warnings: tuple[str, ...]
    head: Any

    def predict(self, X: npt.NDArray[np.floating[Any]]) -> Predictions:
        """Predict a label for each row, and probabilities if the head has them.

        Parameters
        ----------
        X : ndarray of float16 or float32, shape (n, 25088)
            Features of this model's extractor.

        Returns
        -------
        Predictions
            The same for a row, whatever the other rows are.

        Raises
        ------
        ModelError
            The number of columns is not that of the training rows.
        """
        expected = int(self.head.n_features_in_)
        if X.ndim != 2 or X.shape[1] != expected:
            raise ModelError(f"model {self.name!r} expects rows of {expected} features, found {X.shape[1:]}.")
        with_probabilities = hasattr(self.head, "predict_proba")
        scored = np.empty((len(X), len(self.classes)) if with_probabilities else len(X), np.float64)
        step = _BLOCK if _scores_in_blocks(self.head) else 1
        for start in range(0, len(X), step):
            rows = np.asarray(X[start : start + step], np.float32)
            scored[start : start + step] = (
                self.head.predict_proba(rows) if with_probabilities else self.head.predict(rows)
            )
        if not with_probabilities:
            return Predictions(scored.astype(np.int64), self.classes, None)
        probabilities = scored / scored.sum(axis=1, keepdims=True)
        return Predictions(probabilities.argmax(axis=1), self.classes, probabilities)


def _scores_in_blocks(head: Any) -> bool:
    """Say whether many rows may be given to a head at once without changing what it says of each.

    A matrix product's last bits depend on where in the matrix a row stands, so most heads get
    one row at a time, 0.3 ms each. Three kinds would take 10 to 40 ms each: ensembles of trees,
    which start threads for every call; libsvm, which copies its support vectors; neighbours,
    which go through all training rows. Trees only compare, and round nothing; libsvm itself
    takes row after row; neighbours count votes, so that rounding matters in a tie.
    """
    return (
        hasattr(head, "estimators_")
        or hasattr(head, "support_vectors_")
        or (hasattr(head, "_fit_X") and getattr(head, "weights", None) == "uniform")
    )
