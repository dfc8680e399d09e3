"""Features and labels, brought together by content hash into what a head learns from.

Owns the reading of features, whatever becomes of an image's views, and the coding of labels (the training
rows'). It never looks at an image, and never changes a feature.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.dataset.manifest import ImageRow, Manifest, read_manifest
from pipeline.errors import HeadError, MissingRows
from pipeline.features.identity import Identity
from pipeline.features.index import current_index
from pipeline.features.store import Features, FeatureStore, RowKey
from pipeline.heads.derived import Derivation
from pipeline.heads.labelled_rows import FeatureMatrix, LabelledRows, digest_of_splits, keys_of
from pipeline.heads.memory import Memory
from pipeline.params import Params, Split, read_params
from pipeline.views import CENTER, ViewUse
from pipeline.workspace import Workspace

# Rows that are whole in memory at once where only their pooled columns are kept: 51 MB.
_BLOCK = 512


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

    def digest(self, *splits: Split, use: ViewUse = "center") -> str:
        """Return the digest that the matrix of splits has, without reading it."""
        return digest_of_splits(self.manifest, *splits, views=self.views_of(use))

    def views_of(self, use: ViewUse) -> tuple[str, ...]:
        """Return the views that are looked at: the centre, or all that there are.

        Raises
        ------
        HeadError
            All are wanted, and there is only the centre.
        """
        if use == "center":
            return (CENTER,)
        if self.params.extract.views == (CENTER,):
            raise HeadError(
                f"views {use}: of each image there is only the view {CENTER}. Add another one to "
                f"extract.views in params.yaml, such as hflip, and run `pipeline extract`; or set views to "
                f"{CENTER}."
            )
        return self.params.extract.views

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
            A feature is not finite, a label has no training image, there are no positions to pool over, or no
            views beside the centre.
        MissingRows, DamagedShard
            The store cannot give every row.
        """
        rows = self.labels(*splits)
        if derivation is None:
            X = self.stored(rows)
        else:
            rows = replace(rows, views=self.views_of(derivation.views))
            self._require_stored(rows)
            count = len(rows.images) + (len(rows.keys) if derivation.views == "stack" else 0)
            X = self.memory.empty((count, derivation.columns(self.identity.dimension)), np.float32)
            self._derive(rows, derivation, X)
            _require_finite(X[: len(rows.images)], rows.images)
        return FeatureMatrix(rows.y, rows.classes, rows.images, X, views=rows.views)

    def stored(self, rows: LabelledRows, views: Sequence[str] = (CENTER,)) -> npt.NDArray[np.floating[Any]]:
        """Read features as they are stored, of the type that they are stored in.

        Parameters
        ----------
        rows : LabelledRows
            Of n images.
        views : sequence of str, length v
            What of each.

        Returns
        -------
        ndarray of float16 or float32, shape (n · v, dimension)
            An image's views one after another.

        Raises
        ------
        HeadError
            A feature is not finite.
        MissingRows, DamagedShard
            The store cannot give every row.
        """
        rows = replace(rows, views=tuple(views))
        self._require_stored(rows)
        X = self.memory.empty((len(rows.keys), self.identity.dimension), self.identity.storage)
        self.store.read(rows.keys, out=X)
        _require_finite(X, [image for image in rows.images for _ in views])
        return X

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
        held = self.store.holds(rows.keys).reshape(-1, len(rows.views))
        missing = [image.path for image, views in zip(rows.images, held, strict=True) if not views.all()]
        if missing:
            raise MissingRows(
                f"{self.store.folder} lacks the features of {len(missing)} of {len(rows.paths)} images "
                f"(first: {printable(missing[0])}). Run `pipeline extract`."
            )

    def _derive(self, rows: LabelledRows, derivation: Derivation, X: npt.NDArray[np.float32]) -> None:
        """Fill `X`: a row an image, and where views are stacked, a row a view."""
        if derivation.views == "center":
            self._derive_each(rows.keys, derivation, X)
            return
        self._derive_means(rows, derivation, X[: len(rows.images)])
        if derivation.views == "stack":
            self._derive_each(rows.keys, derivation, X[len(rows.images) :])

    def _derive_each(
        self, keys: Sequence[RowKey], derivation: Derivation, X: npt.NDArray[np.float32]
    ) -> None:
        """Fill `X` with a row a key, with no second matrix of full width beside it."""
        if derivation.pooling == "none":
            self.store.read(keys, out=X)
            if not derivation.is_raw:
                derivation.rows(X, out=X)
            return
        for places, block in self._blocks(keys):
            X[places] = derivation.rows(block)

    def _derive_means(self, rows: LabelledRows, derivation: Derivation, X: npt.NDArray[np.float32]) -> None:
        """Fill `X` with a row an image, summed view after view: so it does not depend on the shards."""
        for number, view in enumerate(rows.views):
            for places, block in self._blocks(keys_of(rows.images, (view,))):
                pooled = derivation.pooled(block)
                X[places] = X[places] + pooled if number else pooled
        derivation.finish_means(X, len(rows.views))

    def _blocks(self, keys: Sequence[RowKey]) -> Iterator[tuple[list[int], Features]]:
        buffer = np.empty((min(_BLOCK, len(keys)), self.identity.dimension), np.float32)
        return self.store.blocks(keys, buffer)


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
