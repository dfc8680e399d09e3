"""The training log of the torch head, and when to stop early.

Owns the log and the choice of the epoch whose layer is kept. It does not learn, and does not print.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.heads.torch_rows import Layer, Rows


@dataclass(frozen=True)
class Epoch:
    """One pass over the training rows, or one of Newton's steps.

    Attributes
    ----------
    epoch : int
        Counted from 1.
    train_loss, train_accuracy : float
        Adam: means over the epoch's mini-batches, each taken just before it was learned from.
        Newton: on all rows after the step.
    val_loss, val_accuracy : float or None
        On the validation rows afterwards; None without validation rows.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None


def watch(
    progress: Iterator[tuple[float, float]],
    layer: Layer,
    held_out: Rows | None,
    patience: int | None,
    on_epoch: Callable[[Epoch], None] | None,
) -> tuple[list[Epoch], int]:
    """Let a layer learn, and log it.

    Parameters
    ----------
    progress : iterator of tuple of float
        A solver, which changes `layer` and yields its loss and accuracy on the training rows.
    layer : Layer
        Ends as it was after the epoch that is kept.
    held_out : Rows, optional
        Scored after each epoch.
    patience : int, optional
        Stop when the loss on `held_out` has not fallen for so many epochs, and keep the best
        epoch. None goes on to the end, and keeps the last one.
    on_epoch : callable, optional
        Called with each epoch as it ends.

    Returns
    -------
    tuple
        The log, and the number of the epoch that is kept.
    """
    history: list[Epoch] = []
    best, best_loss, best_layer = 0, math.inf, layer.flat
    for number, (loss, accuracy) in enumerate(progress, start=1):
        val_loss, val_accuracy = held_out.score(layer) if held_out is not None else (None, None)
        history.append(Epoch(number, loss, accuracy, val_loss, val_accuracy))
        if on_epoch is not None:
            on_epoch(history[-1])
        if patience is None or val_loss is None:
            best = number
        elif val_loss < best_loss:
            best, best_loss, best_layer = number, val_loss, layer.flat.clone()
        elif number - best >= patience:
            break
    layer.flat.copy_(best_layer)
    return history, best
