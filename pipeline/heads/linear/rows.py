"""The rows that many heads are trained on at once, as the solver sees them.

Owns the two products with the matrix and the approximate inverse of a head's Hessian. Knows
no label, no fold and no loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.heads.factor import Factor

Array = npt.NDArray[np.floating]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows with the spectrum of their matrix.

    Attributes
    ----------
    matrix : ndarray of float64 or float32, shape (n, r)
        A factor's Z, or the features seen in a subspace. Iterations are done in its dtype.
    squares : ndarray of float64, shape (r,)
        Squared singular values.
    ones : ndarray of float64, shape (r,)
        The left singular vectors' inner products with the constant vector of norm 1; the sum of
        their squares is at most 1, but for rounding.
    axes : ndarray, shape (r, r), or None
        Right singular vectors; None where they are the coordinate axes, as for a factor.
    norm : float
        Root mean square of the norms of the rows, or of the features that they are taken from.
    """

    matrix: Array
    squares: Float64
    ones: Float64
    axes: Array | None
    norm: float

    @classmethod
    def of_factor(cls, factor: Factor, dtype: npt.DTypeLike = np.float64) -> Rows:
        """Take the rows of Z, whose columns are orthogonal.

        In float32 a path takes two thirds of the time, and its tolerance is reached as well.
        """
        n = max(len(factor.eigenvectors), 1)
        ones = factor.eigenvectors.sum(axis=0) / np.sqrt(n)
        norm = float(np.sqrt(factor.eigenvalues.sum() / n))
        return cls(factor.matrix.astype(dtype, copy=False), factor.eigenvalues, ones, None, norm)

    def scores(self, heads: Array) -> Float64:
        """Score every row: heads of shape (r + 1, columns), the intercepts last, to (n, columns)."""
        products = (self.matrix @ heads[:-1]).astype(np.float64, copy=False)
        scores: Float64 = products + heads[-1]
        return scores

    def gradient(self, residuals: Float64) -> Array:
        """Carry derivatives by the scores, shape (n, columns), back to the heads, (r + 1, columns)."""
        dtype = self.matrix.dtype
        products = self.matrix.T @ residuals.astype(dtype, copy=False)
        gradient: Array = np.vstack([products, residuals.sum(axis=0, keepdims=True).astype(dtype)])
        return gradient

    def precondition(
        self, heads: Array, curvature: Float64, penalties: Float64, intercept_penalties: Float64
    ) -> Array:
        """Apply an approximate inverse of each column's Hessian.

        The Hessian is taken for ``c / n * [matrix 1].T @ [matrix 1]`` plus the penalties on the
        diagonal, with c the sum over the rows of the loss's second derivatives. That is inverted
        in closed form.

        Parameters
        ----------
        heads : ndarray, shape (r + 1, columns)
        curvature, penalties, intercept_penalties : ndarray of float64, shape (columns,)
            The first two greater than 0.
        """
        n, dtype = self.matrix.shape[0], heads.dtype
        turned = heads[:-1] if self.axes is None else self.axes.T @ heads[:-1]
        spread = np.outer(self.squares, curvature / n) + penalties  # (r, columns)
        coupling = np.outer(np.sqrt(self.squares / n) * self.ones, curvature) / spread
        # The intercept is eliminated. What that leaves of its own second derivative is summed from terms
        # of 0 or more: as a difference it would drown in rounding.
        unexplained = max(1 - float(self.ones @ self.ones), float(np.finfo(dtype).eps))
        own = curvature * (unexplained + self.ones**2 @ (penalties / spread)) + intercept_penalties
        intercepts = (heads[-1] - np.einsum("ij,ij->j", coupling, turned)) / own
        solved = turned / spread - coupling * intercepts
        if self.axes is not None:
            solved = self.axes @ solved.astype(dtype, copy=False)
        return np.vstack([solved, intercepts[None]]).astype(dtype, copy=False)
