from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.dataset.manifest import ImageRow, read_manifest, write_manifest
from pipeline.features.identity import DIMENSION, Identity
from pipeline.features.store import FeatureStore, RowKey
from pipeline.workspace import Workspace
from tests.index_file import write_index

CLASSES = ("cat", "dog", "owl")
PER_SPLIT = {"train": 12, "val": 4, "test": 4}  # images of each class

PARAMS = """\
seed: 7
extract: {weights: random}
heads:
  linear: {estimator: linear}
  logreg: {estimator: logreg}
  svm: {estimator: linear-svm}
  knn: {estimator: knn, params: {n_neighbors: 3}}
  bayes: {estimator: sklearn.naive_bayes.BernoulliNB, params: {alpha: 0.5}}
"""

IDENTITY = Identity(
    backbone="vgg16",
    weights_sha256="0" * 64,
    layer="avgpool.flatten",
    decoding="pillow, upright, RGB",
    resizing="bilinear, antialiased",
    resize=256,
    image_size=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    precision="half",
    storage="float16",
)


def features_like_vgg(codes: npt.NDArray[np.int64], seed: int = 0) -> npt.NDArray[np.float16]:
    """Rows that look like VGG16's: 85 % zeros, norm about 300; each class lights up columns of its own."""
    random = np.random.default_rng(seed)
    X = random.exponential(5, (len(codes), DIMENSION)) * (random.random((len(codes), DIMENSION)) < 0.15)
    for row, code in enumerate(codes):
        columns = random.permutation(400)[:200] + 400 * code
        X[row, columns] += random.exponential(12, 200)
    return X.astype(np.float16)


def image_rows() -> list[ImageRow]:
    """Usable rows, plus one that is not, sorted by path."""
    rows = []
    for label in CLASSES:
        splits = [split for split, count in PER_SPLIT.items() for _ in range(count)]
        for number, split in enumerate(splits):
            path = f"{label}/{number:02d}.jpg"
            sha256 = hashlib.sha256(path.encode()).hexdigest()
            rows.append(ImageRow(path, label, split, "", sha256, 9, 32, 32, "ok", ""))
    broken = ImageRow("dog/broken.jpg", "dog", "", "", "", 0, 0, 0, "quarantined", "empty")
    return sorted([*rows, broken], key=lambda row: row.path)


def write_manifest_and_index(workspace: Workspace, rows: list[ImageRow]) -> None:
    """Make `rows` the manifest, and say that the store holds them."""
    write_manifest(workspace.manifest_file, rows)
    write_index(workspace, IDENTITY, "random", read_manifest(workspace.manifest_file))


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    (root / "params.yaml").write_text(PARAMS)
    workspace = Workspace(root)
    rows = image_rows()
    usable = [row for row in rows if row.status == "ok"]
    X = features_like_vgg(np.array([CLASSES.index(row.label) for row in usable]))
    # Into the store in another order than the manifest's, over two shards.
    order = np.random.default_rng(1).permutation(len(usable))
    store = FeatureStore.create(workspace.store_folder, IDENTITY)
    for part in np.array_split(order, 2):
        store.add([RowKey(usable[row].sha256) for row in part], X[part], {})
    write_manifest_and_index(workspace, rows)
    return root


@pytest.fixture
def workspace(prepared_folder: Path, tmp_path: Path) -> Workspace:
    """A workspace of 60 images in three classes with their features, free to be changed."""
    root = tmp_path / "workspace"
    shutil.copytree(prepared_folder, root)
    return Workspace(root)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Hashes of the images whose features are read from the store from now on."""
    found: list[str] = []
    read = FeatureStore.read

    def watched(store: FeatureStore, keys: Sequence[RowKey], out: Any = None) -> Any:
        found.extend(key.sha256 for key in keys)
        return read(store, keys, out)

    monkeypatch.setattr(FeatureStore, "read", watched)
    return found


@pytest.fixture
def change_rows(workspace: Workspace) -> Callable[[Callable[[ImageRow], ImageRow]], None]:
    """Rewrite every row of the manifest, and the index with it."""

    def change(of: Callable[[ImageRow], ImageRow]) -> None:
        write_manifest_and_index(workspace, [of(row) for row in read_manifest(workspace.manifest_file).rows])

    return change


def relabelled(row: ImageRow, path: str, label: str) -> ImageRow:
    """Return `row`, under another label if it is the one at `path`."""
    return replace(row, label=label) if row.path == path else row
