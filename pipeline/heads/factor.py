"""The exact small factor: N rows of 25,088 features, turned into N rows of at most N numbers.

Owns the way there, the way back for coefficients, and the cached file. An L2-regularised
linear head sees its rows through their inner products alone, so a matrix Z with
``Z @ Z.T == X @ X.T`` gives the same scores as X at a fraction of the work. It is only a
rotation of the rows: nothing is fitted, no label is read, and a subset of its rows factors the
same subset of X's. Never for estimators that look at single features.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.console import warn
from pipeline.files import write_atomically

Float64 = npt.NDArray[np.float64]

#: Up to so many rows are factored: the eigendecomposition's cost grows with their cube, and beyond
#: about this number a whole path on the features themselves takes no longer.
MOST_ROWS = 2000

_COLUMNS = 2048  # at once in float64: 16 MB at 1,000 rows, still wide enough for a fast product
_KEPT = 8  # files, the latest used; of 2,000 rows one has 32 MB
_FORMAT = 1  # of the cached file; raise it when the meaning of what is in there changes


@dataclass(frozen=True)
class Factor:
    """Eigenvectors and eigenvalues of the rows' Gram matrix.

    Attributes
    ----------
    eigenvalues : ndarray of float64, shape (r,)
        Greater than 0, largest first; r is the rank of X, at most N.
    eigenvectors : ndarray of float64, shape (N, r)
        Orthonormal columns.
    """

    eigenvalues: Float64
    eigenvectors: Float64

    @classmethod
    def of(cls, X: npt.NDArray[np.floating]) -> Factor:
        """Factor rows.

        Parameters
        ----------
        X : ndarray of float16, float32 or float64, shape (N, D)
            Finite. Read in blocks of columns; never copied whole.

        Returns
        -------
        Factor
            Of rank 0 where every feature is 0.
        """
        return cls.of_gram(gram_matrix(X))

    @classmethod
    def of_gram(cls, gram: Float64) -> Factor:
        """Factor rows that are known by their inner products, shape (N, N)."""
        values, vectors = np.linalg.eigh(gram)
        values, vectors = values[::-1], vectors[:, ::-1]
        # What the rounding of the largest one leaves behind: repeated rows, rows of zeros, N > D.
        limit = len(values) * np.finfo(np.float64).eps * values[0] if len(values) else 0.0
        rank = int(np.count_nonzero(values > limit))
        return cls(values[:rank].copy(), np.ascontiguousarray(vectors[:, :rank]))

    @cached_property
    def matrix(self) -> Float64:
        """Z itself, shape (N, r); its columns are orthogonal."""
        return self.eigenvectors * np.sqrt(self.eigenvalues)

    def coefficients(self, weights: Float64, X: npt.NDArray[np.floating]) -> Float64:
        """Turn a head on Z into the same head on X.

        Parameters
        ----------
        weights : ndarray of float64, shape (k, r)
            Coefficients of a head that was trained on rows of Z.
        X : ndarray, shape (N, D)
            The rows that were factored.

        Returns
        -------
        ndarray of float64, shape (k, D)
            ``X @ coefficients.T`` equals ``Z @ weights.T``. For an L2-regularised head they are
            the very coefficients that training on X gives: those lie in the span of the rows.
        """
        dual = (weights / np.sqrt(self.eigenvalues)) @ self.eigenvectors.T  # (k, N)
        found = np.empty((len(weights), X.shape[1]))
        for start in range(0, X.shape[1], _COLUMNS):
            part = slice(start, start + _COLUMNS)
            found[:, part] = dual @ X[:, part].astype(np.float64)
        return found


def worth_factoring(rows: int, columns: int) -> bool:
    """Say whether linear heads on a matrix of this shape are trained on its factor."""
    return rows < columns and rows <= MOST_ROWS


def gram_matrix(X: npt.NDArray[np.floating]) -> Float64:
    """Return ``X @ X.T``, shape (N, N), products and sums in float64.

    In float32 it takes half the time, and errs by 7 (spectral norm) on 1,000 rows of VGG16's
    features, whose smallest eigenvalue is 45,000: scores would be off by 2e-4 of their size.
    """
    gram = np.zeros((len(X), len(X)))
    for start in range(0, X.shape[1], _COLUMNS):
        block = X[:, start : start + _COLUMNS].astype(np.float64)
        gram += block @ block.T
    return gram


def load_or_make(folder: Path, key: str, make: Callable[[], Factor]) -> Factor:
    """Return the factor cached under `key`, or make it and cache it.

    Parameters
    ----------
    folder : Path
        Of the cached factors; made where it is missing, and kept to the 8 that were used last. Deleting
        it costs time and nothing else.
    key : str
        Says everything that the factor depends on: the rows, their order, the extractor's
        identity and the view.
    make : callable
        Makes the factor. Called when there is none, or when the file is damaged, which is said.

    Returns
    -------
    Factor
    """
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"
    if path.is_file():
        try:
            factor = _load(path, key)
            os.utime(path)
            return factor
        except (OSError, ValueError) as error:
            warn(f"{path}: not a factor as it was written ({error}); it is made again")
    factor = make()
    try:
        write_atomically(path, _packed(factor, key))
        for old in sorted(folder.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)[:-_KEPT]:
            old.unlink()
    except OSError as error:
        warn(f"{path}: the factor cannot be kept for the next time ({error.strerror or error})")
    return factor


def _packed(factor: Factor, key: str) -> bytes:
    from safetensors.numpy import save

    tensors = {"eigenvalues": factor.eigenvalues, "eigenvectors": factor.eigenvectors}
    # In one entry, as safetensors writes several in no order: the same bytes for the same factor.
    return save(tensors, {"factor": json.dumps(_about(factor, key))})


def _load(path: Path, key: str) -> Factor:
    """Read a cached factor; ValueError or OSError says why it is not one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {}).get("factor", "{}"))
            factor = Factor(*(file.get_tensor(name) for name in ("eigenvalues", "eigenvectors")))
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if about != _about(factor, key):
        raise ValueError("its numbers are not those, or it is another's")
    return factor


def _about(factor: Factor, key: str) -> dict[str, Any]:
    return {"format": _FORMAT, "key": key, "sha256": _digest(factor)}


def _digest(factor: Factor) -> str:
    digest = hashlib.sha256()
    for array in (factor.eigenvalues, factor.eigenvectors):
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
