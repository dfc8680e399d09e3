"""The unit of work of stage one: images in, one immutable shard and its row keys out.

Owns that unit, and who does it in a run on this machine: one stream, so that the images of the next
shard are decoded, and the last one is written, while the network computes. A cluster has many processes
do the same (`pipeline.features.on_cluster`). Which images are missing, and what is written down
about the whole, is not its business.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.lacking import Failure, Lacking
from pipeline.features.shard_writer import ShardWriter, rows_in_shard
from pipeline.features.store import FeatureStore
from pipeline.views import VIEWS

#: Begins the reason of an image that there is nothing wrong with: its shard could not be made.
NOT_COMPUTED = "not_computed: "


@dataclass(frozen=True)
class Shard:
    """What became of the images of a shard.

    Attributes
    ----------
    name : str
        Its file in the store, whole and synced; empty where none of the images could be read.
    rows : int
        How many it has, in the order of the images; it holds their keys itself.
    failures : tuple of Failure
        The other images.
    """

    name: str
    rows: int
    failures: tuple[Failure, ...]


class ShardMaker:
    """The way from images to shards.

    Parameters
    ----------
    extractor : Extractor
        Computes the features.
    store : FeatureStore
        Gets the shards. Whoever has the whole in hand holds it for writing.
    root : Path
        The folder of the images.
    """

    def __init__(self, extractor: Extractor, store: FeatureStore, root: Path) -> None:
        self._extractor = extractor
        self._store = store
        self._root = root
        self._write_seconds = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Time that went by waiting for images, in the forward pass, and waiting for the disk."""
        return {**self._extractor.seconds, "write": self._write_seconds}

    def make(
        self, parts: Iterable[Sequence[Lacking]], advance: Callable[[int], object] = lambda rows: None
    ) -> Generator[Shard, None, None]:
        """Make one shard of each part of the images.

        However that ends (done, Ctrl-C, a device out of memory), the rows computed so far are stored.

        Parameters
        ----------
        parts : iterable of sequence of Lacking
            Of no more rows each than a shard has (`rows_in_shard`), or those of one image.
        advance : callable, optional
            Called with the number of rows just computed.

        Yields
        ------
        Shard
            One for each of `parts`, in their order, each when it is on disk.

        Raises
        ------
        StoreError
            A feature is not finite, or does not fit the type that is stored.
        OSError
            The disk is full, or the like.
        DeviceError
            The device has not the memory for a single image.
        """
        rows = max(rows_in_shard(self._store.identity), len(VIEWS))  # an image's views are in one shard
        begun: deque[tuple[int, tuple[Failure, ...]]] = deque()  # not on disk yet
        with (
            ShardWriter(self._store, self._extractor.made_with, rows) as writer,
            contextlib.closing(self._extractor.batches_of(parts, self._root)) as computed,
        ):
            for failures, batches in computed:
                count = 0
                for keys, features in batches:
                    writer.add(keys, features)
                    count += len(keys)
                    advance(len(keys))
                writer.flush()
                begun.append((count, tuple(failures)))
                yield from _on_disk(begun, writer.written)
            writer.wait()
            yield from _on_disk(begun, writer.written)
            self._write_seconds += writer.seconds


def _on_disk(
    begun: deque[tuple[int, tuple[Failure, ...]]], written: deque[Path]
) -> Generator[Shard, None, None]:
    while begun and (written or not begun[0][0]):
        rows, failures = begun.popleft()
        yield Shard(written.popleft().name if rows else "", rows, failures)


class Engine(Protocol):
    """Who makes shards."""

    def ready(self, extraction: Extraction, store: Path) -> None:
        """See that it can be done, before anything is given up for it."""

    def made(
        self,
        extraction: Extraction,
        store: FeatureStore,
        parts: Sequence[Sequence[Lacking]],
        advance: Callable[[int], object],
    ) -> Generator[Shard, None, None]:
        """Make one shard of each part of the images, in any order; see `ShardMaker.make`."""

    @property
    def seconds(self) -> dict[str, float]:
        """Where the time went, as far as that is known."""


class ThisMachine:
    """Shards made by this process, one after the other; see `Engine`.

    Parameters
    ----------
    execution : Execution
        What changes speed and memory only.
    """

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._extractor: Extractor | None = None
        self.seconds: dict[str, float] = {}

    def ready(self, extraction: Extraction, store: Path) -> None:
        """Set the network up."""
        self._extractor = self._extractor or extraction.extractor(self._execution)

    def made(
        self,
        extraction: Extraction,
        store: FeatureStore,
        parts: Sequence[Sequence[Lacking]],
        advance: Callable[[int], object],
    ) -> Generator[Shard, None, None]:
        """Make shards, in the order of the parts."""
        extractor = self._extractor or extraction.extractor(self._execution)
        maker = ShardMaker(extractor, store, extraction.root)
        yield from maker.make(parts, advance)
        self.seconds = maker.seconds
