"""Rows in, shards out: collected, and written in the background while the next are computed.

Owns what is computed and not yet stored. Which rows, and what they are, is not its business.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.errors import StoreError
from pipeline.features.identity import Identity
from pipeline.features.store import SHARD_ROWS, Features, FeatureStore, RowKey

# Bytes of features in a shard at most, where rows are longer than the features of any network.
_SHARD_BYTES = 1 << 26
# Full shards that may wait for the disk: two, so that one slow write holds up nothing.
_WAITING = 2


def rows_in_shard(identity: Identity) -> int:
    """Return how many rows a full shard has."""
    return max(1, min(SHARD_ROWS, _SHARD_BYTES // identity.row_bytes))


class ShardWriter:
    """Write rows to a store, a full shard at a time.

    Used in a ``with`` statement. However that ends (done, Ctrl-C, a device out of memory), rows
    that were added are stored, in a last shard that is smaller; unless it is the writing that failed.

    Parameters
    ----------
    store : FeatureStore
        Held for writing.
    made_with : dict of str to str
        Recorded with each shard.
    rows : int, optional
        That fill a shard; by default `rows_in_shard`.

    Attributes
    ----------
    written : deque of Path
        The shards on disk, in the order of their rows; for its user to take away.
    seconds : float
        Time that its user waited for the disk.
    """

    def __init__(self, store: FeatureStore, made_with: dict[str, str], rows: int | None = None) -> None:
        self._store = store
        self._made_with = made_with
        self._rows = rows or rows_in_shard(store.identity)
        self._keys: list[RowKey] = []
        self._features = self._empty()
        self._writing: deque[Future[Any]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self.written: deque[Path] = deque()
        self.seconds = 0.0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, OSError | StoreError):  # a full disk takes no last shard either
                self.flush()
            self.wait()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def add(self, keys: Sequence[RowKey], features: Features) -> None:
        """Take rows in; what fills a shard is written.

        Raises
        ------
        StoreError, OSError
            What an earlier shard's writing raised.
        """
        taken = 0
        while taken < len(keys):
            start = len(self._keys)
            count = min(self._rows - start, len(keys) - taken)
            self._features[start : start + count] = features[taken : taken + count]
            self._keys.extend(keys[taken : taken + count])
            taken += count
            if len(self._keys) == self._rows:
                self.flush()

    def flush(self) -> None:
        """Have the rows that were added so far written, be it a full shard or not.

        Raises
        ------
        StoreError, OSError
            What an earlier shard's writing raised.
        """
        if self._keys:
            self.wait(_WAITING)  # after a shard that could not be written, no other is begun
            keys, features = self._keys, self._features[: len(self._keys)]
            self._keys, self._features = [], self._empty()
            self._writing.append(self._pool.submit(self._store.add, keys, features, self._made_with))
        self.wait(_WAITING)

    def wait(self, most: int = 0) -> None:
        """Wait until at most `most` shards are on their way, and raise what the writing of one raised."""
        started = time.perf_counter()
        while len(self._writing) > most or (self._writing and self._writing[0].done()):
            self.written.append(self._writing.popleft().result())
        self.seconds += time.perf_counter() - started

    def _empty(self) -> Features:
        identity = self._store.identity
        return np.empty((self._rows, identity.dimension), identity.storage)
