"""What scores mean: predictions compared with labels, as numbers.

Owns the metrics. It reads and writes nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.heads.calibration import expected_calibration_error
from pipeline.heads.model import Predictions
from pipeline.params import Split

_DIGITS = 6  # beyond these, numbers differ among machines


@dataclass(frozen=True)
class Metrics:
    """Scores of one head on one split.

    Attributes
    ----------
    head : str
        Name of the model.
    split : {"train", "val", "test"}
        What it was scored on.
    n : int
        Rows.
    accuracy : float
        Share of rows given their own label.
    accuracy_95 : tuple of float
        95 % confidence interval of the accuracy (Wilson's, for a binomial share).
    macro_f1 : float
        Mean of the classes' F1, over the classes that occur among labels or predictions.
    log_loss : float or None
        Mean negative logarithm of the probability given to the row's own label, in nats;
        None for a head without probabilities.
    ece : float or None
        Expected calibration error (`expected_calibration_error`); None for a head without probabilities,
        and for rows that may have calibrated it, such as the training rows.
    unsure_below, coverage, accuracy_covered : float or None
        The probability that the head demands of its best label; the share of rows where it is reached; and
        the accuracy on these (None if there are none). All None where nothing is demanded.
    per_class : dict
        For each label: ``precision``, ``recall``, ``f1`` (0 where they are not defined) and
        ``n``, its rows.
    classes : tuple of str, length k
        Labels, in the order of `confusion`.
    confusion : list of list of int, k × k
        Rows by their own label (down) and the predicted one (across).
    scored : dict of str to str
        ``model_sha256`` and ``rows_sha256``: which model was scored, and on which labelled rows.
    out_of_fold : bool
        Whether the head has learned from these rows, and what is scored are the answers of heads made in the
        same way that had not.
    test_looks : int or None
        How many times the test split had been looked at by then, this time included: models that
        were scored on it, each counted again when it or the test rows changed. None for other splits.
    """

    head: str
    split: Split
    n: int
    accuracy: float
    accuracy_95: tuple[float, float]
    macro_f1: float
    log_loss: float | None
    ece: float | None
    unsure_below: float | None
    coverage: float | None
    accuracy_covered: float | None
    per_class: dict[str, dict[str, float | int]]
    classes: tuple[str, ...]
    confusion: list[list[int]]
    test_looks: int | None
    out_of_fold: bool
    scored: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics as values that JSON can hold; what does not apply is left out."""
        values = {
            "head": self.head,
            "split": self.split,
            "n": self.n,
            "accuracy": self.accuracy,
            "accuracy_95": list(self.accuracy_95),
            "macro_f1": self.macro_f1,
            "log_loss": self.log_loss,
            "ece": self.ece,
            "unsure_below": self.unsure_below,
            "coverage": self.coverage,
            "accuracy_covered": self.accuracy_covered,
            "test_looks": self.test_looks,
            "out_of_fold": self.out_of_fold or None,
            # a list, which `dvc metrics show` passes over: its table would have a column for each number
            "per_class": [{"label": label, **numbers} for label, numbers in self.per_class.items()],
            "confusion": {"labels": list(self.classes), "matrix": self.confusion},
            "scored": [self.scored],  # in a list for the same reason
        }
        return {key: value for key, value in values.items() if value is not None}


def score(
    head: str,
    split: Split,
    y: npt.NDArray[np.int64],
    predictions: Predictions,
    *,
    test_looks: int | None = None,
    scored: dict[str, str] | None = None,
    out_of_fold: bool = False,
    calibrating: bool = False,
) -> Metrics:
    """Compare predictions with labels.

    Parameters
    ----------
    head, split : str
        What is scored, and on what.
    y : ndarray of int64, shape (n,)
        Positions in ``predictions.classes``; n is at least 1.
    predictions : Predictions
        Of the same rows.
    test_looks : int, optional
        See `Metrics`.
    scored : dict, optional
        See `Metrics`.
    out_of_fold : bool
        See `Metrics`.
    calibrating : bool
        Whether the probabilities were fitted to these rows.
    """
    classes = predictions.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (y, predictions.codes), 1)
    hits, actual, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(actual, 1)
    f1 = 2 * hits / np.maximum(actual + predicted, 1)
    n, right = len(y), int(hits.sum())
    probabilities, threshold = predictions.probabilities, predictions.unsure_below
    covered = predictions.codes[predictions.sure] == y[predictions.sure]
    return Metrics(
        head=head,
        split=split,
        n=n,
        accuracy=_rounded(right / n),
        accuracy_95=wilson_interval(right, n),
        macro_f1=_rounded(f1[actual + predicted > 0].mean()),
        log_loss=None if probabilities is None else _log_loss(y, probabilities),
        ece=(
            None
            if probabilities is None or calibrating
            else _rounded(expected_calibration_error(probabilities, y))
        ),
        unsure_below=threshold,
        coverage=None if threshold is None else _rounded(len(covered) / n),
        accuracy_covered=None if threshold is None or not len(covered) else _rounded(covered.mean()),
        per_class={
            label: {
                "precision": _rounded(precision[code]),
                "recall": _rounded(recall[code]),
                "f1": _rounded(f1[code]),
                "n": int(actual[code]),
            }
            for code, label in enumerate(classes)
        },
        classes=classes,
        confusion=confusion.tolist(),
        test_looks=test_looks,
        out_of_fold=out_of_fold,
        scored=scored or {},
    )


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a share, `right` of `n`.

    References
    ----------
    E. B. Wilson, "Probable inference, the law of succession, and statistical inference",
    Journal of the American Statistical Association 22 (1927), 209-212.
    """
    z = 1.959964  # 97.5 % quantile of the normal distribution
    share = right / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return _rounded(max(centre - half, 0.0)), _rounded(min(centre + half, 1.0))


def _log_loss(y: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> float:
    given = probabilities[np.arange(len(y)), y]
    # A probability of 0 for what came true would make the mean infinite; as scikit-learn does, the
    # smallest step from 1 stands in for it.
    return _rounded(-np.log(np.maximum(given, np.finfo(np.float64).eps)).mean())


def _rounded(value: Any) -> float:
    return round(float(value), _DIGITS) + 0.0  # + 0: no -0.0
