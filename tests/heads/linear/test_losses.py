from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.heads.linear.losses import Logistic, Loss, Softmax, Squared, SquaredHinge

N, PROBLEMS, WIDTH = 12, 3, 4
Float64 = npt.NDArray[np.float64]


def problem(loss: Loss) -> tuple[Float64, Float64, Float64]:
    random = np.random.default_rng(0)
    weights = random.random((N, PROBLEMS)) * (random.random((N, PROBLEMS)) < 0.8)
    if isinstance(loss, Softmax):
        targets = np.tile(np.eye(WIDTH)[np.arange(N) % WIDTH], PROBLEMS)
    else:
        targets = np.where(np.arange(N)[:, None] % 3 == 0, 1.0, -1.0) * np.ones(PROBLEMS)
    return random.normal(0, 2, targets.shape), targets, weights


def plainly(loss: Loss, scores: Float64, targets: Float64, weights: Float64) -> Float64:
    """Each loss as it is written in a book."""
    if isinstance(loss, Softmax):
        shape = (N, PROBLEMS, WIDTH)
        powers = np.exp(scores.reshape(shape))
        shares = (powers * targets.reshape(shape)).sum(axis=2) / powers.sum(axis=2)
        return np.asarray((weights * -np.log(shares)).sum(axis=0))
    margins = scores * targets
    losses = {
        Logistic: np.log1p(np.exp(-margins)),
        SquaredHinge: np.maximum(0, 1 - margins) ** 2 / 2,
        Squared: (scores - targets) ** 2 / 2,
    }
    return np.asarray((weights * losses[type(loss)]).sum(axis=0))


LOSSES = [Logistic(), Softmax(WIDTH), SquaredHinge(), Squared()]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_loss__value_and_derivatives(loss: Loss) -> None:
    scores, targets, weights = problem(loss)
    at = loss(scores, targets, weights)
    np.testing.assert_allclose(at.value, plainly(loss, scores, targets, weights), rtol=1e-12)
    step = 1e-5
    curvature = np.zeros(scores.shape[1])
    for row in range(N):
        for column in range(scores.shape[1]):
            change = np.zeros_like(scores)
            change[row, column] = step
            after, before = loss(scores + change, targets, weights), loss(scores - change, targets, weights)
            slope = (after.value - before.value).sum() / (2 * step)
            np.testing.assert_allclose(at.residuals[row, column], slope, atol=1e-8)
            curvature[column] += (after.residuals - before.residuals)[row, column] / (2 * step)
    np.testing.assert_allclose(at.curvature, curvature, atol=1e-6)


@pytest.mark.parametrize("size", [1e2, 1e5, 1e150])
@pytest.mark.parametrize("loss", [Logistic(), Softmax(WIDTH)], ids=["logistic", "softmax"])
def test_loss__far_away(loss: Loss, size: float) -> None:
    scores, targets, weights = problem(loss)
    at = loss(size * scores, targets, weights)
    assert all(np.isfinite(part).all() for part in at)
    assert (np.abs(at.residuals) <= 1).all()
    right = loss(size * targets, targets, weights)
    assert right.value.max() == pytest.approx(0, abs=1e-30)


@pytest.mark.parametrize("penalty", [0.1, 30.0])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_loss__constant_is_the_best_score_for_all(loss: Loss, penalty: float) -> None:
    _, targets, weights = problem(loss)
    penalties = np.full(PROBLEMS, penalty)
    best = loss.constant(targets, weights, penalties)
    residuals = loss(np.tile(best, (N, 1)), targets, weights).residuals.sum(axis=0)
    own = np.repeat(penalties, len(best) // PROBLEMS) * best * loss.intercept_penalised
    np.testing.assert_allclose(residuals + own, 0, atol=1e-12)
