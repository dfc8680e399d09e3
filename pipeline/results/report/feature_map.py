"""Where features put images: a plane, for people to look at.

Owns the projections. They are unsupervised: labels only colour them.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.heads.derived import Derivation

Method = Literal["pca", "umap"]
METHODS: tuple[Method, ...] = get_args(Method)

#: What is projected: means of channels, of rows of length 1, so that brightness plays no part.
DERIVATION = Derivation("avg", "l2")


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A projection of rows.

    Attributes
    ----------
    places : ndarray of float64, shape (n, 2)
        Of each row.
    method : str
        In words.
    axes : tuple of str
        What each axis is.
    caution : str
        What not to read into it.
    """

    places: npt.NDArray[np.float64]
    method: str
    axes: tuple[str, str]
    caution: str


def require(method: Method) -> None:
    """See that a method can be had, before any work.

    Raises
    ------
    PipelineError
        ``umap-learn`` is needed, and not there.
    """
    if method == "umap" and importlib.util.find_spec("umap") is None:
        raise PipelineError(
            "--map umap needs the package umap-learn. Install the extra `umap` "
            "(`pip install '.[umap]'` in the pipeline's folder), or leave --map out."
        )


def projected(X: npt.NDArray[np.float32], method: Method, seed: int) -> FeatureMap:
    """Project rows on a plane.

    Parameters
    ----------
    X : ndarray of float32, shape (n, columns)
        n is at least 2.
    method : {"pca", "umap"}
        See `principal_components` and `neighbourhoods`.
    seed : int
        Of what is random in the second.
    """
    return principal_components(X) if method == "pca" else neighbourhoods(X, seed)


def principal_components(X: npt.NDArray[np.float32]) -> FeatureMap:
    """Project rows on the two directions in which they vary most.

    The largest loading of each direction is positive, so that the map is never mirrored.
    """
    centred = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    best = directions[:, [-1, -2]]
    best *= np.sign(best[np.abs(best).argmax(axis=0), [0, 1]])
    total = max(float(variances.sum()), np.finfo(np.float64).tiny)
    first, second = (
        f"component {place}, {variances[-place] / total:.0%} of the variance" for place in (1, 2)
    )
    return FeatureMap(
        centred @ best,
        "the first two principal components",
        (first, second),
        f"Classes that overlap here may still be told apart in the other {X.shape[1] - 2} directions.",
    )


def neighbourhoods(X: npt.NDArray[np.float32], seed: int) -> FeatureMap:
    """Project rows so that neighbours stay neighbours, by UMAP [1]_ with its own defaults.

    References
    ----------
    .. [1] L. McInnes, J. Healy, J. Melville, "UMAP: Uniform Manifold Approximation and Projection for
       Dimension Reduction", arXiv:1802.03426 (2018).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of optional packages that it would use for something else
        from umap import UMAP

        # of few rows a graph's leading eigenvectors cannot be had, and a random start does as well
        start = "spectral" if len(X) > 50 else "random"
        mapper = UMAP(n_neighbors=min(15, len(X) - 1), init=start, random_state=seed, n_jobs=1)
        places = mapper.fit_transform(X)
    return FeatureMap(
        places.astype(np.float64),
        "UMAP",
        ("", ""),
        "Neighbours are to be believed; distances between groups, and their sizes, mean little.",
    )
