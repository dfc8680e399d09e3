"""Where features put images: their two main directions.

Owns the projection. It is unsupervised: labels only colour it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.heads.derived import Derivation

#: What is projected: means of channels, of rows of length 1, so that brightness plays no part.
DERIVATION = Derivation("avg", "l2")


def principal_components(
    X: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.float64], tuple[float, float]]:
    """Project rows on the two directions in which they vary most.

    Parameters
    ----------
    X : ndarray of float32, shape (n, columns)
        n is at least 2.

    Returns
    -------
    places : ndarray of float64, shape (n, 2)
        The largest loading of each direction is positive, so that the map is never mirrored.
    shares : tuple of float
        Of the variance, that each direction has.
    """
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    best = directions[:, [-1, -2]]
    best *= np.sign(best[np.abs(best).argmax(axis=0), [0, 1]])
    total = max(float(variances.sum()), np.finfo(np.float64).tiny)
    return centred @ best, (float(variances[-1] / total), float(variances[-2] / total))
