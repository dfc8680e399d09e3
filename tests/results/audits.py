"""Workspaces to be audited, made of rows that look like VGG16's."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.dataset.manifest import ImageRow
from pipeline.features.store import FeatureStore, RowKey
from pipeline.workspace import Workspace
from tests.heads.conftest import IDENTITY, features_like_vgg, write_manifest_and_index

LABELS = ("cat", "dog", "owl")
#: Of each class, in this order.
SPLITS = ("train",) * 35 + ("val",) * 8 + ("test",) * 7

Features = npt.NDArray[np.float16]


def image(path: str, label: str, split: str, **others: object) -> ImageRow:
    """Return a usable row whose hash is that of its path."""
    sha256 = hashlib.sha256(path.encode()).hexdigest()
    values: dict[str, object] = {"group": "", "sha256": sha256, "bytes": 9, "width": 320, "height": 240}
    values |= {"status": "ok", "reason": ""} | others
    return ImageRow(path=path, label=label, split=split, **values)  # type: ignore[arg-type]


def pets() -> tuple[list[ImageRow], Features]:
    """Return 50 images of each class, and their features."""
    rows = [
        image(f"{label}/{number:02}.jpg", label, split)
        for label in LABELS
        for number, split in enumerate(SPLITS)
    ]
    return rows, features_like_vgg(np.repeat(np.arange(len(LABELS)), len(SPLITS)))


def mirrored(features: Features) -> Features:
    """Return rows as those of images that were flipped left to right, nearly."""
    return np.ascontiguousarray(features.reshape(-1, 512, 7, 7)[:, :, :, ::-1]).reshape(len(features), -1)


def compressed(features: Features, seed: int = 0, *, loss: float = 0.15) -> Features:
    """Return rows as those of images that were saved again at a lower quality."""
    noise = np.random.default_rng(seed).normal(1, loss, features.shape)
    return np.maximum(features * noise, 0).astype(np.float16)


def workspace_of(root: Path, rows: Sequence[ImageRow], features: Features) -> Workspace:
    """Make a workspace of usable rows; of copies, the features of the first count."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text("dataset: {source: ../photos}\nextract: {weights: random}\n")
    workspace = Workspace(root)
    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        first.setdefault(row.sha256, place)
    store = FeatureStore.create(workspace.store_folder, IDENTITY)
    store.add([RowKey(sha256) for sha256 in first], features[list(first.values())], {})
    write_manifest_and_index(workspace, list(rows))
    return workspace
