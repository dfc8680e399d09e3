"""VGG's layers in the shape that NVIDIA's tensor cores are fast with: the same numbers, but for rounding.

Owns which layers are put together, and nothing of what they compute. It runs on CUDA only.
"""

from __future__ import annotations

from typing import TypeGuard, cast

import torch

# Tensor cores take channels in eights; cuDNN's kernel for the three of an image took twice the time.
_CHANNELS = 8


def fused(network: torch.nn.Sequential) -> torch.nn.Sequential:
    """Put each convolution and the ReLU behind it into one kernel, and speed up the halving of sides.

    Run one by one, a convolution, its bias and its ReLU write and read their output three times: on an H200
    VGG16 took 1.5 times as long so.

    Parameters
    ----------
    network : torch.nn.Sequential
        Its modules, and those of any sequence in it, are looked at in order; unknown ones stay as they are.

    Returns
    -------
    torch.nn.Sequential
        On the same parameters where they need no padding. For inputs in half precision, channels last.
    """
    modules = list(_flat(network))
    layers: list[torch.nn.Module] = []
    while modules:
        module = modules.pop(0)
        if _is_plain(module) and modules and isinstance(modules[0], torch.nn.ReLU):
            modules.pop(0)
            module = _ConvolutionReLU(module)
        elif isinstance(module, torch.nn.MaxPool2d) and _halves(module):
            module = _MaxOfFour()
        layers.append(module)
    return torch.nn.Sequential(*layers)


class _ConvolutionReLU(torch.nn.Module):
    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self._padding = cast("tuple[int, ...]", convolution.padding)
        self._stride = convolution.stride
        self._dilation = convolution.dilation
        self._missing = -convolution.in_channels % _CHANNELS
        weight, self.bias = convolution.weight, convolution.bias
        if self._missing:
            weight = torch.nn.Parameter(self._padded(weight), requires_grad=False)
        self.weight = weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        inputs = self._padded(inputs) if self._missing else inputs
        result: torch.Tensor = torch.cudnn_convolution_relu(
            inputs, self.weight, self.bias, self._stride, self._padding, self._dilation, 1
        )
        return result

    def _padded(self, values: torch.Tensor) -> torch.Tensor:
        """Add channels of zeros."""
        return torch.nn.functional.pad(values, (0, 0, 0, 0, 0, self._missing))


class _MaxOfFour(torch.nn.Module):
    """``MaxPool2d(2)`` as a maximum over two axes, which takes three quarters of its time on an H200."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        n, channels, height, width = inputs.shape
        # channels last by shape, too, so that the result is so in memory
        whole = inputs[:, :, : height // 2 * 2, : width // 2 * 2].permute(0, 2, 3, 1)
        return whole.reshape(n, height // 2, 2, width // 2, 2, channels).amax((2, 4)).permute(0, 3, 1, 2)


def _flat(module: torch.nn.Module) -> list[torch.nn.Module]:
    if not isinstance(module, torch.nn.Sequential):
        return [module]
    return [inner for child in module for inner in _flat(child)]


def _is_plain(module: torch.nn.Module) -> TypeGuard[torch.nn.Conv2d]:
    return (
        isinstance(module, torch.nn.Conv2d)
        and module.groups == 1
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and module.bias is not None
    )


def _halves(pool: torch.nn.MaxPool2d) -> bool:
    asked = (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode, pool.return_indices)
    return asked == (2, 2, 0, 1, False, False)
