"""Rows for the torch head."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


def rows(n: int, seed: int = 0, columns: int = 200) -> tuple[Matrix, Labels]:
    """Sparse, large, non-negative rows of three classes that a linear layer can tell apart."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = random.exponential(50, (n, columns)) * (random.random((n, columns)) < 0.2)
    X[np.arange(n)[:, None], 10 * y[:, None] + np.arange(10)] += 200
    return X.astype(np.float32), y
