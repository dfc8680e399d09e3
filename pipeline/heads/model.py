"""A trained head with what it was trained from, and how it predicts: from stored features to labels.

Owns prediction. It reads and writes nothing; `model_folder` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.features.identity import Identity
from pipeline.heads.calibration import Calibration, scores
from pipeline.heads.derived import Derivation, Rows, Standardization
from pipeline.params import Split

# Rows derived together, and scored together for the heads of `_scores_in_blocks`.
_BLOCK = 64

#: What is said of an image whose best label is not probable enough.
UNSURE = "unsure"


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
    unsure_below : float or None
        The probability that the best label must have, where one is demanded.
    """

    codes: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float64] | None
    unsure_below: float | None = None

    def of(self, rows: npt.NDArray[np.bool_]) -> Predictions:
        """Return the predictions of some rows."""
        probabilities = None if self.probabilities is None else self.probabilities[rows]
        return replace(self, codes=self.codes[rows], probabilities=probabilities)

    def as_bytes(self) -> bytes:
        """Return codes and probabilities as safetensors."""
        from safetensors.numpy import save

        tensors: dict[str, npt.NDArray[Any]] = {"codes": self.codes}
        return save(
            tensors if self.probabilities is None else tensors | {"probabilities": self.probabilities}
        )

    def with_bytes(self, data: bytes, rows: int) -> Predictions:
        """Return the predictions with codes and probabilities from `as_bytes`.

        Raises
        ------
        ModelError
            They are malformed, or not of so many rows.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors = load(data)
            codes, probabilities = tensors["codes"], tensors.get("probabilities")
        except (SafetensorError, KeyError) as error:
            raise ModelError(f"it holds no predictions ({error})") from None
        k = len(self.classes)
        fits = (
            codes.dtype == np.int64 and codes.shape == (rows,) and bool(((codes >= -1) & (codes < k)).all())
        )
        if probabilities is not None:
            fits = fits and probabilities.dtype == np.float64 and probabilities.shape == (rows, k)
        if not fits:
            raise ModelError(f"expected predictions of {rows} rows and {k} classes")
        return replace(self, codes=codes, probabilities=probabilities)

    @property
    def labels(self) -> list[str]:
        """The best label of each row, however probable."""
        return [self.classes[code] for code in self.codes.tolist()]

    @property
    def sure(self) -> npt.NDArray[np.bool_]:
        """Whether each row's best label is probable enough, shape (n,); all are if nothing is demanded."""
        if self.probabilities is None or self.unsure_below is None:
            return np.ones(len(self.codes), np.bool_)
        sure: npt.NDArray[np.bool_] = self.probabilities.max(axis=1) >= self.unsure_below
        return sure


@dataclass(frozen=True)
class Model:
    """A trained head, what it was trained from, and all that stands between features and its answer.

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
    views : tuple of str
        Of each image that it learned from, or is asked about: as many as `derivation` makes a row of.
    derivation : Derivation
        What features become before the head sees them.
    identity : Identity
        Of the extractor.
    rows, rows_sha256 : int, str
        Number and digest (`FeatureMatrix.digest`) of the training rows.
    warnings : tuple of str
        What the estimator complained of while fitting.
    head : object
        The fitted estimator.
    standardization : Standardization or None
        Of the columns, where the derivation says ``standardize``.
    calibration : Calibration or None
        What makes probabilities of the head's scores; None takes its own probabilities, if it has any.
    unsure_below : float or None
        See `Predictions`.
    splits : tuple of {"train", "val"}
        Whose rows it learned from.
    held_out : Predictions or None
        What heads made in the same way said of its own training rows, each of rows that it had not learned
        from; a code is `NOT_HELD_OUT` where none could. There if it learned from the validation rows.
    metrics : dict
        Accuracy on rows that it, or the heads of `held_out`, had not learned from: ``rows`` says which
        (``val`` or ``out of fold``), ``n`` how many. Empty if there are none.
    training : dict
        How a network was trained, where the head was trained in one: the command, what it was given and how
        long it took. Empty for heads that were trained on stored features.
    extras : dict of str to bytes
        Other files that belong to the model, by name.
    """

    name: str
    estimator: str
    params: dict[str, Any]
    classes: tuple[str, ...]
    views: tuple[str, ...]
    derivation: Derivation
    identity: Identity
    rows: int
    rows_sha256: str
    warnings: tuple[str, ...]
    head: Any
    standardization: Standardization | None = None
    calibration: Calibration | None = None
    unsure_below: float | None = None
    splits: tuple[Split, ...] = ("train",)
    held_out: Predictions | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, bytes] = field(default_factory=dict)

    def predict(self, features: npt.NDArray[np.floating[Any]]) -> Predictions:
        """Predict a label for each row, and probabilities if the head has them.

        Parameters
        ----------
        features : ndarray of float16 or float32, shape (n · v, dimension)
            Of this model's extractor, as they are stored: the v rows of an image's `views` one after another.

        Returns
        -------
        Predictions
            One for each image; the same for an image, whatever the others are.

        Raises
        ------
        ModelError
            The number of columns is not that of the training rows.
        """
        pooled = self.derivation.pooling != "none"
        expected = self.identity.dimension if pooled else int(self.head.n_features_in_)
        if features.ndim != 2 or features.shape[1] != expected:
            raise ModelError(
                f"model {self.name!r} expects rows of {expected} features, found {features.shape[1:]}."
            )
        if len(features) % len(self.views):
            raise ModelError(
                f"model {self.name!r} expects {len(self.views)} rows of each image, of the views "
                f"{', '.join(self.views)}, and found {len(features)} rows."
            )
        score, width = self._scorer()
        views = len(self.views)
        scored = np.empty((len(features) // views, *width), np.float64)
        step = _BLOCK if _scores_in_blocks(self.head) else 1
        for start in range(0, len(scored), _BLOCK):
            X = self.derivation.of_images(features[start * views : (start + _BLOCK) * views], views)
            if self.standardization is not None:
                self.standardization.apply(X, out=X)
            for row in range(0, len(X), step):
                scored[start + row : start + row + step] = score(X[row : row + step])
        if not width:
            return Predictions(scored.astype(np.int64), self.classes, None)
        if self.calibration is None:
            probabilities = scored / scored.sum(axis=1, keepdims=True)
        else:
            probabilities = self.calibration.probabilities(scored)
        return Predictions(probabilities.argmax(axis=1), self.classes, probabilities, self.unsure_below)

    def _scorer(self) -> tuple[Callable[[Rows], Any], tuple[int, ...]]:
        """Return what is asked of the head, and the shape of its answer for a row."""
        k = len(self.classes)
        if self.calibration is not None:
            score: Callable[[Rows], Any] = partial(scores, self.head, classes=k, rows=self.rows)
        elif hasattr(self.head, "predict_proba"):
            score = self.head.predict_proba
        else:
            return self.head.predict, ()
        return (_by_full_blocks(score) if _is_histogram_boosting(self.head) else score), (k,)


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
        or _is_histogram_boosting(head)
        or hasattr(head, "support_vectors_")
        or (hasattr(head, "_fit_X") and getattr(head, "weights", None) == "uniform")
    )


def _is_histogram_boosting(head: Any) -> bool:
    return hasattr(head, "_predictors")


def _by_full_blocks(score: Callable[[Rows], Any]) -> Callable[[Rows], Any]:
    """Fill blocks up with rows that nobody asked for.

    Histogram boosting's trees are an ensemble like the others, but how the sums of its probabilities are
    rounded depends on the number of rows.
    """
    return lambda X: score(np.resize(X, (_BLOCK, X.shape[1])))[: len(X)]
