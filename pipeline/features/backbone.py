"""The frozen network: pixels in, features out.

Owns devices and precision. VGG16 is torchvision's own definition, cut after ``avgpool``.
"""

from __future__ import annotations

import torch
from torchvision.models import vgg16

from pipeline.errors import DeviceError
from pipeline.features.identity import DIMENSION
from pipeline.features.weights import Weights, load_weights


class Backbone:
    """VGG16 from pixels to the 25,088 numbers behind ``avgpool``.

    A row depends on its own pixels only, never on the rest of the batch.

    Parameters
    ----------
    weights : Weights
        Whose values are loaded (fetched, where they are absent).
    precision : {"half", "float32"}
        Precision class.
    device : torch.device
        Where it runs.
    """

    def __init__(self, weights: Weights, precision: str, device: torch.device) -> None:
        self.device = device
        self.dtype = forward_dtype(precision, device)
        with torch.device("meta"):  # the classifier's 124 million weights are never made
            network = vgg16(weights=None)
        state = {key: torch.from_numpy(value) for key, value in load_weights(weights).items()}
        network.features.load_state_dict(state, assign=True)
        self._network = torch.nn.Sequential(network.features, network.avgpool, torch.nn.Flatten())
        # channels last: a third faster here on CPU, and what tensor cores want
        self._network.to(device, self.dtype).to(memory_format=torch.channels_last)
        self._network.eval().requires_grad_(False)
        self._mean = torch.tensor(weights.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(weights.std, device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Push a batch through.

        Parameters
        ----------
        pixels : torch.Tensor of uint8, shape (n, 3, height, width)
            Red, green and blue, 0 to 255.

        Returns
        -------
        torch.Tensor of float32, shape (n, 25088), on the CPU

        Raises
        ------
        DeviceError
            The device ran out of memory.
        """
        # A batch of one takes other CPU kernels, which round differently: it goes as a pair.
        rows = len(pixels)
        pixels = pixels.expand(2, -1, -1, -1) if rows == 1 else pixels
        try:
            inputs = pixels.to(self.device).to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
            inputs = inputs.to(self.dtype, memory_format=torch.channels_last)
            # deterministic kernels, and float32 that is float32: cuDNN takes TF32 by default
            with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                features: torch.Tensor = self._network(inputs)[:rows]
            return features.to("cpu", torch.float32).view(rows, DIMENSION)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{self.device} ran out of memory with {rows} images at once: "
                f"give a smaller --batch-size, or --device cpu."
            ) from error


def choose_device(name: str) -> torch.device:
    """Return the device called `name`; ``auto`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    DeviceError
        It is not to be had here.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        name = next(kind for kind, is_there in available.items() if is_there)
    if not available[name]:
        here = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise DeviceError(f"--device {name}: no such device here. Available: {here}; or leave it out.")
    return torch.device(name)


def forward_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type that the forward pass of a precision class computes in on a device.

    ``half`` allows whatever is at least as good: without native bfloat16 a CPU emulates it at an
    eighth of its float32 speed, and on MPS neither half type has been checked for overflow.
    """
    if precision == "half":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported(including_emulation=False)
            return torch.bfloat16 if native else torch.float16
        if device.type == "cpu" and _cpu_has_bfloat16():
            return torch.bfloat16
    return torch.float32


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
