"""What the page says of the data and of where everything comes from, as values.

Owns counts, sizes and provenance. It computes no score, and holds no time of day.
"""

from __future__ import annotations

import json
import statistics
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.dataset.manifest import ImageRow, Manifest
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.memory import said_size
from pipeline.params import SPLITS
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class DataFacts:
    """What the manifest holds.

    Attributes
    ----------
    counts : list of (label, list of int)
        Usable images of each class in train, val and test.
    totals : list of int
        Of each split.
    unused : list of ImageRow
        Rows that are not used, whatever the reason.
    reasons : list of (status, reason, int)
        How many of them for each reason, most first.
    sizes : list of (what, str)
        Of images and files.
    """

    counts: list[tuple[str, list[int]]]
    totals: list[int]
    unused: list[ImageRow]
    reasons: list[tuple[str, str, int]]
    sizes: list[tuple[str, str]]


def data_facts(manifest: Manifest, workspace: Workspace) -> DataFacts:
    """Count what a manifest holds, and what the store takes on disk."""
    found = Counter((row.label, row.split) for row in manifest.usable)
    counts = [(label, [found[label, split] for split in SPLITS]) for label in manifest.classes]
    unused = [row for row in manifest.rows if row.status != "ok"]
    reasons = Counter((row.status, row.reason) for row in unused)
    return DataFacts(
        counts=counts,
        totals=[sum(row[place] for _, row in counts) for place in range(len(SPLITS))],
        unused=unused,
        reasons=[(*reason, count) for reason, count in reasons.most_common()],
        sizes=_sizes(manifest.usable, workspace),
    )


def _sizes(images: Sequence[ImageRow], workspace: Workspace) -> list[tuple[str, str]]:
    shorter = sorted(min(image.width, image.height) for image in images)
    shards = [path.stat().st_size for path in workspace.store_folder.glob("*.h5")]
    return [
        ("image files", said_size(sum(image.bytes for image in images))),
        (
            "shorter side of an image",
            f"{shorter[0]} to {shorter[-1]} pixels, median {statistics.median_low(shorter)}",
        ),
        ("stored features", f"{said_size(sum(shards))} in {len(shards)} files"),
    ]


def looks_at_test(workspace: Workspace, head: str) -> int | None:
    """Return how often the test split had been looked at when `head` was scored on it, if it was."""
    try:
        looks = json.loads(workspace.metrics_file(head, "test").read_bytes()).get("test_looks")
    except FileNotFoundError:
        return None
    return None if looks is None else int(looks)


def provenance(workspace: Workspace, features: LabelledFeatures, head: str) -> list[tuple[str, str]]:
    """Say what all this was made from and with: (what, value), in the order to be shown."""
    model: dict[str, Any] = json.loads((workspace.model_folder(head) / model_folder.DESCRIPTION).read_bytes())
    commit = _commit(workspace.root)
    return [
        *([("git commit", commit)] if commit else []),
        (f"head {head}", f"{model['estimator']}, trained on {model['rows']} images of {model['train_on']}"),
        ("its parameters", ", ".join(f"{name}={value}" for name, value in sorted(model["params"].items()))),
        *_training(model.get("training", {})),
        ("pipeline", __version__),
        *((name, str(version)) for name, version in model["versions"].items()),
        *((name.replace("_", " "), _text(value)) for name, value in features.identity.as_dict().items()),
    ]


def _training(done: dict[str, Any]) -> list[tuple[str, str]]:
    """Say how a network was trained, if one was."""
    if not done:
        return []
    of = f" {done['head']} from {done['unfreeze']} on" if "head" in done else ""
    epochs = f"{done['epochs_done']} epochs, number {done['best_epoch']} kept"
    return [("its training", f"{done['command']}{of}, {epochs}")]


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _commit(root: Path) -> str | None:
    """Return the commit that a folder is at, if it is under git and git is there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
