"""How far to go: step lengths for many convex problems at once.

Owns the line search. Knows nothing of heads or rows, only values and slopes along a line.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

_FLATTER = 0.3  # a step is long enough when the slope has fallen to this share
_TRIALS = 40  # after which a problem is taken to be at the end of its precision
_ROUNDING = 1e-13  # of a value: less than that is no climb


def step_lengths(
    evaluate: Callable[[Indices, Float64], tuple[Float64, Float64]], value: Float64, slope: Float64
) -> Float64:
    """Find for each problem a step that goes down and leaves most of the slope behind.

    A convex function's slope only grows, so its zero is enclosed between a step with a negative
    slope and one with a positive: steps grow until there are two such, then false position
    narrows them.

    Parameters
    ----------
    evaluate : callable
        Given some problems and a step for each, returns their values and slopes there. The last
        call for a problem is with the step that it is given in the end.
    value, slope : ndarray, shape (problems,)
        At step 0; slopes less than 0.

    Returns
    -------
    ndarray, shape (problems,)
        0 where rounding hides any descent.
    """
    steps, low, high = np.ones_like(slope), np.zeros_like(slope), np.full_like(slope, np.inf)
    slope_low, slope_high = slope.copy(), np.zeros_like(slope)
    trying = np.arange(len(slope))
    for trial in range(_TRIALS):
        values, slopes = evaluate(trying, steps[trying])
        climbed = values > value[trying] + _ROUNDING * np.abs(value[trying])
        beyond = ~(slopes <= 0)  # NaN, from an overflow, included
        good = (np.abs(slopes) <= _FLATTER * -slope[trying]) & ~(beyond & climbed)
        over, short = trying[beyond & ~good], trying[~beyond & ~good]
        high[over], slope_high[over] = steps[over], slopes[beyond & ~good]
        low[short], slope_low[short] = steps[short], slopes[~beyond & ~good]
        trying = trying[~good]
        if not trying.size:
            return steps
        a, b, down, up = (each[trying] for each in (low, high, slope_low, slope_high))
        with np.errstate(divide="ignore", invalid="ignore"):  # of the problems whose case it is not
            if trial % 3 == 2:  # where the slope bends sharply, false position creeps
                inside = np.where(a > 0, (a + b) / 2, b / 10)
            else:
                inside = np.clip(a + (b - a) * down / (down - up), 0.9 * a + 0.1 * b, 0.1 * a + 0.9 * b)
            # where the slope would be 0 if it were a line from step 0; at least half as far again
            outside = a * np.clip(slope[trying] / (slope[trying] - down), 1.5, 10)
        steps[trying] = np.where(np.isfinite(b), inside, outside)
    steps[trying] = low[trying]
    evaluate(trying, steps[trying])
    return steps
