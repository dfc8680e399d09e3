"""Features and labels, brought together by content hash into what a head learns from.

Owns the order of rows (the manifest's) and the coding of labels (the training rows'). It
never looks at an image, and never changes a feature.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.dataset.manifest import Manifest, read_manifest
from pipeline.errors import HeadError
from pipeline.features.identity import Identity
from pipeline.features.index import current_index
from pipeline.features.store import FeatureStore, RowKey
from pipeline.params import Params, Split, read_params
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class FeatureMatrix:
    """Rows of one split, in manifest order.

    Attributes
    ----------
    X : ndarray of float32, shape (n, 25088)
        Finite; 0 or greater, as they leave a rectifier.
    y : ndarray of int64, shape (n,)
        Positions in `classes`.
    classes : tuple of str, length k
        Labels of the training rows, sorted; the same for every split.
    keys : tuple of RowKey, length n
        Where each row is in the feature store.
    paths : tuple of str, length n
        The images, as the manifest names them.
    """

    X: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    keys: tuple[RowKey, ...]
    paths: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Which rows these are, and under which labels (`digest_of_rows`)."""
        return digest_of_rows(self.keys, [self.classes[code] for code in self.y.tolist()])


@dataclass(frozen=True)
class LabelledFeatures:
    """A workspace's manifest and feature store, found to agree with each other.

    Attributes
    ----------
    params : Params
        Of the workspace.
    manifest : Manifest
        Labels and splits.
    store : FeatureStore
        Features.
    classes : tuple of str
        Labels of the training rows, sorted.
    """

    params: Params
    manifest: Manifest
    store: FeatureStore
    classes: tuple[str, ...]

    @classmethod
    def open(cls, workspace: Workspace) -> LabelledFeatures:
        """Open what a workspace has.

        Raises
        ------
        ManifestError
            There is no manifest, or it is malformed.
        MissingRows, IdentityMismatch
            The features are not those of the manifest, or of what ``params.yaml`` asks for.
        HeadError
            The training rows have fewer than two classes.
        """
        params = read_params(workspace.params_file)
        manifest = read_manifest(workspace.manifest_file)
        index = current_index(workspace, params, manifest)
        store = FeatureStore.open(workspace.store_folder, index.identity)
        classes = tuple(sorted({row.label for row in manifest.of_split("train")}))
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "no training image"
            raise HeadError(
                f"{workspace.manifest_file}: a head needs training images of at least two classes, "
                f"found {found}. Add images of another class, or change dataset.split, "
                f"and run `pipeline prepare` again."
            )
        return cls(params, manifest, store, classes)

    @property
    def identity(self) -> Identity:
        """The extractor whose features these are."""
        return self.store.identity

    @property
    def training_digest(self) -> str:
        """The digest that the matrix of the training split has, without reading it."""
        return digest_of_split(self.manifest, "train")

    def matrix(self, split: Split) -> FeatureMatrix:
        """Read the features and labels of one split.

        Returns
        -------
        FeatureMatrix
            With no row where the split is empty.

        Raises
        ------
        HeadError
            A feature is not finite, or a label of this split has no training image.
        MissingRows, DamagedShard
            The store cannot give every row.
        """
        rows = self.manifest.of_split(split)
        code = {label: position for position, label in enumerate(self.classes)}
        unknown = Counter(row.label for row in rows if row.label not in code)
        if unknown:
            found = ", ".join(f"{label!r} ({count})" for label, count in sorted(unknown.items()))
            raise HeadError(
                f"{split}: images of classes that have no training image, so that no head can name them: "
                f"{found}. Add training images, or run `pipeline prepare --resplit`."
            )
        keys = tuple(RowKey(row.sha256) for row in rows)
        paths = tuple(row.path for row in rows)
        X = self.store.read(keys).astype(np.float32, copy=False)  # (n, 25088)
        y = np.array([code[row.label] for row in rows], np.int64)  # (n,)
        _require_finite(X, paths)
        return FeatureMatrix(X, y, self.classes, keys, paths)


def digest_of_split(manifest: Manifest, split: Split) -> str:
    """Return `digest_of_rows` of one split, from the manifest alone."""
    rows = manifest.of_split(split)
    return digest_of_rows([RowKey(row.sha256) for row in rows], [row.label for row in rows])


def digest_of_rows(keys: Sequence[RowKey], labels: Sequence[str]) -> str:
    """Return the SHA-256 of row keys and labels in their order."""
    rows = [[key.sha256, key.view, label] for key, label in zip(keys, labels, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _require_finite(X: npt.NDArray[np.float32], paths: tuple[str, ...]) -> None:
    bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
    if bad.size:
        raise HeadError(
            f"{printable(paths[bad[0]])}: its features hold numbers that are not finite "
            f"({bad.size} of {len(paths)} images are so). "
            f"Set extract.storage to float32, or check extract.weights, and run `pipeline extract`."
        )
