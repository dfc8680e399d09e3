"""VGG16 in two parts: the one that stays as it is, and the one that learns, with a linear layer at its end.

Owns the modules. It reads and trains nothing.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision

from pipeline.features.state import State
from pipeline.features.torch_backbone import TorchBackbone, load_network
from pipeline.features.weights import Weights
from pipeline.heads.linear_layer import LinearLayer
from pipeline.networks.blocks import Cut
from pipeline.networks.torch_learner import exact_kernels

# Images whose activations are held at once: a CPU's caches hold no more.
_PIECE = {"cpu": 8}
_LARGER_PIECE = 64


class Head(torch.nn.Module):
    """A linear layer on features that are brought to a root-mean-square norm of 1, as in `TorchLinear`.

    Parameters
    ----------
    scale : float
        Features are multiplied by it.
    k, columns : int
        Classes and features. It starts as zeros.
    """

    def __init__(self, scale: float, k: int, columns: int) -> None:
        super().__init__()
        self.scale = scale
        self.linear = torch.nn.Linear(columns, k)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Score unscaled features, shape (n, columns); returns logits, shape (n, k)."""
        logits: torch.Tensor = self.linear(features * self.scale)
        return logits

    @torch.no_grad()
    def start_from(self, layer: LinearLayer) -> None:
        """Take the values of a trained layer."""
        self.linear.weight.copy_(torch.from_numpy(layer.weight / self.scale))
        self.linear.bias.copy_(torch.from_numpy(layer.bias))

    def layer(self) -> tuple[Any, Any]:
        """Return the weight, float32, shape (k, columns), and bias, (k,), for unscaled features."""
        weight = self.linear.weight.detach().cpu().numpy() * np.float32(self.scale)
        return weight, self.linear.bias.detach().cpu().numpy().copy()


class Network(torch.nn.Module):
    """The part of VGG16 that learns, and a head.

    Parameters
    ----------
    features : torch.nn.Sequential
        Layers, by their names in torchvision's ``vgg16().features``.
    head : Head
    """

    def __init__(self, features: torch.nn.Sequential, head: Head) -> None:
        super().__init__()
        self.features = features
        self.avgpool = torch.nn.AdaptiveAvgPool2d((7, 7))
        self.head = head

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Score what the frozen part gives, shape (n, channels, height, width); returns logits, (n, k)."""
        features = self.avgpool(self.features(inputs)).flatten(1)
        logits: torch.Tensor = self.head(features)
        return logits

    def learned(self) -> State:
        """Return the convolutions that learn, as `load_weights` names them."""
        return {
            name: value.detach().cpu().numpy().copy() for name, value in self.features.state_dict().items()
        }


def learning_part(weights: Weights, cut: Cut) -> torch.nn.Sequential:
    """Return the layers from the cut on, of values of their own, trainable."""
    [features, *_] = load_network(weights)
    layers = OrderedDict(list(features.named_children())[cut.start :])
    return copy.deepcopy(torch.nn.Sequential(layers)).requires_grad_(True)


def frozen_part(
    weights: Weights, cut: Cut, precision: str, device: torch.device, dimension: int
) -> TorchBackbone:
    """Set up the layers before the cut, from pixels to rows, as a backbone of their own.

    Parameters
    ----------
    weights : Weights
    cut : Cut
    precision : {"half", "float32"}
    device : torch.device
    dimension : int
        Numbers of a row.
    """
    [features, *_] = load_network(weights)
    part = torch.nn.Sequential(*list(features.children())[: cut.start], torch.nn.Flatten())
    return TorchBackbone(weights, precision, device, part, dimension)


class Tail:
    """The layers from a cut on, in float32: from what goes in there to features.

    Parameters
    ----------
    weights : Weights
    cut : Cut
    image_size : int
    device : torch.device

    Attributes
    ----------
    made_with : dict of str to str
        Device and versions, to be recorded with the features.
    """

    def __init__(self, weights: Weights, cut: Cut, image_size: int, device: torch.device) -> None:
        features, *rest = load_network(weights)
        self._layers = torch.nn.Sequential(*list(features.children())[cut.start :], *rest).to(device)
        self._device, self._shape = device, cut.shape(image_size)
        self._piece = _PIECE.get(device.type, _LARGER_PIECE)
        self.made_with = {
            "device": device.type,
            "backend": "torch",
            "computed_in": f"float32 from {cut.layer} on",
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        }

    @torch.inference_mode()
    def __call__(self, rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
        """Push rows through, shape (n, numbers of an image); returns features, shape (n, dimension)."""
        with exact_kernels():
            pieces = [
                self._layers(piece.to(self._device, torch.float32).view(-1, *self._shape)).cpu()
                for piece in torch.split(torch.from_numpy(rows), self._piece)
            ]
        features: npt.NDArray[np.float32] = torch.cat(pieces).numpy()
        return features
