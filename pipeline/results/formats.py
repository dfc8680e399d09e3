"""Predictions as text: a table for people, JSON and CSV for programs.

File names and labels are foreign text: escaped for a terminal in the table; in CSV without
control characters, and kept from being taken for a formula by a spreadsheet; whole in JSON.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.console import table
from pipeline.results.predict import Prediction

_TABLE_TOP = 3
# Spreadsheets run a cell that starts so (OWASP, "CSV Injection"); an apostrophe makes it text. Tabs and
# line ends, which also start one, are escaped.
_FORMULA_STARTS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")
# Control characters, and bytes that are no text.
_NO_TEXT = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def as_table(predictions: Sequence[Prediction], top: int | None) -> str:
    """Lay out a line an image: path, label, and the most probable labels."""
    return table(
        ("image", "label", "probabilities"),
        [
            (
                prediction.path,
                prediction.label or "-",
                prediction.error
                or ", ".join(f"{label} {p:.3f}" for label, p in _best(prediction, top or _TABLE_TOP))
                or "-",
            )
            for prediction in predictions
        ],
        left=3,
    )


def as_json(predictions: Sequence[Prediction], top: int | None) -> str:
    """Write a list of objects: ``path``, ``label``, ``probabilities``.

    Where there is one also ``error``, and where the label is ``unsure`` the ``best`` there is.
    """
    objects: list[dict[str, Any]] = []
    for prediction in predictions:
        has_probabilities = prediction.probabilities is not None
        probabilities = dict(_best(prediction, top)) if has_probabilities else None
        objects.append({"path": prediction.path, "label": prediction.label, "probabilities": probabilities})
        if prediction.error is not None:
            objects[-1]["error"] = prediction.error
        if prediction.best is not None:
            objects[-1]["best"] = prediction.best
    return json.dumps(objects, indent=2, ensure_ascii=True)


def as_csv(predictions: Sequence[Prediction], top: int | None) -> str:
    """Write a header, then a line an image: path, label, error, and the probability of each class."""
    classes = sorted({label for prediction in predictions for label in prediction.probabilities or {}})
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "error", *(_inert(f"p({label})") for label in classes)])
    for prediction in predictions:
        best = dict(_best(prediction, top))
        writer.writerow(
            [_inert(prediction.path), _inert(prediction.label or ""), _inert(prediction.error or "")]
            + [f"{best[label]:.6g}" if label in best else "" for label in classes]
        )
    return text.getvalue().rstrip("\n")


#: By the name that ``--format`` takes.
FORMATS: dict[str, Callable[[Sequence[Prediction], int | None], str]] = {
    "table": as_table,
    "json": as_json,
    "csv": as_csv,
}
#: What a file is to hold by the end of its name.
ENDINGS = {".json": "json", ".csv": "csv", ".txt": "table", "": "table"}


def _best(prediction: Prediction, top: int | None) -> list[tuple[str, float]]:
    return list(itertools.islice((prediction.probabilities or {}).items(), top))


def _inert(text: str) -> str:
    shown = _NO_TEXT.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)
    return f"'{shown}" if shown.startswith(_FORMULA_STARTS) else shown
