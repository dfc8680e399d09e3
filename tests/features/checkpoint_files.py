"""Checkpoints for the tests of weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.features.weights import load_weights, resolve_weights

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> Tensors:
    """A state dict of torchvision's ``vgg16().features``."""
    random = resolve_weights("random", Path())
    return {key: torch.from_numpy(value) for key, value in load_weights(random).items()}


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make files look settled, so that their digest is remembered."""
    monkeypatch.setattr("pipeline.files._SETTLED_NS", -1)


def whole_network(tensors: Tensors) -> Tensors:
    """The same with the keys of the whole network, and something of its classifier."""
    return {f"features.{key}": value for key, value in tensors.items()} | {
        "classifier.0.weight": torch.zeros(2, 2)
    }


class _Code:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["XDG_CACHE_HOME"] + "/code-ran",)
