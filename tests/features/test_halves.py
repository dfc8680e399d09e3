from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pipeline.features.halves import widen

#: Every float16 there is: zeros of both signs, subnormal, infinite, and not a number.
ALL = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


def test_widen__every_float16_is_what_numpy_makes_of_it() -> None:
    numbers = np.random.default_rng(0).permutation(ALL)
    out = np.empty(len(numbers), np.float32)
    widen(numbers, out)
    np.testing.assert_array_equal(out.view(np.uint32), numbers.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_widen__same_type_is_copied(kind: Any) -> None:
    numbers = np.random.default_rng(0).random(99).astype(kind)
    out = np.zeros(99, kind)
    widen(numbers, out)
    np.testing.assert_array_equal(out, numbers)


def test_widen__into_every_other_place() -> None:
    numbers, out = ALL[:100], np.full(200, -1, np.float32)
    widen(numbers, out[::2])
    np.testing.assert_array_equal(out[::2], numbers.astype(np.float32))
    assert (out[1::2] == -1).all()


def test_widen__never_narrows() -> None:
    with pytest.raises(TypeError, match="Cannot cast"):
        widen(np.ones(3, np.float32), np.empty(3, np.float16))
