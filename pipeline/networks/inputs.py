"""What the part that learns is given: rows that are held, or images that are pushed through what is frozen.

Owns the way of a batch to the training loop. It learns nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.console import printable
from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.sources import image_file
from pipeline.errors import SourceError
from pipeline.features.decoder import Decoded
from pipeline.features.extractor import Extractor

#: Places of images, of one batch.
Places = npt.NDArray[np.int64]
#: float16 or float32, shape (m, numbers of an image).
Batch = npt.NDArray[np.floating[Any]]


class Inputs(Protocol):
    """Images of one split, as the part that learns is given them."""

    def batches(self, order: Sequence[Places], epoch: int) -> Generator[Batch, None, None]:
        """Give batch after batch.

        Parameters
        ----------
        order : sequence of ndarray of int64
            Places of the images of each batch.
        epoch : int
            Which pass over the images this is.

        Raises
        ------
        SourceError
            An image cannot be read, or is not that of the manifest.
        """


class HeldInputs:
    """Rows in memory, or mapped from a file.

    Parameters
    ----------
    X : ndarray of float16 or float32, shape (n, numbers of an image)
    """

    def __init__(self, X: Batch) -> None:
        self._X = X

    def batches(self, order: Sequence[Places], epoch: int) -> Generator[Batch, None, None]:
        """Give batch after batch; see `Inputs`."""
        for places in order:
            yield self._X[places]


class ImageInputs:
    """Images, decoded ahead and pushed through what is frozen, anew in each epoch.

    Parameters
    ----------
    images : sequence of ImageRow, length n
    root : Path
        Their folder.
    extractor : Extractor
        What is frozen.
    seed : int, optional
        Where it is given, images are augmented: each one otherwise in each epoch.
    """

    def __init__(
        self, images: Sequence[ImageRow], root: Path, extractor: Extractor, seed: int | None = None
    ) -> None:
        self._images, self._root, self._extractor, self._seed = images, root, extractor, seed

    def batches(self, order: Sequence[Places], epoch: int) -> Generator[Batch, None, None]:
        """Give batch after batch; see `Inputs`."""
        places = [place for batch in order for place in batch.tolist()]
        files = (image_file(self._images[place].path, self._root) for place in places)
        views = {}
        if self._seed is not None:
            seeds = ({"seed": [self._seed, epoch, place]} for place in places)
            views = {"views": seeds, "by": "pipeline.networks.augmentation"}
        with contextlib.closing(self._extractor.decoded(files, **views)) as decoded:
            for batch in order:
                pixels = [_pixels(self._images[place], next(decoded)) for place in batch.tolist()]
                yield self._extractor.forward(pixels)


def in_order(count: int, size: int) -> list[Places]:
    """Cut so many places into batches, in their order."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def _pixels(row: ImageRow, image: Decoded) -> npt.NDArray[np.uint8]:
    if image.pixels is None or image.verdict.sha256 != row.sha256:
        raise SourceError(
            f"{printable(row.path)}: {image.verdict.reason or 'changed_since_prepare'}, and the network "
            f"cannot be trained without it. Run `pipeline prepare --rehash`, which looks at every image anew."
        )
    return image.pixels
