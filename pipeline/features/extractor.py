"""The way from image files to features: decoded ahead, pushed through in batches.

Owns the order of work and who does it when, and none of what makes the features what they are.
It stores nothing. Results depend neither on the number of workers nor on the size of batches.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.sources import image_file
from pipeline.errors import ManifestError
from pipeline.features.backbone import Backbone, open_backbone
from pipeline.features.decoder import Decoded, decoded
from pipeline.features.store import Features, RowKey
from pipeline.features.weights import Weights
from pipeline.params import ExtractParams
from pipeline.workers import TIMEOUT

# Decoding keeps up with a CPU's forward pass from one process, with a fast GPU's from every core there is.
_MOST_WORKERS = 32

Item = TypeVar("Item")


@dataclass(frozen=True)
class Execution:
    """How the network is run: what changes speed and memory only.

    Attributes
    ----------
    device : {"auto", "cuda", "mps", "cpu"}
        Where the network runs.
    backend : {"auto", "torch", "openvino"}
        What runs it.
    batch_size : int or None
        Images pushed through at once; None for what is fast on the device.
    workers : int or None
        Processes that read and decode; None for one a processor, at most 32.
    timeout : float
        Seconds that one image may take to read and decode.
    """

    device: str = "auto"
    backend: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    timeout: float = TIMEOUT


class Lacking(NamedTuple):
    """An image, and which of its views have no features yet."""

    image: ImageRow
    views: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """An image that passed ``prepare`` and could not be read again."""

    path: str
    reason: str


class Extractor:
    """The way from image files to features in the type that is stored.

    Parameters
    ----------
    params : ExtractParams
        What makes the features what they are.
    weights : Weights
        What `params` call their weights.
    execution : Execution
        How it is done.
    quantised : Path, optional
        The network of precision ``int8``.
    backbone : Backbone, optional
        What images are pushed through in the place of the network that `params` ask for: a part of it.

    Attributes
    ----------
    batch_size : int
        Images pushed through at once.
    made_with : dict of str to str
        Device and versions, to be recorded with the features.
    seconds : dict of str to float
        Time that went by so far waiting for ``decode``, and in the ``forward`` pass.
    """

    def __init__(
        self,
        params: ExtractParams,
        weights: Weights,
        execution: Execution,
        quantised: Path | None = None,
        backbone: Backbone | None = None,
    ) -> None:
        self._params = params
        self._backbone = backbone or open_backbone(
            weights,
            params.precision,
            device=execution.device,
            backend=execution.backend,
            quantised=quantised,
        )
        self.batch_size = execution.batch_size or self._backbone.batch_size
        self._workers = execution.workers or min(os.cpu_count() or 1, _MOST_WORKERS)
        self._timeout = execution.timeout
        self.made_with = self._backbone.made_with
        self.seconds = {"decode": 0.0, "forward": 0.0}

    def batches(
        self, lacking: Sequence[Lacking], root: Path, failures: list[Failure]
    ) -> Generator[tuple[list[RowKey], Features], None, None]:
        """Compute the features of images of the manifest.

        Parameters
        ----------
        lacking : sequence of Lacking
            Which views of which images. These are read and decoded in the background, a few batches ahead,
            each once for all its views.
        root : Path
            The source's folder.
        failures : list of Failure
            Images that cannot be read, or are not those of the manifest, are added to it.

        Yields
        ------
        done : list of RowKey, length n
            A batch of them, in the order of `lacking`; those of images that failed are left out.
        features : ndarray of `ExtractParams.storage`, shape (n, dimension)
            One row each.
        """
        with contextlib.closing(self._rows(lacking, root, failures)) as rows:
            while batch := self._next_batch(rows):
                yield [key for key, _ in batch], self.forward([pixels for _, pixels in batch])

    def decoded(self, files: Iterable[Path], **views: Any) -> Generator[Decoded, None, None]:
        """Decode files to what the network sees, in processes that may die of it; see `decoded`."""
        ahead = 2 * self.batch_size + self._workers
        return decoded(
            files, self._params, workers=self._workers, ahead=ahead, timeout=self._timeout, **views
        )

    def forward(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> Features:
        """Push images through, in batches; of `ExtractParams.storage`, shape (len(pixels), dimension)."""
        started = time.perf_counter()
        parts = [
            # channels last in memory, channels first by shape: what the fast kernels want
            self._backbone(np.stack(batch).transpose(0, 3, 1, 2))
            for batch in chunks(pixels, self.batch_size)
        ]
        with np.errstate(over="ignore"):  # the store refuses what does not fit, by name
            features: Features = np.concatenate(parts).astype(self._params.storage, copy=False)
        self.seconds["forward"] += time.perf_counter() - started
        return features

    def _next_batch(
        self, rows: Iterator[tuple[RowKey, npt.NDArray[np.uint8]]]
    ) -> list[tuple[RowKey, npt.NDArray[np.uint8]]]:
        """Take rows until a batch is full: only the last is smaller."""
        started = time.perf_counter()
        batch = list(itertools.islice(rows, self.batch_size))
        self.seconds["decode"] += time.perf_counter() - started
        return batch

    def _rows(
        self, lacking: Sequence[Lacking], root: Path, failures: list[Failure]
    ) -> Generator[tuple[RowKey, npt.NDArray[np.uint8]], None, None]:
        """Decode images, and give their views one by one."""
        found, files = self._located(lacking, root, failures)
        with contextlib.closing(
            self.decoded(files, views=({"views": each.views} for each in found))
        ) as images:
            for (row, views), image in zip(found, images, strict=True):
                if image.views is not None and image.verdict.sha256 == row.sha256:
                    yield from zip((RowKey(row.sha256, view) for view in views), image.views, strict=True)
                else:
                    failures.append(Failure(row.path, image.verdict.reason or "changed_since_prepare"))

    def _located(
        self, lacking: Sequence[Lacking], root: Path, failures: list[Failure]
    ) -> tuple[list[Lacking], list[Path]]:
        """Find the files of images; a path that leads out of the source is a failure."""
        found, files = [], []
        for each in lacking:
            try:
                files.append(image_file(each.image.path, root))
                found.append(each)
            except ManifestError as error:
                failures.append(Failure(each.image.path, str(error)))
        return found, files


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into parts of `size`, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
