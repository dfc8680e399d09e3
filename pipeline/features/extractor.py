"""The way from image files to features: read and decode ahead, push through, in batches.

Owns the order of work and who does it when, and none of what makes the features what they are.
It stores nothing. Results depend neither on the number of threads nor on the size of batches.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pipeline.dataset.images import UndecodableImage, decode
from pipeline.dataset.manifest import ImageRow
from pipeline.dataset.sources import image_file
from pipeline.errors import ManifestError
from pipeline.features.store import SHARD_ROWS, Features
from pipeline.features.weights import Weights
from pipeline.params import ExtractParams

if TYPE_CHECKING:
    import torch

# A CPU's caches hold the activations of a few images: 4 at once were a tenth faster than 16.
_FAST_BATCH = {"cpu": 4, "mps": 16, "cuda": 64}

Item = TypeVar("Item")
Result = TypeVar("Result")


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
    device : {"auto", "cuda", "mps", "cpu"}
        Where the network runs.
    batch_size : int, optional
        Images pushed through at once; by default what is fast on the device.
    workers : int, optional
        Threads that read and decode.
    """

    def __init__(
        self,
        params: ExtractParams,
        weights: Weights,
        device: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        import torch
        import torchvision

        from pipeline.features.backbone import Backbone, choose_device

        self._params = params
        self._workers = workers or min(os.cpu_count() or 1, 8)
        chosen = choose_device(device)
        self.batch_size = batch_size or _FAST_BATCH[chosen.type]
        self._backbone = Backbone(weights, params.precision, chosen)
        self.made_with = {
            "device": self._backbone.device.type,
            "computed_in": str(self._backbone.dtype).removeprefix("torch."),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        }

    def shards(
        self,
        rows: Sequence[ImageRow],
        root: Path,
        failures: list[Failure],
        advance: Callable[[int], None],
    ) -> Iterator[tuple[list[ImageRow], Features]]:
        """Compute the features of images of the manifest, a shard at a time.

        Parameters
        ----------
        rows : sequence of ImageRow
            Which images. They are read and decoded in the background, a few batches ahead.
        root : Path
            The source's folder.
        failures : list of Failure
            Images that cannot be read, or are not those of the manifest, are added to it.
        advance : callable
            Told how many images are done, after each batch.

        Yields
        ------
        done : list of ImageRow, length n
            At most `SHARD_ROWS` images, in the order of `rows`; those that failed are left out.
        features : ndarray of `ExtractParams.storage`, shape (n, 25088)
            One row each.
        """

        def read(row: ImageRow) -> torch.Tensor | Failure:
            try:
                file = image_file(row.path, root)
                if not stat.S_ISREG(file.stat().st_mode):  # reading a FIFO would wait for ever
                    return Failure(row.path, "not a regular file")
                data = file.read_bytes()
                if hashlib.sha256(data).hexdigest() != row.sha256:
                    return Failure(row.path, "changed since `pipeline prepare`")
                return self.pixels(data)
            except (OSError, UndecodableImage, ManifestError) as error:
                return Failure(row.path, getattr(error, "strerror", None) or str(error))

        pool = ThreadPoolExecutor(self._workers, "decode")
        try:
            results = _map_ahead(pool, read, rows, 2 * self.batch_size + self._workers)
            for start in range(0, len(rows), SHARD_ROWS):
                done: list[ImageRow] = []
                parts: list[Features] = []
                for batch in chunks(rows[start : start + SHARD_ROWS], self.batch_size):
                    pixels = []
                    for row, result in zip(batch, results, strict=False):
                        if isinstance(result, Failure):
                            failures.append(result)
                        else:
                            done.append(row)
                            pixels.append(result)
                    if pixels:
                        parts.append(self.forward(pixels))
                    advance(len(batch))
                if parts:
                    yield done, np.concatenate(parts)
        finally:  # also when interrupted: nobody waits for what has not begun
            pool.shutdown(cancel_futures=True)

    def pixels(self, data: bytes) -> torch.Tensor:
        """Decode one file to what the network sees: uint8, shape (3, image_size, image_size).

        Raises
        ------
        UndecodableImage
            It is not an image that can be decoded.
        """
        from pipeline.features.transforms import to_pixels

        return to_pixels(decode(data), self._params.resize, self._params.image_size)

    def forward(self, pixels: Sequence[torch.Tensor]) -> Features:
        """Push decoded images through: `ExtractParams.storage`, shape (len(pixels), 25088)."""
        import torch

        features = self._backbone(torch.stack(list(pixels))).numpy()
        with np.errstate(over="ignore"):  # the store refuses what does not fit, by name
            return features.astype(self._params.storage)


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item], depth: int
) -> Iterator[Result]:
    """Map in the background and in order, at most `depth` results ahead of their use."""
    source = iter(items)
    waiting: deque[Future[Result]] = deque(
        pool.submit(function, item) for item in itertools.islice(source, depth)
    )
    while waiting:
        result = waiting.popleft().result()
        waiting.extend(pool.submit(function, item) for item in itertools.islice(source, 1))
        yield result


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Cut a sequence into parts of `size`, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
