from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch

from pipeline.heads.epochs import Epoch, watch
from pipeline.heads.torch_rows import Layer, Rows

VAL_LOSSES = [0.9, 0.5, 0.6, 0.4, 0.4, 0.7, 0.1]  # after epochs 1 to 7


class HeldOut:
    """Stands for rows; the layer's first number is the epoch that it has reached."""

    def score(self, layer: Layer) -> tuple[float, float]:
        return VAL_LOSSES[int(layer.flat[0]) - 1], 0.5


def learn(patience: int | None, held_out: Any = HeldOut) -> tuple[list[Epoch], int, float, list[Epoch]]:
    layer = Layer(torch.zeros(3), 1)

    def progress() -> Iterator[tuple[float, float]]:
        for epoch in range(1, 8):
            layer.flat += 1
            yield 1 / epoch, epoch / 10

    told: list[Epoch] = []
    rows = None if held_out is None else cast("Rows", held_out())
    history, best = watch(progress(), layer, rows, patience, told.append)
    return history, best, float(layer.flat[0]), told


def test_watch__all_epochs() -> None:
    history, best, kept, told = learn(None)
    assert history == told
    assert history[1] == Epoch(2, 0.5, 0.2, 0.5, 0.5)
    assert [epoch.val_loss for epoch in history] == VAL_LOSSES
    assert (best, kept) == (7, 7)


def test_watch__without_validation_rows() -> None:
    history, best, kept, _ = learn(None, None)
    assert history[1] == Epoch(2, 0.5, 0.2, None, None)
    assert (len(history), best, kept) == (7, 7, 7)


@pytest.mark.parametrize(("patience", "epochs", "best"), [(1, 3, 2), (2, 6, 4), (3, 7, 7)])
def test_watch__stops_and_goes_back_to_the_best(patience: int, epochs: int, best: int) -> None:
    history, kept_epoch, kept, told = learn(patience)
    assert history == told
    assert (len(history), kept_epoch, kept) == (epochs, best, best)
