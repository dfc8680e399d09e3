"""Many heads on rows that are too many to factor, minimised in a subspace that they share.

Owns the subspace. The features are read twice a round: for the gradients of all heads, and to see the
rows from the directions that these add. In between the heads are solved within the subspace, whose few
columns cost little. As all heads gain by each other's gradients, ten rounds do what takes a hundred
iterations of each head by itself.

To enlarge the subspace of one problem its gradient is split [1]_; here folds, strengths and classes
bring many gradients of themselves.

References
----------
.. [1] L. Grigori, S. Moufawad, F. Nataf, "Enlarged Krylov subspace conjugate gradient methods for
   reducing communication", SIAM Journal on Matrix Analysis and Applications 37 (2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.heads.linear.problems import Problems, columns_of
from pipeline.heads.linear.rows import Array, Float64, Rows
from pipeline.heads.linear.solver import Solution, Start, constant_heads, dots, minimise

_INNER = 100  # iterations within the subspace; what is not solved by then goes on in the next round
_WIDENING = 64  # directions a round: more make the subspace costly before they make it better
_WIDEST = 2048  # directions: beyond, only those in which the heads lie are kept
_PATIENCE = 20  # rounds without a smaller gradient, after which a problem is given up
_WEAKEST = 0.3  # of the norm that ends a problem: what its gradient has less outside is not worth a direction


@dataclass(frozen=True)
class PlainRows:
    """Rows as they are.

    Attributes
    ----------
    matrix : ndarray of float32 or float64, shape (n, D)
        Not copied.
    norm : float
        Root mean square of the rows' norms.
    """

    matrix: Array
    norm: float

    @classmethod
    def of(cls, X: Array) -> PlainRows:
        """Take features, float32 or float64, shape (n, D)."""
        squares = sum(float(np.vdot(block, block)) for block in np.array_split(X, max(len(X) // 256, 1)))
        return cls(X, float(np.sqrt(squares / max(len(X), 1))))

    def scores(self, heads: Array) -> Float64:
        """Score every row: heads of shape (D + 1, columns), the intercepts last, to (n, columns)."""
        scores: Float64 = self.along(heads[:-1]).astype(np.float64, copy=False) + heads[-1]
        return scores

    def along(self, directions: Array) -> Array:
        """See the rows from directions, shape (D, m): their coordinates, shape (n, m)."""
        coordinates: Array = self.matrix @ directions
        return coordinates

    def gradient(self, residuals: Float64) -> Array:
        """Carry derivatives by the scores, shape (n, columns), back to the coefficients, (D, columns)."""
        # so turned it is a quarter faster than the transposed features on their left
        gradient: Array = (residuals.T.astype(self.matrix.dtype) @ self.matrix).T
        return gradient


class Subspace:
    """Features seen from a few directions.

    Attributes
    ----------
    basis : ndarray in the dtype of the features, shape (D, r)
        The directions, orthonormal.
    rows : Rows
        The features' coordinates along them.
    """

    def __init__(self, features: PlainRows) -> None:
        (n, columns), dtype = features.matrix.shape, features.matrix.dtype
        self._features = features
        self._products = np.zeros((0, 0))  # of the columns of `rows`, with each other
        self.basis: Array = np.zeros((columns, 0), dtype)
        self.rows = Rows(np.zeros((n, 0), dtype), np.zeros(0), np.zeros(0), None, features.norm)

    def outside(self, vectors: Array) -> Array:
        """Return the part of vectors, shape (D, columns), that is not in the subspace."""
        rest: Array = vectors - self.basis @ (self.basis.T @ vectors)
        return rest

    @property
    def width(self) -> int:
        """Directions."""
        return int(self.basis.shape[1])

    def widen(self, directions: Array, heads: Array) -> Array:
        """Add directions, and return heads as heads on all of them.

        Parameters
        ----------
        directions : ndarray, shape (D, m)
            Orthonormal. Those that lie inside but for rounding are left out.
        heads : ndarray, shape (r + 1, columns)
        """
        # A vector that keeps half its length is outside for good; what is left of a shorter one is rounding
        # (W. Kahan's "twice is enough"), and would spoil the basis.
        new, lengths = np.linalg.qr(self.outside(directions))
        new = new[:, np.abs(np.diag(lengths)) > 0.5]
        if not new.shape[1]:
            return heads
        before, seen = self.rows.matrix, self._features.along(new)
        corner, edge = (np.asarray(seen.T @ part, np.float64) for part in (seen, before))
        self._products = np.block([[self._products, edge.T], [edge, corner]])
        self.basis = np.hstack([self.basis, new])
        matrix = np.hstack([before, seen])
        values, axes = np.linalg.eigh(self._products)
        squares = np.maximum(values, np.finfo(matrix.dtype).eps * values[-1:])
        axes = axes.astype(matrix.dtype)
        ones = (matrix.sum(axis=0, dtype=np.float64) @ axes) / np.sqrt(squares * len(matrix))
        self.rows = Rows(matrix, squares, ones, axes, self.rows.norm)
        return np.insert(heads, [len(heads) - 1] * new.shape[1], 0, axis=0)

    def narrowed(self, heads: Array) -> tuple[Subspace, Array]:
        """Keep only the directions in which heads lie, and return them as heads on these."""
        narrow, coefficients = Subspace(self._features), self.basis @ heads[:-1]
        narrow.widen(np.linalg.qr(coefficients).Q, heads[-1:])
        return narrow, np.vstack([narrow.basis.T @ coefficients, heads[-1:]])

    def unfolded(self, heads: Array) -> Array:
        """Return heads (r + 1, columns) as heads on the features, (D + 1, columns)."""
        return np.vstack([self.basis @ heads[:-1], heads[-1:]])


def minimise_in_subspace(
    features: PlainRows, problems: Problems, tolerance: float, max_iterations: int
) -> Solution:
    """Fit all problems; see `minimise`. An iteration is a round, in which the features are read twice.

    A problem's result depends on the others within the tolerance.
    """
    subspace = Subspace(features)
    solution = Solution.blank(features.matrix, problems)
    active = np.arange(len(problems.penalties))
    nothing = np.zeros(len(active))
    start = Start(constant_heads(subspace.rows, problems), nothing, nothing)
    nearest, waited, whole = np.full(len(active), np.inf), nothing, False
    for iteration in range(max_iterations + 1):
        inner = max_iterations if whole else _INNER if iteration else 0
        found = minimise(subspace.rows, problems, tolerance, inner, start)
        outside = subspace.outside(features.gradient(found.residuals))  # (D, columns)
        beyond = np.sqrt(problems.by_problem(dots(outside, outside)))
        norms = np.hypot(found.norms, beyond)
        reference = start.reference if iteration else norms
        waited = np.where(norms < nearest, 0, waited + 1)
        nearest = np.minimum(norms, nearest)
        converged = (norms <= found.goals) | (whole & found.converged)
        leaving = converged | (waited > _PATIENCE) | whole | (iteration == max_iterations)
        some, kept = np.flatnonzero(leaving), np.flatnonzero(~leaving)
        columns = columns_of(some, problems.width)
        there = Solution(
            subspace.unfolded(found.heads[:, columns]),
            np.full(len(some), iteration),
            converged[some],
            found.residuals[:, columns],
            norms[some],
            found.goals[some],
        )
        solution.settle(active[some], there, problems.width)
        if not kept.size:
            break
        columns = columns_of(kept, problems.width)
        problems, active = problems.of(kept), active[kept]
        nearest, waited = nearest[kept], waited[kept]
        goals = np.repeat(found.goals[kept], problems.width)
        directions = _leading(outside[:, columns] / goals.astype(outside.dtype))
        heads = found.heads[:, columns]
        if subspace.width + directions.shape[1] > _WIDEST:
            subspace, heads = subspace.narrowed(heads)
        start = Start(subspace.widen(directions, heads), reference[kept], beyond[kept])
        whole = len(start.heads) == len(heads)  # nothing is left outside but rounding
    return solution


def _leading(vectors: Array) -> Array:
    """Return the directions that vectors, shape (D, columns), mostly lie in, longest first."""
    squares, sides = np.linalg.eigh((vectors.T @ vectors).astype(np.float64))
    squares, sides = squares[::-1], sides[:, ::-1]
    kept = squares > max(_WEAKEST**2, 1e-6 * squares[0])  # fainter ones drown in rounding
    chosen = sides[:, kept][:, :_WIDENING] / np.sqrt(squares[kept][:_WIDENING])
    directions: Array = vectors @ chosen.astype(vectors.dtype)
    return directions
