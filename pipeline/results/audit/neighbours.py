"""The rows nearest to each row, found in blocks of inner products.

Owns the search. N rows take N² products, but never the memory for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.float32]

# Numbers in a block of products: 64 MB.
_BLOCK = 16_000_000


@dataclass(frozen=True)
class Neighbours:
    """Of each of n rows the k nearest others, the nearest first.

    Attributes
    ----------
    places : ndarray of int64, shape (n, k)
    cosines : ndarray of float32, shape (n, k)
    """

    places: npt.NDArray[np.int64]
    cosines: Rows


def nearest(X: Rows, k: int) -> Neighbours:
    """Find the nearest neighbours by cosine.

    Parameters
    ----------
    X : ndarray of float32, shape (n, columns)
        Of length 1, or 0: such a row is at cosine 0 to all.
    k : int
        How many; less if there are not so many others.
    """
    n = len(X)
    k = max(0, min(k, n - 1))
    places = np.empty((n, k), np.int64)
    cosines = np.empty((n, k), np.float32)
    if not k:
        return Neighbours(places, cosines)
    step = max(1, _BLOCK // n)
    for start in range(0, n, step):
        products = X[start : start + step] @ X.T  # (block, n)
        here = np.arange(len(products))
        products[here, start + here] = -np.inf
        found = np.argpartition(products, n - k, axis=1)[:, n - k :]
        values = np.take_along_axis(products, found, axis=1)
        order = np.lexsort((found, -values), axis=1)  # among equals, the first row
        places[start : start + step] = np.take_along_axis(found, order, axis=1)
        cosines[start : start + step] = np.take_along_axis(values, order, axis=1)
    return Neighbours(places, cosines)


def of_length_one(X: npt.NDArray[np.floating[Any]]) -> Rows:
    """Divide rows by their lengths; a row of zeros stays as it is."""
    length = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))[:, None]
    scaled: Rows = np.divide(X, np.where(length > 0, length, 1)).astype(np.float32)
    return scaled
