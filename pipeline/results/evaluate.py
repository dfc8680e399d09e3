"""``pipeline evaluate``: a head's scores on rows that it has not learned from.

Owns what the numbers mean, and the count of looks at the test split. It refuses to score a
model on rows of a manifest that it was not trained from: they may be its own training rows.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.errors import HeadError, ModelError, WorkspaceError
from pipeline.files import sha256_of, write_csv, write_json
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import Predictions
from pipeline.params import Split
from pipeline.workspace import Workspace

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
    per_class : dict
        For each label: ``precision``, ``recall``, ``f1`` (0 where they are not defined) and
        ``n``, its rows.
    classes : tuple of str, length k
        Labels, in the order of `confusion`.
    confusion : list of list of int, k × k
        Rows by their own label (down) and the predicted one (across).
    scored : dict of str to str
        ``model_sha256`` and ``rows_sha256``: which model was scored, and on which labelled rows.
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
    per_class: dict[str, dict[str, float | int]]
    classes: tuple[str, ...]
    confusion: list[list[int]]
    test_looks: int | None
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
            "test_looks": self.test_looks,
            # a list, which `dvc metrics show` passes over: its table would have a column for each number
            "per_class": [{"label": label, **numbers} for label, numbers in self.per_class.items()],
            "confusion": {"labels": list(self.classes), "matrix": self.confusion},
            "scored": [self.scored],  # in a list for the same reason
        }
        return {key: value for key, value in values.items() if value is not None}


def evaluate(workspace: Workspace, head: str, split: Split = "val", *, trust: bool = False) -> Metrics:
    """Score a trained head, and write the scores and the confusion under ``reports/``.

    Parameters
    ----------
    workspace : Workspace
        With the model, and the features that it was trained on.
    head : str
        Name of the model.
    split : {"val", "test", "train"}, default "val"
        Each model that is scored on ``test`` is written down, and counted in the metrics.
    trust : bool, default False
        Whether a pickled head may be loaded.

    Returns
    -------
    Metrics

    Raises
    ------
    ModelError
        The model is absent or damaged, or was trained on other rows or labels than the
        manifest's training split now has.
    IdentityMismatch
        The model was trained on features of another extractor.
    HeadError
        The split is empty, or has a class that no training image has.
    """
    model = model_folder.load(workspace.model_folder(head), trust=trust)
    features = LabelledFeatures.open(workspace)
    model.identity.require(
        features.identity, f"model {head!r}", "the features in use", f"Run `pipeline train {head}` again."
    )
    if (model.rows_sha256, model.classes) != (features.training_digest, features.classes):
        raise ModelError(
            f"model {head!r} was trained on other images or labels than the training split now has, "
            f"so its scores might count images that it learned from. Run `pipeline train {head}` again."
        )
    rows = features.matrix(split)
    if not len(rows.y):
        raise HeadError(
            f"{workspace.manifest_file}: the split {split!r} has no image to score {head!r} on. "
            f"Give it a share in dataset.split, and run `pipeline prepare --resplit`."
        )
    predictions = model.predict(rows.X)
    scored = {"model_sha256": model_digest(workspace, head), "rows_sha256": rows.digest}
    looks = _looks(workspace, {"head": head, **scored}) if split == "test" else None
    metrics = score(head, split, rows.y, predictions, looks, scored)
    write_csv(
        workspace.confusion_file(head, split),
        ("actual", "predicted"),
        zip((rows.classes[code] for code in rows.y.tolist()), predictions.labels, strict=True),
    )
    write_json(workspace.metrics_file(head, split), metrics.as_dict())
    return metrics


def score(
    head: str,
    split: Split,
    y: npt.NDArray[np.int64],
    predictions: Predictions,
    test_looks: int | None = None,
    scored: dict[str, str] | None = None,
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
    """
    classes = predictions.classes
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (y, predictions.codes), 1)
    hits, actual, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    precision = hits / np.maximum(predicted, 1)
    recall = hits / np.maximum(actual, 1)
    f1 = 2 * hits / np.maximum(actual + predicted, 1)
    n, right = len(y), int(hits.sum())
    return Metrics(
        head=head,
        split=split,
        n=n,
        accuracy=_rounded(right / n),
        accuracy_95=wilson_interval(right, n),
        macro_f1=_rounded(f1[actual + predicted > 0].mean()),
        log_loss=None if predictions.probabilities is None else _log_loss(y, predictions.probabilities),
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
        scored=scored or {},
    )


def model_digest(workspace: Workspace, head: str) -> str:
    """Return the SHA-256 of a trained head's description, which holds that of its weights."""
    return sha256_of(workspace.model_folder(head) / model_folder.DESCRIPTION)


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


def _looks(workspace: Workspace, look: dict[str, str]) -> int:
    """Write down that this model sees these test rows, and return which look at the test split it is.

    Scored again, the same model on the same rows keeps its number, so its metrics stay the same.
    """
    path = workspace.test_looks_file
    looks = _read_looks(path)
    if look not in looks:
        looks.append(look)
        write_json(path, {"looks": looks})
    return looks.index(look) + 1


def _read_looks(path: Path) -> list[dict[str, str]]:
    try:
        looks = json.loads(path.read_bytes())["looks"]
        _ = [(look["head"], look["model_sha256"], look["rows_sha256"]) for look in looks]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, KeyError) as error:
        raise WorkspaceError(
            f"{path}: not a record of looks at the test split ({printable(str(error))}). Restore it from "
            f"git; deleting it starts the count again."
        ) from None
    return list(looks)


def _rounded(value: Any) -> float:
    return round(float(value), _DIGITS) + 0.0  # + 0: no -0.0
