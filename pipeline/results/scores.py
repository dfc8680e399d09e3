"""The scores of all heads, as rows of a table.

Owns reading what ``evaluate`` wrote. It never computes a score.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.console import table
from pipeline.dataset.manifest import read_manifest
from pipeline.errors import WorkspaceError
from pipeline.heads import model_folder
from pipeline.heads.labelled_rows import digest_of_splits
from pipeline.params import SPLITS, Split
from pipeline.results.evaluate import model_digest
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
    out_of_fold: bool
    current: bool  # of the model and the images that are there now


def scores(workspace: Workspace) -> list[Score]:
    """Read every metrics file of a workspace.

    Returns
    -------
    list of Score
        Split by split (train, val, test), in each the most accurate first; those of another model,
        or of other images, than are there now come last.

    Raises
    ------
    WorkspaceError
        A file is not what ``evaluate`` writes.
    """
    paths = sorted(workspace.metrics_file("head", "val").parent.glob("*.json"))
    if not paths:
        return []
    manifest = read_manifest(workspace.manifest_file)
    now = {split: digest_of_splits(manifest, split) for split in SPLITS}
    found = [_read(path, workspace, now) for path in paths]
    return sorted(
        found,
        key=lambda score: (
            not score.current,
            SPLITS.index(score.split),
            -score.accuracy,
            -score.macro_f1,
            score.head,
        ),
    )


def scores_table(found: Sequence[Score]) -> str:
    """Lay the scores out as text; what is out of date is said so."""
    header = ["head", "split", "images", "accuracy", "95 % interval", "macro F1", "log loss"]
    rows = [
        [
            score.head,
            f"{score.split}, out of fold" if score.out_of_fold else score.split,
            str(score.n),
            f"{score.accuracy:.4f}",
            f"{score.accuracy_95[0]:.3f} – {score.accuracy_95[1]:.3f}",
            f"{score.macro_f1:.4f}",
            "-" if score.log_loss is None else f"{score.log_loss:.4f}",
        ]
        for score in found
    ]
    if not all(score.current for score in found):
        header.append("")
        for row, score in zip(rows, found, strict=True):
            row.append("" if score.current else "out of date")
    return table(header, rows)


def _read(path: Path, workspace: Workspace, now: Mapping[Split, str]) -> Score:
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())
        low, high = values["accuracy_95"]
        if values["split"] not in SPLITS:
            raise ValueError(f"split {values['split']!r}")
        head, split = str(values["head"]), values["split"]
        [scored] = values["scored"]
        there = (workspace.model_folder(head) / model_folder.DESCRIPTION).is_file()
        return Score(
            head,
            values["split"],
            int(values["n"]),
            float(values["accuracy"]),
            (float(low), float(high)),
            float(values["macro_f1"]),
            None if values.get("log_loss") is None else float(values["log_loss"]),
            values.get("out_of_fold") is True,
            current=there
            and scored == {"model_sha256": model_digest(workspace, head), "rows_sha256": now[split]},
        )
    except (ValueError, TypeError, KeyError) as error:
        raise WorkspaceError(
            f"{path}: not a metrics file ({error!r}). `pipeline evaluate` writes it anew."
        ) from None
