"""Labels that the other images do not bear out.

Owns which labels are doubted, and how much.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.dataset.corrections import Corrections
from pipeline.dataset.manifest import ImageRow
from pipeline.errors import PipelineError
from pipeline.heads.labelled_rows import FeatureMatrix
from pipeline.heads.matrix import LabelledFeatures
from pipeline.results.audit.findings import LabelFindings, LabelIssue, LabelsOfTest
from pipeline.results.audit.predictions import Codes, Floats, Predicted, predicted

# A label is listed where another is more probable by 0.1. Measured on 1,000 photographs of cats and dogs and
# on 600 digits, each with 5 % of the labels wrong, ten times: 96 and 99 % of the wrong labels were listed,
# and 79 and 74 % of what was listed was wrong. What confident learning was sure of, 894 labels, all was.
_QUALITY = 0.45
_DIGITS = 4


def require_cleanlab() -> None:
    """See that cleanlab is there.

    Raises
    ------
    PipelineError
        It is not, or cannot be imported.
    """
    _cleanlab("filter")


def label_findings(
    features: LabelledFeatures,
    pooled: FeatureMatrix,
    corrections: Corrections,
    factors: Path,
    *,
    include_test: bool,
) -> LabelFindings:
    """Compare labels with predictions.

    Parameters
    ----------
    features : LabelledFeatures
    pooled : FeatureMatrix
        All splits, by `predictions.POOLED`.
    corrections : Corrections
        Images whose label is a correction are not doubted again.
    factors : Path
        Folder of cached factors.
    include_test : bool
        Whether to look at test labels, too.

    Raises
    ------
    HeadError
        There are too few rows to hold some out.
    """
    learned, asked = predicted(features, pooled, factors, include_test=include_test)
    doubts = _Doubts.of(learned.y, learned.probabilities)
    issues = _issues(learned, doubts, pooled.classes, corrections)
    test: LabelsOfTest | None = None
    if asked is not None:
        of_test = _issues(asked, _Doubts.of(asked.y, asked.probabilities), pooled.classes, corrections)
        issues += of_test
        test = LabelsOfTest(
            rows=len(asked.y),
            accuracy_as_labelled=round(asked.accuracy, _DIGITS),
            accuracy_as_suggested=round(asked.accuracy + len(of_test) / len(asked.y), _DIGITS),
        )
    return LabelFindings(
        rows=len(learned.y),
        not_compared=sum(image.split != "test" for image in pooled.images) - len(learned.y),
        reviewed=sum(_is_reviewed(image, corrections) for image in learned.images),
        accuracy=round(learned.accuracy, _DIGITS),
        estimated=doubts.estimated,
        issues=tuple(sorted(issues, key=lambda issue: (issue.quality, issue.path))),
        test=test,
    )


@dataclass(frozen=True)
class _Doubts:
    """What follows from labels and probabilities.

    Attributes
    ----------
    suggested : ndarray of int64, shape (n,)
        The most probable of the other classes.
    quality : ndarray of float64, shape (n,)
        Half of one more than the probability of the label less that of `suggested`.
    listed, confident : ndarray of bool, shape (n,)
        Labels that are doubted, and those of them that are errors by confident learning.
    estimated : int
        How many are wrong.
    """

    suggested: Codes
    quality: Floats
    listed: npt.NDArray[np.bool_]
    confident: npt.NDArray[np.bool_]
    estimated: int

    @classmethod
    def of(cls, y: Codes, probabilities: Floats) -> _Doubts:
        """Compare labels, shape (n,), with probabilities, shape (n, k).

        References
        ----------
        C. Northcutt, L. Jiang, I. Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
        JAIR 70 (2021).
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes that have no row here, or no error
            confident = _cleanlab("filter").find_label_issues(
                y, probabilities, filter_by="confident_learning", n_jobs=1
            )
            quality = _cleanlab("rank").get_label_quality_scores(y, probabilities, method="normalized_margin")
            estimated = _cleanlab("count").num_label_issues(
                y, probabilities, estimation_method="off_diagonal_calibrated"
            )
        others = probabilities.copy()
        others[np.arange(len(y)), y] = -1
        listed = (quality < _QUALITY) | confident
        return cls(others.argmax(axis=1), quality, listed, confident, int(estimated))


def _issues(
    rows: Predicted, doubts: _Doubts, classes: tuple[str, ...], corrections: Corrections
) -> list[LabelIssue]:
    return [
        LabelIssue(
            path=rows.images[place].path,
            split=rows.images[place].split,
            label=rows.images[place].label,
            suggested=classes[doubts.suggested[place]],
            quality=round(float(doubts.quality[place]), _DIGITS),
            confident=bool(doubts.confident[place]),
        )
        for place in np.flatnonzero(doubts.listed).tolist()
        if not _is_reviewed(rows.images[place], corrections)
    ]


def _is_reviewed(image: ImageRow, corrections: Corrections) -> bool:
    return corrections.label(image.sha256) == image.label


def _cleanlab(name: str) -> Any:
    try:
        return importlib.import_module(f"cleanlab.{name}")
    except ImportError as error:
        raise PipelineError(
            f"label issues are found with cleanlab, which cannot be imported ({error}): "
            f"pip install 'feature-cache-pipeline[audit]', or in a checkout pip install -e '.[audit]'. "
            f"`pipeline audit --skip-labels` does the rest without it."
        ) from None
