"""Row keys as numbers: 16 bytes each, whatever they say, to look up millions of them.

Owns what a key becomes. Equal numbers are proved to be equal keys when a row is read.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.digests import CHARACTERS, Folded, fold
from pipeline.features.layout import RowKey


def prints_of(sha256: npt.NDArray[np.bytes_], view: npt.NDArray[np.bytes_]) -> Folded:
    """Return the prints of row keys, shape (n, 2), from the columns that a shard has of them."""
    prints = fold(sha256.view(np.uint8).reshape(len(sha256), CHARACTERS))
    if len(view) and (view == view[0]).all():  # as nearly always, and quicker than to sort them
        prints[:, 1] ^= of_view(view[0].decode())
        return prints
    for each in np.unique(view):
        prints[view == each, 1] ^= of_view(each.decode())
    return prints


def prints_of_keys(keys: Sequence[RowKey]) -> Folded:
    """Return the prints of row keys, shape (n, 2)."""
    # what is longer than any key of a shard must not become one by being cut
    texts = [key.sha256.encode(errors="replace") for key in keys]
    texts = [text if len(text) <= CHARACTERS else b"" for text in texts]
    columns = (
        np.array(texts, f"S{CHARACTERS}"),
        np.array([key.view.encode(errors="replace") for key in keys], "S"),
    )
    return prints_of(*columns)


@functools.cache
def of_view(view: str) -> np.uint64:
    """Return what the view of a key adds to its print."""
    return np.uint64(int.from_bytes(hashlib.sha256(view.encode()).digest()[:8], "little"))
