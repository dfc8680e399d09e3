"""What a sweep and an audit have left under ``reports/``, as sections of the page.

Owns their summaries. Nothing is searched or found here.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pipeline.console import counted, printable
from pipeline.errors import WorkspaceError
from pipeline.heads.leaderboard import Leaderboard
from pipeline.heads.matrix import LabelledFeatures
from pipeline.views import CENTER
from pipeline.workspace import Workspace

# Lines of a table; the rest is in the file.
_TOP = 10

_Section = TypeVar("_Section")


@dataclass(frozen=True)
class SweepLine:
    """The best line of an estimator on a derivation, as text."""

    estimator: str
    pooling: str
    normalize: str
    setting: str
    views: str
    accuracy: str
    standard_error: str


@dataclass(frozen=True)
class SweepSection:
    """What a sweep has found: what it means, and its best lines."""

    meaning: str
    lines: list[SweepLine]

    @property
    def several_views(self) -> bool:
        """Whether any of them is of more than the centre."""
        return any(line.views != CENTER for line in self.lines)


@dataclass(frozen=True)
class DoubtedLabel:
    """A label that the other images do not bear out; see `LabelIssue`."""

    path: str
    split: str
    label: str
    suggested: str


@dataclass(frozen=True)
class AuditSection:
    """What an audit has found: what it means, how many of each kind, and the most doubtful labels."""

    meaning: str
    counts: list[tuple[str, int]]
    labels: list[DoubtedLabel]


def sweep_section(workspace: Workspace, features: LabelledFeatures) -> SweepSection | None:
    """Summarise ``reports/sweep.json``; None if there is none, or it is of other images or features.

    Raises
    ------
    WorkspaceError
        The file is not what ``sweep`` writes.
    """

    def summary(stored: dict[str, Any]) -> SweepSection | None:
        of = stored["of"]
        views = list(features.params.extract.views)
        now = (features.identity.as_dict(), features.digest("train", "val"), views)
        if (of["identity"], of["rows_sha256"], of.get("views", [CENTER])) != now:
            return None
        board = Leaderboard.read(workspace.sweep_file, of, int(stored["rows"]), int(stored["folds"]))
        return _sweep(board)

    return _read(workspace.sweep_file, "sweep", summary)


def _sweep(board: Leaderboard) -> SweepSection | None:
    if board.best is None:
        return None
    nested = board.nested
    return SweepSection(
        f"The best of {counted(len(board.lines), 'recipe')}, cross-validated on {board.rows} images of train "
        f"and val in {board.folds} folds; of each estimator and view of the features the best setting. The "
        f"accuracy of the first is optimistic, as it was chosen by this very number"
        + (
            "; pipeline sweep --nested says by how much."
            if nested is None
            else f": nested cross-validation puts the choice at {nested['accuracy']:.2%} "
            f"± {nested['standard_error']:.2%}."
        ),
        [
            SweepLine(
                line.estimator,
                line.pooling,
                line.normalize,
                line.setting,
                line.views,
                f"{line.accuracy:.4f}",
                f"{line.standard_error:.4f}",
            )
            for line in board.best_settings[:_TOP]
        ],
    )


def audit_section(workspace: Workspace, features: LabelledFeatures) -> AuditSection | None:
    """Summarise ``reports/audit.json``; None if there is none.

    Raises
    ------
    WorkspaceError
        The file is not what ``audit`` writes.
    """

    def summary(stored: dict[str, Any]) -> AuditSection:
        labels = stored["labels"]
        issues = [] if labels is None else labels["issues"]
        meaning = f"{counted(stored['images'], 'image')} audited. "
        if stored["images"] != len(features.manifest.usable):
            meaning += "There are others now: pipeline audit looks again. "
        if stored["leaks"]:
            meaning += (
                f"{counted(stored['leaks'], 'duplicate')} across splits: scores look better than they are, "
                f"until each is in one split only. "
            )
        if labels is None:
            meaning += "Labels were left out. "
        return AuditSection(
            meaning + "pipeline audit lists all of it, and says how to mend it.",
            [
                ("labels in doubt", len(issues)),
                ("exact copies", len(stored["exact"])),
                ("near duplicates", len(stored["near"])),
                ("duplicates across splits", stored["leaks"]),
                ("images like no other", len(stored["outliers"])),
                *((f"{what} images", len(stored[what])) for what in ("dark", "blurred", "tiny")),
            ],
            [
                DoubtedLabel(issue["path"], issue["split"], issue["label"], issue["suggested"])
                for issue in issues[:_TOP]
            ],
        )

    return _read(workspace.audit_file, "audit", summary)


def _read(path: Path, command: str, summary: Callable[[dict[str, Any]], _Section | None]) -> _Section | None:
    try:
        return summary(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise WorkspaceError(
            f"{path}: not what `pipeline {command}` writes ({printable(repr(error))}). Run that again."
        ) from None
