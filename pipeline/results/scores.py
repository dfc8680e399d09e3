"""The scores of all heads, as rows of a table.

Owns reading what ``evaluate`` wrote. It never computes a score.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.console import table
from pipeline.errors import WorkspaceError
from pipeline.params import SPLITS, Split
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Score:
    """One line of the table; see `pipeline.results.evaluate.Metrics` for the meanings."""

    head: str
    split: Split
    n: int
    accuracy: float
    accuracy_95: tuple[float, float]
    macro_f1: float
    log_loss: float | None


def scores(workspace: Workspace) -> list[Score]:
    """Read every metrics file of a workspace.

    Returns
    -------
    list of Score
        Split by split (train, val, test), in each the most accurate first.

    Raises
    ------
    WorkspaceError
        A file is not what ``evaluate`` writes.
    """
    found = [_read(path) for path in sorted(workspace.metrics_file("head", "val").parent.glob("*.json"))]
    return sorted(found, key=lambda score: (SPLITS.index(score.split), -score.accuracy, score.head))


def scores_table(found: Sequence[Score]) -> str:
    """Lay the scores out as text."""
    header = ("head", "split", "images", "accuracy", "95 % interval", "macro F1", "log loss")
    rows = [
        (
            score.head,
            score.split,
            str(score.n),
            f"{score.accuracy:.4f}",
            f"{score.accuracy_95[0]:.3f} – {score.accuracy_95[1]:.3f}",
            f"{score.macro_f1:.4f}",
            "-" if score.log_loss is None else f"{score.log_loss:.4f}",
        )
        for score in found
    ]
    return table(header, rows)


def _read(path: Path) -> Score:
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        low, high = values["accuracy_95"]
        if values["split"] not in SPLITS:
            raise ValueError(f"split {values['split']!r}")
        return Score(
            str(values["head"]),
            values["split"],
            int(values["n"]),
            float(values["accuracy"]),
            (float(low), float(high)),
            float(values["macro_f1"]),
            None if values.get("log_loss") is None else float(values["log_loss"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise WorkspaceError(
            f"{path}: not a metrics file ({error!r}). `pipeline evaluate` writes it anew."
        ) from None
