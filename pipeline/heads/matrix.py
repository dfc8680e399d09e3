"""Features and labels, brought together by content hash into what a head learns from.

Owns the order of rows (the manifest's) and the coding of labels (the training rows'). It
never looks at an image, and never changes a feature.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.dataset.manifest import ImageRow, Manifest, read_manifest
from pipeline.dataset.splits import units
from pipeline.errors import HeadError, MissingRows
from pipeline.features.identity import Identity
from pipeline.features.index import current_index
from pipeline.features.store import FeatureStore, RowKey
from pipeline.heads.derived import Derivation
from pipeline.heads.memory import Memory
from pipeline.params import Params, Split, read_params
from pipeline.workspace import Workspace

# Rows that are whole in memory at once where only their pooled columns are kept: 51 MB.
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """What is known of the rows of one split, or of several, without their features.

    Attributes
    ----------
    y : ndarray of int64, shape (n,)
        Positions in `classes`.
    classes : tuple of str, length k
        Labels of the training rows, sorted; the same for every split.
    images : tuple of ImageRow, length n
        What the manifest says of each row, in its order.
    """

    y: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    images: tuple[ImageRow, ...]

    @property
    def keys(self) -> tuple[RowKey, ...]:
        """Where each row is in the feature store; the hash of each image."""
        return _keys(self.images)

    @property
    def paths(self) -> tuple[str, ...]:
        """The images, as the manifest names them."""
        return tuple(image.path for image in self.images)

    @property
    def digest(self) -> str:
        """Which rows these are, and under which labels (`digest_of_rows`)."""
        return digest_of_rows(self.keys, [image.label for image in self.images])

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """Number of each row's group, shape (n,): equal for rows that no fold may part.

        Those are exact duplicates, and rows of one group in the manifest, linked directly or through
        others.
        """
        number = {image.path: place for place, unit in enumerate(units(self.images)) for image in unit.rows}
        return np.array([number[image.path] for image in self.images], np.int64)


@dataclass(frozen=True, eq=False)
class FeatureMatrix(LabelledRows):
    """The same with features.

    Attributes
    ----------
    X : ndarray of float16 or float32, shape (n, columns)
        Finite. A memmap where it is larger than the memory that it may take.
    """

    X: npt.NDArray[np.floating[Any]]


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
    memory : Memory
        What the matrices may take.
    """

    params: Params
    manifest: Manifest
    store: FeatureStore
    classes: tuple[str, ...]
    memory: Memory = field(repr=False)

    @classmethod
    def open(cls, workspace: Workspace, memory: int | None = None) -> LabelledFeatures:
        """Open what a workspace has.

        Parameters
        ----------
        workspace : Workspace
            With a manifest and features.
        memory : int, optional
            Bytes; larger matrices go to a mapped file under ``cache/``. By default half of what is free.

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
        return cls.of(workspace, params, manifest, store, memory)

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        params: Params,
        manifest: Manifest,
        store: FeatureStore,
        memory: int | None = None,
    ) -> LabelledFeatures:
        """Take what a workspace has, with the features of any store; whether these are there is seen later.

        Raises
        ------
        HeadError
            The training rows have fewer than two classes.
        """
        classes = tuple(sorted({row.label for row in manifest.of_split("train")}))
        if len(classes) < 2:
            found = f"only {classes[0]!r}" if classes else "no training image"
            raise HeadError(
                f"{workspace.manifest_file}: a head needs training images of at least two classes, "
                f"found {found}. Add images of another class, or change dataset.split, "
                f"and run `pipeline prepare` again."
            )
        return cls(params, manifest, store, classes, Memory.of(workspace.store_folder.parent, memory))

    @property
    def identity(self) -> Identity:
        """The extractor whose features these are."""
        return self.store.identity

    def digest(self, *splits: Split) -> str:
        """Return the digest that the matrix of splits has, without reading it."""
        return digest_of_splits(self.manifest, *splits)

    def matrix(self, *splits: Split, derivation: Derivation | None = None) -> FeatureMatrix:
        """Read the features and labels of one split, or of several together.

        Parameters
        ----------
        *splits : {"train", "val", "test"}
            Which rows.
        derivation : Derivation, optional
            What they become, in float32. By default they stay as they are stored, type included.

        Returns
        -------
        FeatureMatrix
            With no row where the split is empty.

        Raises
        ------
        HeadError
            A feature is not finite, a label has no training image, or there are no positions to pool over.
        MissingRows, DamagedShard
            The store cannot give every row.
        """
        rows = self.labels(*splits)
        self._require_stored(rows)
        keys = rows.keys
        if derivation is None:
            X = self.memory.empty((len(keys), self.identity.dimension), self.identity.storage)
            self.store.read(keys, out=X)
        else:
            X = self.memory.empty((len(keys), derivation.columns(self.identity.dimension)), np.float32)
            self._derive(keys, derivation, X)
        _require_finite(X, rows.images)
        return FeatureMatrix(rows.y, rows.classes, rows.images, X)

    def labels(self, *splits: Split) -> LabelledRows:
        """Return what `matrix` does, without reading a feature.

        Raises
        ------
        HeadError
            A label has no training image.
        """
        images = tuple(image for image in self.manifest.usable if image.split in splits)
        code = {label: position for position, label in enumerate(self.classes)}
        unknown = Counter(image.label for image in images if image.label not in code)
        if unknown:
            found = ", ".join(f"{label!r} ({count})" for label, count in sorted(unknown.items()))
            raise HeadError(
                f"{' and '.join(splits)}: images of classes that have no training image, so that no head "
                f"can name them: {found}. Add training images, or run `pipeline prepare --resplit`."
            )
        y = np.array([code[image.label] for image in images], np.int64)
        return LabelledRows(y, self.classes, images)

    def _require_stored(self, rows: LabelledRows) -> None:
        """Refuse rows without features by the names of their images; the store knows hashes only."""
        stored = self.store.keys()
        missing = [path for path, key in zip(rows.paths, rows.keys, strict=True) if key not in stored]
        if missing:
            raise MissingRows(
                f"{self.store.folder} lacks the features of {len(missing)} of {len(rows.paths)} images "
                f"(first: {printable(missing[0])}). Run `pipeline extract`."
            )

    def _derive(self, keys: Sequence[RowKey], derivation: Derivation, X: npt.NDArray[np.float32]) -> None:
        """Fill `X`, with no second matrix of full width beside it."""
        if derivation.pooling == "none":
            self.store.read(keys, out=X)
            if not derivation.is_raw:
                derivation.rows(X, out=X)
            return
        buffer = np.empty((min(_BLOCK, len(keys)), self.identity.dimension), np.float32)
        for places, block in self.store.blocks(keys, buffer):
            X[places] = derivation.rows(block)


def digest_of_splits(manifest: Manifest, *splits: Split) -> str:
    """Return `digest_of_rows` of splits, from the manifest alone."""
    rows = [row for row in manifest.usable if row.split in splits]
    return digest_of_rows(_keys(rows), [row.label for row in rows])


def factor_key(identity: Identity, rows_sha256: str, derivation: Derivation) -> str:
    """Say all that the factor of derived rows depends on."""
    return json.dumps([identity.as_dict(), rows_sha256, asdict(derivation)], sort_keys=True)


def digest_of_rows(keys: Sequence[RowKey], labels: Sequence[str]) -> str:
    """Return the SHA-256 of row keys and labels in their order."""
    rows = [[key.sha256, key.view, label] for key, label in zip(keys, labels, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _keys(images: Sequence[ImageRow]) -> tuple[RowKey, ...]:
    return tuple(RowKey(image.sha256) for image in images)


def _require_finite(X: npt.NDArray[np.floating[Any]], images: Sequence[ImageRow]) -> None:
    """Refuse what is not finite.

    Without a sign bit and below infinity, bits are those of finite numbers, as nearly all features are:
    one look at the largest, 20 times as fast as asking NumPy of each number.
    """
    bits = X.view(f"u{X.dtype.itemsize}")
    infinity = np.array(np.inf, X.dtype).view(bits.dtype)
    if not X.size or bits.max() < infinity:
        return
    bad = np.flatnonzero([not np.isfinite(row).all() for row in X])
    if bad.size:
        raise HeadError(
            f"{printable(images[bad[0]].path)}: its features hold numbers that are not finite "
            f"({bad.size} of {len(images)} images are so). "
            f"Set extract.storage to float32, or check extract.weights, and run `pipeline extract`."
        )
