"""The figures of the page: each chart with its title, its caption, and what it says in one sentence.

Owns the words. Figures that cannot be drawn for a head are replaced by a note that says why.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.console import counted, printable
from pipeline.heads.calibration import expected_calibration_error
from pipeline.heads.model_folder import HISTORY
from pipeline.results.report import charts
from pipeline.results.report.answers import Answers
from pipeline.results.report.charts import Chart
from pipeline.results.report.curves import Ranking, calibration_bins
from pipeline.results.report.feature_map import FeatureMap
from pipeline.results.report.learning_curve import Point

# More lines than these are not told apart.
_MOST_CLASSES = 10
# Points of the map: 0.5 MB.
_MOST_POINTS = 4000


@dataclass(frozen=True)
class Figure:
    """One chart and its words.

    Attributes
    ----------
    name : str
        Of the element that it is drawn in.
    title, caption : str
    summary : str
        What the chart says, for those who do not see it.
    chart : dict
        Its Vega-Lite specification.
    """

    name: str
    title: str
    caption: str
    summary: str
    chart: Chart


def ranking_figures(found: Sequence[Ranking]) -> list[Figure]:
    """Show ROC and precision-recall, each class against the others."""
    shown = found[:_MOST_CLASSES]
    which = "Each class against the others"
    if len(found) == 2:
        which = "Each class against the other"
    elif len(shown) < len(found):
        which = f"Each class against the others; the {len(shown)} of {len(found)} that are told apart worst"
    areas = "; ".join(f"{printable(each.label)} {each.area:.4f}" for each in shown)
    precisions = "; ".join(f"{printable(each.label)} {each.average_precision:.4f}" for each in shown)
    return [
        Figure(
            "roc",
            "ROC",
            f"{which}. Area under the curve: {areas}.",
            f"ROC curves. Areas: {areas}.",
            charts.roc_chart(shown),
        ),
        Figure(
            "precision-recall",
            "Precision and recall",
            f"{which}. Average precision: {precisions}.",
            f"Precision-recall curves. Average precision: {precisions}.",
            charts.precision_recall_chart(shown),
        ),
    ]


def calibration_figure(answers: Answers, probabilities: npt.NDArray[np.float64]) -> Figure:
    """Show how often labels are right that were said to be so probable."""
    error = expected_calibration_error(probabilities, answers.y)
    bins = calibration_bins(answers.y, probabilities)
    said = (
        "The temperature was fitted to these very images, so that the curve flatters a little."
        if answers.calibrating
        else f"Expected calibration error {error:.4f}; of few images it is never 0."
    )
    return Figure(
        "calibration",
        "Calibration",
        f"Share of images whose label is right against the probability of it, with 95 % intervals; on the "
        f"dashed line probabilities mean what they say. {said}",
        "Calibration curve. "
        + "; ".join(
            f"{counted(each.n, 'image')} given {each.confidence:.2f}: {each.accuracy:.2f} right"
            for each in bins
        )
        + ".",
        charts.calibration_chart(bins),
    )


def learning_figure(points: Sequence[Point]) -> Figure:
    """Show whether more images would help."""
    said = "; ".join(
        f"{point.images} images {point.accuracy:.1%} ± {point.standard_error:.1%}" for point in points
    )
    return Figure(
        "learning",
        "Learning curve",
        f"Accuracy in five folds against the number of training images, ± one standard error: {said}. "
        f"Where it still rises, more images help.",
        f"Learning curve: {said}.",
        charts.learning_chart(points),
    )


def training_figures(folder: Path) -> list[Figure]:
    """Show how a torch head came to be, if the folder of the model has a log of it."""
    path = folder / HISTORY
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        history = [
            {name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)
        ]
    figures = []
    for what in ("loss", "accuracy"):
        last = ", ".join(
            f"{last_of} {history[-1][f'{last_of}_{what}']:.4f}"
            for last_of in ("train", "val")
            if f"{last_of}_{what}" in history[-1]
        )
        figures.append(
            Figure(
                f"training-{what}",
                f"Training: {what}",
                f"Epoch by epoch; at the end {last}. This is the training of the model itself, not of the "
                f"folds.",
                f"{what.capitalize()} of {counted(len(history), 'epoch')}, at the end {last}.",
                charts.training_chart(history, what),
            )
        )
    return figures


def map_figure(
    answers: Answers, found: FeatureMap, places: npt.NDArray[np.float64], with_picture: Sequence[int]
) -> Figure:
    """Show where features put images.

    Parameters
    ----------
    answers : Answers
    found : FeatureMap
        How they were projected.
    places : ndarray of float64, shape (n, 2)
        Of the images of `answers`.
    with_picture : sequence of int
        Images of which the page has a thumbnail.
    """
    n = len(answers.images)
    drawn = np.unique(np.linspace(0, n - 1, min(n, _MOST_POINTS)).round().astype(np.int64)).tolist()
    pictured, labels = set(with_picture), answers.predictions.labels
    return Figure(
        "map",
        "Map of the images",
        f"{len(drawn)} images of train and val where their features put them (by {found.method}, of rows of "
        f"length 1); point at one to see it. {found.caution}",
        f"Map of {len(drawn)} images by {found.method} of their features.",
        charts.map_chart(
            [answers.images[place] for place in drawn],
            [labels[place] for place in drawn],
            places[drawn],
            found.axes,
            [place if place in pictured else -1 for place in drawn],
        ),
    )
