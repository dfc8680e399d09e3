"""What the tests of the backbones share: pixels, and torchvision's own forward pass."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional
from torchvision.models import vgg16

from pipeline.features.weights import Weights, load_weights

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="the extra `openvino` is not installed"
)


def some_pixels(count: int, size: int = 32, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth colours, shape (count, 3, size, size), channels last in memory as the decoder has them."""
    coarse = torch.rand((count, 3, 6, 6), generator=torch.Generator().manual_seed(seed))
    smooth = functional.interpolate(coarse, (size, size), mode="bilinear")
    pixels: npt.NDArray[np.uint8] = (smooth * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return np.ascontiguousarray(pixels).transpose(0, 3, 1, 2)


@functools.cache
def _torchvision_network() -> Any:
    return vgg16(weights=None, init_weights=False).eval()


@torch.inference_mode()
def direct_forward(state: Mapping[str, Any], inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Torchvision's own forward pass up to the classifier, as its source has it."""
    network = _torchvision_network()
    network.features.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    outputs = network.avgpool(network.features(torch.from_numpy(inputs)))
    result: npt.NDArray[Any] = torch.flatten(outputs, 1).numpy()
    return result


def expected_features(weights: Weights, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Float32 features by torchvision, with the normalisation of its documentation or of `weights`."""
    mean, std = (np.array(values)[:, None, None] for values in (weights.mean, weights.std))
    inputs = ((pixels / 255.0 - mean) / std).astype(np.float32)
    return direct_forward(load_weights(weights), inputs)


def cosines(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Cosine of the angle between rows."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    result: npt.NDArray[np.float64] = (found * expected).sum(axis=1) / lengths
    return result
