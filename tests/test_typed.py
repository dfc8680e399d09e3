from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.errors import ParamsError
from pipeline.typed import build


@dataclass(frozen=True)
class Sample:
    """Holds a list, which params.yaml has nowhere; what it has is tested with it."""

    numbers: tuple[float, ...] = ()


def test_build__a_list_becomes_a_tuple() -> None:
    assert build(Sample, {"numbers": [1, 2.5]}, "") == Sample((1.0, 2.5))
    assert build(Sample, {}, "") == Sample()


@pytest.mark.parametrize(
    ("value", "message"),
    [("1", "numbers: expected a list, found '1'"), ([1, "x"], r"numbers\[1\]: expected a number, found 'x'")],
)
def test_build__a_list_of_something_else(value: Any, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        build(Sample, {"numbers": value}, "")
