"""The interactive charts: Vega-Lite specifications, as plain values.

Owns what is drawn and how. Colours of text and axes belong to the page, which knows light from dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.dataset.manifest import ImageRow
from pipeline.results.report.curves import Bin, Ranking
from pipeline.results.report.learning_curve import Point

Chart = dict[str, Any]

# More shapes than these are not told apart.
_SHAPES = 6


def roc_chart(found: Sequence[Ranking]) -> Chart:
    """Draw true against false positives, a line a class."""
    return _ranking_chart(
        [(each.label, each.roc) for each in found], "false positive rate", "true positive rate"
    )


def precision_recall_chart(found: Sequence[Ranking]) -> Chart:
    """Draw precision against recall, a line a class."""
    return _ranking_chart([(each.label, each.precision_recall) for each in found], "recall", "precision")


def _ranking_chart(lines: Sequence[tuple[str, npt.NDArray[np.float64]]], x: str, y: str) -> Chart:
    values = [
        {"class": printable(label), x: round(float(across), 4), y: round(float(up), 4), "order": number}
        for label, points in lines
        for number, (across, up) in enumerate(points)
    ]
    return _chart(
        values,
        mark={"type": "line", "interpolate": "step-after" if y.startswith("true") else "step-before"},
        encoding={
            "x": {"field": x, "type": "quantitative", "scale": {"domain": [0, 1]}},
            "y": {"field": y, "type": "quantitative", "scale": {"domain": [0, 1]}},
            "color": _by_class(),
            "order": {"field": "order", "type": "quantitative"},
            "tooltip": [
                {"field": "class", "type": "nominal"},
                {"field": x, "type": "quantitative", "format": ".3f"},
                {"field": y, "type": "quantitative", "format": ".3f"},
            ],
        },
    )


def calibration_chart(bins: Sequence[Bin]) -> Chart:
    """Draw how often labels are right against how probable they were said to be."""
    x, y = "probability given", "share right"
    values = [
        {
            x: round(each.confidence, 4),
            y: round(each.accuracy, 4),
            "low": each.accuracy_95[0],
            "high": each.accuracy_95[1],
            "images": each.n,
        }
        for each in bins
    ]
    lowest = min([0.5, *(each.low for each in bins)])
    scale = {"domain": [lowest, 1]}
    diagonal = [{x: lowest, y: lowest}, {x: 1, y: 1}]
    at = {
        "x": {"field": x, "type": "quantitative", "scale": scale},
        "y": {"field": y, "type": "quantitative", "scale": {"domain": [0, 1]}},
    }
    tooltip = [
        {"field": x, "type": "quantitative", "format": ".3f"},
        {"field": y, "type": "quantitative", "format": ".3f"},
        {"field": "images", "type": "quantitative"},
    ]
    return _layers(
        {
            "data": {"values": diagonal},
            "mark": {"type": "line", "strokeDash": [4, 4], "opacity": 0.6},
            "encoding": at,
        },
        {
            "mark": {"type": "rule"},
            "encoding": {
                "x": at["x"],
                "y": {"field": "low", "type": "quantitative", "title": y},
                "y2": {"field": "high"},
            },
        },
        {
            "mark": {"type": "point", "filled": True, "opacity": 1},
            "encoding": {
                **at,
                "size": {"field": "images", "type": "quantitative", "scale": {"range": [30, 300]}},
                "tooltip": tooltip,
            },
        },
        values=values,
    )


def learning_chart(points: Sequence[Point]) -> Chart:
    """Draw accuracy against the number of training images, with standard errors."""
    x, y = "training images", "accuracy"
    values = [
        {
            x: each.images,
            y: each.accuracy,
            "low": round(each.accuracy - each.standard_error, 6),
            "high": round(min(each.accuracy + each.standard_error, 1.0), 6),
        }
        for each in points
    ]
    across = {
        "field": x,
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 12},
        "axis": {"values": [each.images for each in points], "grid": False},
    }
    zero, axis = {"zero": False}, {"format": ".1%", "tickCount": 6}
    tooltip = [
        {"field": x, "type": "quantitative"},
        {"field": y, "type": "quantitative", "format": ".4f"},
        {"field": "low", "type": "quantitative", "format": ".4f", "title": "less one standard error"},
        {"field": "high", "type": "quantitative", "format": ".4f", "title": "plus one"},
    ]
    return _layers(
        {
            "mark": {"type": "area", "opacity": 0.25},
            "encoding": {
                "x": across,
                "y": {"field": "low", "type": "quantitative", "scale": zero, "title": y, "axis": axis},
                "y2": {"field": "high"},
            },
        },
        {
            "mark": {"type": "line", "point": {"size": 60}},
            "encoding": {
                "x": across,
                "y": {
                    "field": y,
                    "type": "quantitative",
                    "scale": zero,
                    "axis": {"format": ".1%", "tickCount": 6},
                },
                "tooltip": tooltip,
            },
        },
        values=values,
    )


def training_chart(history: Sequence[dict[str, float]], what: str) -> Chart:
    """Draw loss or accuracy against epochs, for training and, where it was watched, validation images."""
    values = [
        {"epoch": int(epoch["epoch"]), "images of": of, what: round(epoch[f"{of}_{what}"], 5)}
        for epoch in history
        for of in ("train", "val")
        if f"{of}_{what}" in epoch
    ]
    return _chart(
        values,
        mark={"type": "line", "point": True},
        encoding={
            "x": {"field": "epoch", "type": "quantitative", "axis": {"tickMinStep": 1, "grid": False}},
            "y": {"field": what, "type": "quantitative", "scale": {"zero": False}},
            "color": {"field": "images of", "type": "nominal", "legend": {"orient": "bottom"}},
            "tooltip": [
                {"field": "images of", "type": "nominal"},
                {"field": "epoch", "type": "quantitative"},
                {"field": what, "type": "quantitative", "format": ".4f"},
            ],
        },
    )


def map_chart(
    images: Sequence[ImageRow],
    labels: Sequence[str],
    places: npt.NDArray[np.float64],
    axes: Sequence[str],
    pictures: Sequence[int],
) -> Chart:
    """Draw images where their features put them.

    Parameters
    ----------
    images : sequence of ImageRow
    labels : sequence of str
        That each was given.
    places : ndarray of float64, shape (n, 2)
        Of each.
    axes : sequence of two str
        What they are.
    pictures : sequence of int
        The number under which the page has a thumbnail of each, -1 for none.
    """
    values = [
        {
            "class": printable(image.label),
            "path": printable(image.path),
            "given": printable(given),
            "x": round(float(x), 4),
            "y": round(float(y), 4),
            "picture": picture,
        }
        for image, given, (x, y), picture in zip(images, labels, places, pictures, strict=True)
    ]
    encoding: Chart = {
        axis: {
            "field": axis,
            "type": "quantitative",
            "scale": {"zero": False},
            "title": title or None,
            "axis": {"grid": False, "labels": False, "ticks": False},
        }
        for axis, title in zip("xy", axes, strict=True)
    }
    encoding["color"] = _by_class()
    if len({image.label for image in images}) <= _SHAPES:
        encoding["shape"] = {"field": "class", "type": "nominal"}
    encoding["tooltip"] = [{"field": name, "type": "nominal"} for name in ("path", "class", "given")]
    chart = _chart(
        values,
        mark={"type": "point", "filled": True, "size": 40, "opacity": 0.7},
        encoding=encoding,
    )
    return chart | {"height": 420}


def _by_class() -> Chart:
    return {"field": "class", "type": "nominal", "legend": {"orient": "bottom", "columns": 3, "title": None}}


def _layers(*layers: Chart, values: Sequence[Chart]) -> Chart:
    return _frame() | {"data": {"values": list(values)}, "layer": list(layers)}


def _chart(values: Sequence[Chart], *, mark: Chart, encoding: Chart) -> Chart:
    return _frame() | {"data": {"values": list(values)}, "mark": mark, "encoding": encoding}


def _frame() -> Chart:
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": 260,
        "autosize": {"type": "fit", "contains": "padding"},
    }
