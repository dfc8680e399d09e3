"""One minimiser for many linear heads on the same rows.

Owns the iteration: limited-memory BFGS [1]_ on every problem at once, so that the products with
the rows are two matrix products an iteration. Each problem has its own step length, and leaves
when it has converged. A problem's result depends on the others by rounding only.

References
----------
.. [1] J. Nocedal, S. Wright, "Numerical Optimization", 2nd edition (2006), algorithm 7.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.heads.linear.losses import Evaluation
from pipeline.heads.linear.problems import Problems, columns_of
from pipeline.heads.linear.rows import Array, Rows
from pipeline.heads.linear.search import step_lengths

Float64 = npt.NDArray[np.float64]

_OF_OUTSIDE = 0.1  # of the gradient that the rows do not show: below that the rest does not matter
_MEMORY = 3  # pairs; more save no iteration, as the preconditioner knows most of the curvature


@dataclass
class Solution:
    """Where the minimiser ended.

    Attributes
    ----------
    heads : ndarray in the dtype of the rows, shape (r + 1, problems * width)
        Coefficients, and the intercept last.
    iterations : ndarray of int64, shape (problems,)
    converged : ndarray of bool, shape (problems,)
    residuals : ndarray of float64, shape (n, problems * width)
        The losses' derivatives by the scores.
    norms, goals : ndarray of float64, shape (problems,)
        The gradient's norm, and what it was to be at most.
    """

    heads: Array
    iterations: npt.NDArray[np.int64]
    converged: npt.NDArray[np.bool_]
    residuals: Float64
    norms: Float64
    goals: Float64

    @classmethod
    def blank(cls, matrix: Array, problems: Problems) -> Solution:
        """Make room for the ends of problems on the rows of a matrix."""
        count, columns = len(problems.penalties), problems.targets.shape[1]
        return cls(
            np.empty((matrix.shape[1] + 1, columns), matrix.dtype),
            np.zeros(count, np.int64),
            np.zeros(count, np.bool_),
            np.empty((len(matrix), columns)),
            np.empty(count),
            np.empty(count),
        )

    def settle(self, problems: npt.NDArray[np.intp], ends: Solution, width: int) -> None:
        """Take in where some problems have ended."""
        columns = columns_of(problems, width)
        self.heads[:, columns], self.residuals[:, columns] = ends.heads, ends.residuals
        self.iterations[problems], self.converged[problems] = ends.iterations, ends.converged
        self.norms[problems], self.goals[problems] = ends.norms, ends.goals


@dataclass(frozen=True)
class Start:
    """Where problems stand of which the rows show a part only.

    Attributes
    ----------
    heads : ndarray in the dtype of the rows, shape (r + 1, problems * width)
    reference : ndarray of float64, shape (problems,)
        Norm of the whole gradient for the head that sees no feature.
    outside : ndarray of float64, shape (problems,)
        Norm of the gradient's part that the rows do not show, as last seen. It is no use to go much
        below that in the part that they do.
    """

    heads: Array
    reference: Float64
    outside: Float64


def minimise(
    rows: Rows, problems: Problems, tolerance: float, max_iterations: int, start: Start | None = None
) -> Solution:
    """Fit all problems.

    Parameters
    ----------
    rows : Rows
    problems : Problems
    tolerance : float
        A problem has converged when the norm of its gradient is at most this share of what it is
        for the head that sees no feature, and the objective is certain to be within the share's
        square root of its minimum. Unlike an absolute tolerance that means the same whatever the
        scale of the features, and the same on a factor as on the rows themselves. The second
        condition is for little regularisation: there the gradient vanishes as soon as every row is
        on its right side, long before the head has turned to where it separates new rows.
    max_iterations : int
        After so many a problem is given up where it is.
    start : Start, optional
        By default the heads that see no feature, and rows that show everything.
    """
    descent = _Descent(rows, problems, start)
    solution = Solution.blank(rows.matrix, problems)
    active = np.arange(len(problems.penalties))
    for iteration in range(max_iterations + 1):
        norms, goals = descent.gradient_norms(), descent.goals(tolerance)
        converged = descent.has_reached(norms, goals)
        leaving = converged | descent.stuck | (iteration == max_iterations)
        if leaving.any():
            some = np.flatnonzero(leaving)
            columns = columns_of(some, problems.width)
            there = Solution(
                descent.heads[:, columns],
                np.full(len(some), iteration),
                converged[some],
                descent.residuals[:, columns],
                norms[some],
                goals[some],
            )
            solution.settle(active[some], there, problems.width)
            active = active[~leaving]
            descent.keep(np.flatnonzero(~leaving))
        if not active.size:
            break
        descent.step()
    return solution


class _Descent:
    """The problems that have not converged, and where each of them stands."""

    def __init__(self, rows: Rows, problems: Problems, start: Start | None) -> None:
        self._rows = rows
        self._problems = problems
        self.heads = constant_heads(rows, problems) if start is None else start.heads
        self._scores = rows.scores(self.heads)  # (n, columns)
        self._at = problems.loss(self._scores, problems.targets, problems.weights)
        self._gradient = self._gradient_here()
        self._pairs: list[tuple[Array, Array, Float64]] = []  # step, change of gradient, 1 / their product
        count = len(problems.penalties)
        self._reference = self.gradient_norms() if start is None else start.reference
        self._outside = np.zeros(count) if start is None else start.outside
        self._standing = np.zeros(count, np.int64)  # for so many steps

    @property
    def residuals(self) -> Float64:
        """The losses' derivatives by the scores, shape (n, columns)."""
        return self._at.residuals

    def goals(self, tolerance: float) -> Float64:
        """Return the norms that gradients are to have at most, as `minimise` defines them."""
        problems = self._problems
        ridge = self._problems.by_problem(dots(self.heads, self._ridge(self.heads))) / 2
        # The strong convexity that the penalty brings bounds how far above its minimum a problem stands.
        above = np.sqrt(2 * problems.penalties * np.sqrt(tolerance) * (self._at.value + ridge))
        pull = self._problems.by_problem(np.abs(self._at.residuals).sum(axis=0))
        noise = np.finfo(self.heads.dtype).eps * self._rows.norm * pull  # of a gradient of 0, by rounding
        goals: Float64 = np.minimum(tolerance * self._reference, above) + noise
        return goals

    def has_reached(self, norms: Float64, goals: Float64) -> npt.NDArray[np.bool_]:
        """See which problems have converged, or would be improved only by what the rows do not show."""
        reached: npt.NDArray[np.bool_] = np.hypot(norms, self._outside) <= goals
        return reached | (norms <= _OF_OUTSIDE * self._outside)

    @property
    def stuck(self) -> npt.NDArray[np.bool_]:
        """The problems that could not move even when all pairs were forgotten, by rounding."""
        return self._standing > _MEMORY

    def gradient_norms(self) -> Float64:
        """Norms of the problems' gradients; an intercept counts as a feature of the rows' mean norm."""
        squares = dots(self._gradient[:-1], self._gradient[:-1])
        squares += (self._rows.norm * self._gradient[-1].astype(np.float64)) ** 2
        return np.sqrt(self._problems.by_problem(squares))

    def keep(self, problems: npt.NDArray[np.intp]) -> None:
        """Forget the other problems."""
        columns = columns_of(problems, self._problems.width)
        self._problems = self._problems.of(problems)
        self.heads, self._gradient = self.heads[:, columns], self._gradient[:, columns]
        self._scores = self._scores[:, columns]
        self._at = Evaluation(
            self._at.value[problems], self._at.residuals[:, columns], self._at.curvature[columns]
        )
        self._pairs = [(s[:, columns], y[:, columns], inverse[problems]) for s, y, inverse in self._pairs]
        self._reference, self._outside = self._reference[problems], self._outside[problems]
        self._standing = self._standing[problems]

    def step(self) -> None:
        """Move every problem once."""
        before = self._gradient
        direction = self._direction()
        steps = self._advance(direction)
        step = direction * self._by_column(steps).astype(direction.dtype)
        self.heads = self.heads + step
        self._gradient = self._gradient_here()
        change = self._gradient - before
        product = self._problems.by_problem(dots(step, change))
        useful = product > 0  # not so for a problem that stands still
        inverse = np.where(useful, 1 / np.where(useful, product, 1), 0)
        self._pairs = [*self._pairs, (step, change, inverse)][-_MEMORY:]
        self._standing = np.where(steps > 0, 0, self._standing + 1)

    def _direction(self) -> Array:
        """Two loops over the pairs, with the rows' preconditioner between them."""
        dtype = self._gradient.dtype
        direction = -self._gradient
        shares = []
        for step, change, inverse in reversed(self._pairs):
            shares.append(self._by_column(inverse * self._problems.by_problem(dots(step, direction))))
            direction -= shares[-1].astype(dtype) * change
        # A problem whose rows are all far on their right side has no curvature left to speak of.
        weight = self._by_column(self._problems.weights.sum(axis=0))
        curvature = np.maximum(self._at.curvature, 1e-12 * weight)
        direction = self._rows.precondition(direction, curvature, *self._penalties)
        for (step, change, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            other = self._by_column(inverse * self._problems.by_problem(dots(change, direction)))
            direction += (share - other).astype(dtype) * step
        return direction

    def _advance(self, direction: Array) -> Float64:
        """Go along `direction` and return the step lengths; scores and loss are brought up to date.

        Scores are linear in the step, so that no trial needs a product with the rows.
        """
        problems, start, before = self._problems, self._scores, self._at
        moved = self._rows.scores(direction)
        penalised = self._ridge(direction)
        linear = self._problems.by_problem(dots(self.heads, penalised))
        square = self._problems.by_problem(dots(direction, penalised))
        slope = self._problems.by_problem(dots(before.residuals, moved)) + linear
        self._scores = np.empty_like(start)
        self._at = Evaluation(*(np.empty_like(part) for part in before))

        def evaluate(some: npt.NDArray[np.intp], lengths: Float64) -> tuple[Float64, Float64]:
            columns, those = columns_of(some, problems.width), problems.of(some)
            scores = start[:, columns] + self._by_column(lengths) * moved[:, columns]
            at = problems.loss(scores, those.targets, those.weights)
            self._scores[:, columns] = scores
            self._at.value[some], self._at.residuals[:, columns], self._at.curvature[columns] = at
            slopes = self._problems.by_problem(dots(at.residuals, moved[:, columns]))
            return (
                at.value + lengths * linear[some] + lengths**2 / 2 * square[some],
                slopes + linear[some] + lengths * square[some],
            )

        return step_lengths(evaluate, before.value, slope)

    def _gradient_here(self) -> Array:
        gradient = self._rows.gradient(self._at.residuals)
        gradient += self._ridge(self.heads)
        return gradient

    def _ridge(self, heads: Array) -> Array:
        """Gradient of the penalties at `heads`; linear in them."""
        gradient = heads * self._penalties[0].astype(heads.dtype)
        gradient[-1] = heads[-1] * self._penalties[1]
        return gradient

    @property
    def _penalties(self) -> tuple[Float64, Float64]:
        """Of the coefficients and of the intercept, for each column."""
        penalties = self._by_column(self._problems.penalties)
        return penalties, penalties * self._problems.loss.intercept_penalised

    def _by_column(self, problems: Float64) -> Float64:
        return np.repeat(problems, self._problems.width)


def constant_heads(rows: Rows, problems: Problems) -> Array:
    """Return the best heads that see no feature, shape (r + 1, columns)."""
    heads: Array = np.zeros((rows.matrix.shape[1] + 1, problems.targets.shape[1]), rows.matrix.dtype)
    heads[-1] = problems.loss.constant(problems.targets, problems.weights, problems.penalties)
    return heads


def dots(left: Array, right: Array) -> Float64:
    """Inner products of columns, summed in float64."""
    products: Float64 = np.einsum("ij,ij->j", left, right, dtype=np.float64)
    return products
