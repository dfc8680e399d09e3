"""The way from image files to features: decoded ahead, pushed through in batches.

Owns the order of work and who does it when, and none of what makes the features what they are.
It stores nothing. Results depend neither on the number of workers nor on the size of batches.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.features.backbone import Backbone, open_backbone
from pipeline.features.decoder import Decoded, decoded
from pipeline.features.lacking import Failure, Lacking, Located, located
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
    threads : int or None
        Threads of the forward pass on a CPU; None leaves their number to what runs it.
    """

    device: str = "auto"
    backend: str = "auto"
    batch_size: int | None = None
    workers: int | None = None
    timeout: float = TIMEOUT
    threads: int | None = None


#: Failures of a part of the images, and its batches: row keys and their features.
PartOfImages = tuple[list[Failure], Iterator[tuple[list[RowKey], Features]]]


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
        Time that went by so far waiting for images (``decode``), and for the ``forward`` pass.
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
            threads=execution.threads,
            storage=params.storage,
        )
        self._jpegs = None
        if params.decoder == "nvjpeg":
            from pipeline.features.torch_jpeg import JpegDecoder

            self._jpegs = JpegDecoder(params, execution.device)
        self._together: npt.NDArray[np.uint8] | None = None
        self.batch_size = execution.batch_size or self._backbone.batch_size
        self._workers = execution.workers or min(os.cpu_count() or 1, _MOST_WORKERS)
        self._timeout = execution.timeout
        self.made_with = self._backbone.made_with
        self.seconds = {"decode": 0.0, "forward": 0.0}
        self._computing = threading.Lock()  # a worker of a cluster may make two shards at a time

    def batches(
        self, wanted: Sequence[Lacking], root: Path, failures: list[Failure]
    ) -> Generator[tuple[list[RowKey], Features], None, None]:
        """Compute the features of images of the manifest.

        Parameters
        ----------
        wanted : sequence of Lacking
            Which views of which images. These are read and decoded in the background, a few batches ahead,
            each once for all its views.
        root : Path
            The source's folder.
        failures : list of Failure
            Images that cannot be read, or are not those of the manifest, are added to it.

        Yields
        ------
        done : list of RowKey, length n
            A batch of them, in the order of `wanted`; those of images that failed are left out.
        features : ndarray of `ExtractParams.storage`, shape (n, dimension)
            One row each.
        """
        with contextlib.closing(self.batches_of([wanted], root)) as parts:
            for failed, batches in parts:
                yield from batches
                failures += failed

    def batches_of(
        self, parts: Iterable[Sequence[Lacking]], root: Path
    ) -> Generator[PartOfImages, None, None]:
        """Compute the features of images in several parts; no batch has rows of two.

        Images are decoded ahead across the borders, so that nothing waits where a part begins.

        Yields
        ------
        failures : list of Failure
            Of the part; complete once its batches have been taken.
        batches : iterator
            What `batches` yields of it. To be taken before the next part.
        """
        of_files, of_views, here = itertools.tee((located(part, root) for part in parts), 3)
        images = self.decoded(
            (file for part in of_files for file in part.files),
            views=(
                {"views": each.views, "known": each.image.sha256} for part in of_views for each in part.wanted
            ),
        )
        pool = ThreadPoolExecutor(1, thread_name_prefix="forward")
        try:
            # one batch is pushed through while the next is collected, be it of the next part
            batches = _one_ahead(self._begun(here, images, pool))
            for part, those in itertools.groupby(batches, attrgetter("part")):
                yield part.failures, self._computed(those)
        finally:
            images.close()
            pool.shutdown(cancel_futures=True)

    def decoded(self, files: Iterable[Path], **views: Any) -> Generator[Decoded, None, None]:
        """Decode files to what the network sees, in processes that may die of it; see `decoded`."""
        how = {
            "workers": self._workers,
            "ahead": 2 * self.batch_size + self._workers,
            "timeout": self._timeout,
            **views,
        }
        if self._jpegs is not None and "by" not in views:
            return self._jpegs.decoded(files, **how)
        return decoded(files, self._params, **how)

    def forward(self, pixels: Sequence[npt.NDArray[np.uint8]]) -> Features:
        """Push images through, in batches; of `ExtractParams.storage`, shape (len(pixels), dimension)."""
        parts = []
        with self._computing:
            for batch in chunks(pixels, self.batch_size):
                if self._together is None:  # kept: fresh memory would take longer than what is copied into it
                    self._together = np.empty((self.batch_size, *batch[0].shape), np.uint8)
                together = np.stack(batch, out=self._together[: len(batch)])
                # channels last in memory, channels first by shape: what the fast kernels want
                parts.append(self._backbone(together.transpose(0, 3, 1, 2)))
        with np.errstate(over="ignore"):  # the store refuses what does not fit, by name
            features: Features = np.concatenate(parts).astype(self._params.storage, copy=False)
        return features

    def _begun(
        self, parts: Iterable[Located], images: Iterator[Decoded], pool: ThreadPoolExecutor
    ) -> Iterator[_Batch]:
        """Collect batches, and have them pushed through; a part without any has one without rows."""
        for part in parts:
            rows = _rows(part, images)
            first = [self._next_batch(rows)]
            others = iter(functools.partial(self._next_batch, rows), [])
            for batch in itertools.chain(first, others):
                pixels = [pixels for _, pixels in batch]
                features = pool.submit(self.forward, pixels) if pixels else None
                yield _Batch(part, [key for key, _ in batch], features)

    def _computed(self, batches: Iterator[_Batch]) -> Iterator[tuple[list[RowKey], Features]]:
        for batch in batches:
            if batch.features is not None:
                started = time.perf_counter()
                features = batch.features.result()
                self.seconds["forward"] += time.perf_counter() - started
                yield batch.keys, features

    def _next_batch(self, rows: Iterator[_Row]) -> list[_Row]:
        """Take rows until a batch is full: only the last is smaller."""
        started = time.perf_counter()
        batch = list(itertools.islice(rows, self.batch_size))
        self.seconds["decode"] += time.perf_counter() - started
        return batch


#: Of a row: its key, and what the network sees.
_Row = tuple[RowKey, npt.NDArray[np.uint8]]


class _Batch(NamedTuple):
    """Rows of a part, under way; none where nothing of it could be read."""

    part: Located
    keys: list[RowKey]
    features: Future[Features] | None


def _rows(part: Located, images: Iterator[Decoded]) -> Iterator[_Row]:
    """Take the images of a part, and give their views one by one."""
    for (row, views), image in zip(part.wanted, images, strict=False):  # `images` goes on with the next part
        if image.views is not None and image.verdict.sha256 == row.sha256:
            yield from zip((RowKey(row.sha256, view) for view in views), image.views, strict=True)
        else:
            part.failures.append(Failure(row.path, image.verdict.reason or "changed_since_prepare"))


def _one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Give each item once the next has been taken."""
    waiting: deque[Item] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into parts of `size`, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
