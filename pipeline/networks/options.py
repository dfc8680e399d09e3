"""What can be asked of a training in the network, and the ranges of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from pipeline.errors import ParamsError


@dataclass(frozen=True)
class NetworkOptions:
    """How ``train-network`` learns.

    Attributes
    ----------
    epochs, batch_size : int
        Passes over the training images, and images a step.
    learning_rate : float
        By how much one step of Adam may move an image's score; see `TorchLinear`.
    weight_decay : float
        Of the layer's weight; see `TorchLinear`.
    augment : bool
        Whether an image is cropped, mirrored and tinted anew in each epoch.
    """

    epochs: int = 5
    batch_size: int = 32
    learning_rate: float = 0.5
    weight_decay: float = 1e-5
    augment: bool = True

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True)
class FinetuneOptions:
    """How ``finetune`` learns.

    Attributes
    ----------
    unfreeze : str
        The first block that learns, or ``all``.
    epochs, batch_size : int
        Passes over the training images at most, and images a step.
    learning_rate : float
        Of AdamW for the network's blocks: by how much one step may move a weight.
    head_learning_rate : float
        By how much one step of AdamW may move an image's score through the head; see `TorchLinear`.
    weight_decay : float
        AdamW's, of all weights and no bias.
    warmup : float
        Share of all steps in which the rates rise to their height; then they fall to 0, along a cosine.
    patience : int
        Stop when the loss on the validation images has not fallen for so many epochs.
    prefix : bool
        Whether what the frozen part makes of the images is stored, and not computed again in each epoch.
    """

    # The rates: with block5 on 80 photographs of cats and dogs, 1e-5 lost 2 of 360 other images where 3e-6
    # won 1, though the loss on val fell further.
    unfreeze: str = "block5"
    epochs: int = 10
    batch_size: int = 32
    learning_rate: float = 3e-6
    head_learning_rate: float = 0.01
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int = 3
    prefix: bool = True

    def __post_init__(self) -> None:
        _check(self)


# Lowest value, and whether it may be reached; below 1 where it is a share.
_LOWEST: dict[str, tuple[float, bool]] = {
    "epochs": (1, True),
    "batch_size": (1, True),
    "learning_rate": (0, False),
    "head_learning_rate": (0, False),
    "weight_decay": (0, True),
    "warmup": (0, True),
    "patience": (1, True),
}


def _check(options: Any) -> None:
    for field in fields(options):
        if field.name not in _LOWEST:
            continue
        value, (lowest, reached) = getattr(options, field.name), _LOWEST[field.name]
        fits = math.isfinite(value) and (value >= lowest if reached else value > lowest)
        if not fits or (field.name == "warmup" and value >= 1):
            words = f"{'of at least' if reached else 'above'} {lowest:g}"
            raise ParamsError(
                f"--{field.name.replace('_', '-')}: expected a number {words}"
                f"{' and below 1' if field.name == 'warmup' else ''}, found {value!r}."
            )
