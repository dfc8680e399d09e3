"""What the parameters of the torch head may be.

Owns their ranges. What they mean, `TorchLinear` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pipeline.heads.torch_head import TorchLinear

_CHOICES = {"solver": ("adam", "newton-cg"), "device": ("auto", "cpu", "cuda")}
_NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "learning_rate": ("above 0", lambda value: value > 0),
    "weight_decay": ("of at least 0", lambda value: value >= 0),
    "label_smoothing": ("of at least 0 and below 1", lambda value: 0 <= value < 1),
}


def check_parameters(head: TorchLinear) -> None:
    """See that each parameter is in its range.

    Raises
    ------
    ValueError
        One is not; the message names it.
    """
    values = head.get_params(deep=False)
    for name, choices in _CHOICES.items():
        if values[name] not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, found {values[name]!r}")
    for name in ("epochs", "batch_size", "patience"):
        absent = name == "patience" and values[name] is None
        if not absent and not (_is(values[name], int | np.integer) and values[name] > 0):
            raise ValueError(f"{name} must be a whole number above 0, found {values[name]!r}")
    for name, (range_, fits) in _NUMBERS.items():
        number = _is(values[name], int | float | np.number) and np.isfinite(values[name])
        if not (number and fits(values[name])):
            raise ValueError(f"{name} must be a number {range_}, found {values[name]!r}")
    if head.solver == "newton-cg" and head.weight_decay == 0:
        raise ValueError("weight_decay must be above 0 for newton-cg: without it there may be no minimum")


def _is(value: Any, kind: Any) -> bool:
    """Say whether a value is of a kind; a truth value is no number."""
    return isinstance(value, kind) and not isinstance(value, bool)
