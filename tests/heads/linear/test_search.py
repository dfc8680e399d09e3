from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.heads.linear.search import step_lengths

Float64 = npt.NDArray[np.float64]
Curve = Callable[[Float64], tuple[Float64, Float64]]


def parabola(bottom: float) -> Curve:
    return lambda t: ((t - bottom) ** 2, 2 * (t - bottom))


def exponentials(t: Float64) -> tuple[Float64, Float64]:
    """A cliff on the right, which overflows from 7 on, and a gentle slope on the left."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.exp(100 * t) - 3000 * t, 100 * np.exp(100 * t) - 3000 + np.where(t > 7, np.nan, 0)


def corner(t: Float64) -> tuple[Float64, Float64]:
    """Falls steeply until 0.01, then climbs hardly."""
    return np.maximum(0.01 - t, 0) + 0.001 * np.maximum(t - 0.01, 0), np.where(t < 0.01, -1.0, 0.001)


def tail(t: Float64) -> tuple[Float64, Float64]:
    """Flattens only far away."""
    return np.exp(-t / 1e4) + 1e-9 * t, -np.exp(-t / 1e4) / 1e4 + 1e-9


@pytest.mark.parametrize(
    "curve",
    [parabola(1), parabola(1e-3), parabola(250), exponentials, corner, tail],
    ids=["at once", "too far", "too short", "cliff", "corner", "tail"],
)
def test_step_lengths__down_and_flat(curve: Curve) -> None:
    value, slope = curve(np.zeros(1))
    (step,) = step_lengths(lambda which, steps: curve(steps), value, slope)
    value_there, slope_there = curve(np.array([step]))
    assert step > 0
    assert value_there < value
    assert np.abs(slope_there) <= 0.3 * np.abs(slope)


def test_step_lengths__each_problem_its_own() -> None:
    bottoms = np.array([1.0, 0.02, 40.0, 1.1])
    calls: list[npt.NDArray[np.intp]] = []
    last = np.full(4, np.nan)

    def evaluate(which: npt.NDArray[np.intp], steps: Float64) -> tuple[Float64, Float64]:
        calls.append(which)
        last[which] = steps
        return (steps - bottoms[which]) ** 2, 2 * (steps - bottoms[which])

    steps = step_lengths(evaluate, bottoms**2, -2 * bottoms)
    np.testing.assert_allclose(steps, bottoms, rtol=0.31)
    # No problem is looked at again once it has its step, and the last look was there.
    np.testing.assert_array_equal(calls[0], [0, 1, 2, 3])
    np.testing.assert_array_equal(calls[1], [1, 2])
    np.testing.assert_array_equal(last, steps)


def test_step_lengths__no_way_down() -> None:
    def evaluate(which: npt.NDArray[np.intp], steps: Float64) -> tuple[Float64, Float64]:
        return 1 + steps, np.ones_like(steps)  # though the slope at 0 was said to be negative

    np.testing.assert_array_equal(step_lengths(evaluate, np.ones(2), np.full(2, -1e-9)), [0, 0])
