"""Labelled images with their rows of features, and which of these heads learn from and are asked about.

Owns the order of rows (the manifest's), and the digests that tell one set of rows from another. It reads
nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.dataset.manifest import ImageRow, Manifest
from pipeline.dataset.splits import units
from pipeline.features.identity import Identity
from pipeline.features.store import RowKey
from pipeline.heads.derived import Derivation
from pipeline.params import Split
from pipeline.views import CENTER

Places = npt.NDArray[np.intp]


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
    views : tuple of str, length v
        What of each image is looked at.
    """

    y: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    images: tuple[ImageRow, ...]
    views: tuple[str, ...] = field(default=(CENTER,), kw_only=True)

    @property
    def keys(self) -> tuple[RowKey, ...]:
        """Where the features are in the store: n · v keys, an image's views one after another."""
        return keys_of(self.images, self.views)

    @property
    def paths(self) -> tuple[str, ...]:
        """The images, as the manifest names them."""
        return tuple(image.path for image in self.images)

    @property
    def digest(self) -> str:
        """Which rows these are, and under which labels (`digest_of_images`)."""
        return digest_of_images(self.images, self.views)

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
    X : ndarray of float16 or float32, shape (n, columns) or (n + n · v, columns)
        Finite. A memmap where it is larger than the memory that it may take. A row an image; where views are
        stacked, below these a row for each view of each image. Heads are always asked about the former, and
        where there are the latter, learn from them.
    """

    X: npt.NDArray[np.floating[Any]]

    @property
    def row_y(self) -> npt.NDArray[np.int64]:
        """The class of each row of `X`."""
        if not self._is_stacked:
            return self.y
        return np.concatenate([self.y, np.repeat(self.y, len(self.views))])

    @property
    def asked(self) -> npt.NDArray[np.floating[Any]]:
        """What heads are asked about, a row an image: a part of `X`."""
        return self.X[: len(self.y)]

    def learned(self, images: Places) -> Places:
        """Return the places in `X` of what is to be learned from some images, which are given by theirs."""
        if not self._is_stacked:
            return images
        n, v = len(self.y), len(self.views)
        return (n + images[:, None] * v + np.arange(v)).ravel()

    def all_learned(self) -> tuple[npt.NDArray[np.floating[Any]], npt.NDArray[np.int64]]:
        """Return what is to be learned from all images, a part of `X`, and the class of each row."""
        start = len(self.y) if self._is_stacked else 0
        return self.X[start:], self.row_y[start:]

    @property
    def _is_stacked(self) -> bool:
        return len(self.X) > len(self.y)


def digest_of_splits(manifest: Manifest, *splits: Split, views: Sequence[str] = (CENTER,)) -> str:
    """Return `digest_of_images` of splits, from the manifest alone."""
    return digest_of_images([row for row in manifest.usable if row.split in splits], views)


def factor_key(identity: Identity, rows_sha256: str, derivation: Derivation) -> str:
    """Say all that the factor of derived rows depends on."""
    return json.dumps([identity.as_dict(), rows_sha256, derivation.as_dict()], sort_keys=True)


def digest_of_rows(keys: Sequence[RowKey], labels: Sequence[str]) -> str:
    """Return the SHA-256 of row keys and labels in their order."""
    rows = [[key.sha256, key.view, label] for key, label in zip(keys, labels, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def digest_of_images(images: Sequence[ImageRow], views: Sequence[str]) -> str:
    """Return `digest_of_rows` of the views of images under their labels."""
    return digest_of_rows(keys_of(images, views), [image.label for image in images for _ in views])


def keys_of(images: Sequence[ImageRow], views: Sequence[str]) -> tuple[RowKey, ...]:
    """Return the row keys of images, an image's views one after another."""
    return tuple(RowKey(image.sha256, view) for image in images for view in views)
