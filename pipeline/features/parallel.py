"""A few threads that read and hash at the same time: both leave Python to the others meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

# A few keep any disk busy, and each core hashes at 1.5 GB/s.
_THREADS = min(os.cpu_count() or 1, 8)

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Map with a few threads, in order; after an error, what has not begun is left undone."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="read")
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)
