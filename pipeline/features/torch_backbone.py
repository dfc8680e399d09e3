"""The frozen network by way of torch, on every device that torch has.

Owns devices and precision. The networks are torchvision's own definitions, cut before their last layer;
VGG16 is cut after ``avgpool``.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torchvision.models import vgg16

from pipeline.architectures import VGG16, architecture_of
from pipeline.console import note
from pipeline.errors import DeviceError
from pipeline.features.backbone import CPU_BFLOAT16
from pipeline.features.torch_fused import fused
from pipeline.features.weights import Weights, load_weights

# A CPU's caches hold the activations of a few images: 4 at once were a tenth faster than 16. CUDA
# takes several pieces, so that copies of one and computation of another overlap.
_FAST_BATCH = {"cpu": 4, "mps": 16, "cuda": 256}
_CUDA_PIECE = 64


class TorchBackbone:
    """A network of torchvision's from pixels to features; see `Backbone`.

    A batch that the device has no memory for is halved, and stays so for later calls. On CUDA the
    kernels, and with them the last bits of a row, may be others for another number of rows.

    Parameters
    ----------
    weights : Weights
        Whose values are loaded (fetched, where they are absent).
    precision : {"half", "float32"}
        Precision class.
    device : torch.device
        Where it runs.
    part : torch.nn.Sequential, optional
        Of the network, to be run in its place, from normalised images to rows.
    dimension : int, optional
        Columns of these rows; needed with `part`.
    storage : {"float32", "float16"}
        Type of the rows that are returned. Rounded on the device, they cost half the way back.

    Raises
    ------
    DeviceError
        The device has not the memory for the weights.
    """

    def __init__(
        self,
        weights: Weights,
        precision: str,
        device: torch.device,
        part: torch.nn.Sequential | None = None,
        dimension: int = 0,
        storage: str = "float32",
    ) -> None:
        self._device = device
        self._dtype = forward_dtype(precision, device)
        self._stored: torch.dtype = getattr(torch, storage)
        self._dimension = dimension if part else architecture_of(weights.backbone).dimension
        self._network = part or load_network(weights)
        try:
            # channels last: a third faster here on CPU, and what tensor cores want
            self._network.to(device, self._dtype).to(memory_format=torch.channels_last)
            if device.type == "cuda" and self._dtype != torch.float32 and torch.version.cuda:
                self._network = fused(self._network)
            self._mean = torch.tensor(weights.mean, device=device).view(1, 3, 1, 1)
            self._std = torch.tensor(weights.std, device=device).view(1, 3, 1, 1)
        except torch.OutOfMemoryError as error:
            raise DeviceError(
                f"{device} has not the memory for the network: free some, or give --device cpu."
            ) from error
        self._largest_piece = sys.maxsize
        if device.type == "cuda":
            self._largest_piece = _CUDA_PIECE
            streams = [torch.cuda.Stream(device) for _ in range(2)]  # type: ignore[no-untyped-call]
            self._streams = itertools.cycle(streams)
        self._wait()  # the streams do not wait for the weights by themselves
        self.batch_size = _FAST_BATCH[device.type]
        self.made_with = {
            "device": device.type,
            "backend": "torch",
            "computed_in": str(self._dtype).removeprefix("torch."),
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        }

    @torch.inference_mode()
    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating[Any]]:
        """Push images through; see `Backbone`."""
        rows = torch.from_numpy(np.require(pixels, requirements="W"))  # torch wants what it may write
        pinned = self._device.type == "cuda"
        features = torch.empty((len(rows), self._dimension), dtype=self._stored, pin_memory=pinned)
        start = 0
        while start < len(rows):
            piece = slice(start, min(start + self._largest_piece, len(rows)))
            try:
                self._begin(rows[piece], features[piece])
            except torch.OutOfMemoryError as error:
                self._halve(piece.stop - start, error)
            else:
                start = piece.stop
        self._wait()
        return features.numpy()

    @torch.inference_mode()
    def on_device(self, rows: torch.Tensor) -> torch.Tensor:
        """Push images through that lie on the device, all at once.

        Parameters
        ----------
        rows : torch.Tensor of uint8, shape (n, 3, height, width)

        Returns
        -------
        torch.Tensor of the type of `storage`, shape (n, dimension)
            On the device. On CUDA it may still be under way.
        """
        # A batch of one takes other CPU kernels, which round differently: it goes as a pair.
        count = len(rows)
        if count == 1 and self._device.type == "cpu":
            rows = rows.expand(2, -1, -1, -1)
        inputs = rows.to(torch.float32).div_(255).sub_(self._mean).div_(self._std)
        inputs = inputs.to(self._dtype, memory_format=torch.channels_last)
        # deterministic kernels, and float32 that is float32: cuDNN takes TF32 by default
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            result: torch.Tensor = self._network(inputs)[:count]
        return result.to(self._stored)

    def _begin(self, rows: torch.Tensor, features: torch.Tensor) -> None:
        """Push rows through. On CUDA this returns at once, and `_wait` waits for the result."""
        if self._device.type != "cuda":
            features.copy_(self.on_device(rows.to(self._device)))
            return
        with torch.cuda.stream(next(self._streams)):
            on_device = rows.pin_memory().to(self._device, non_blocking=True)
            features.copy_(self.on_device(on_device), non_blocking=True)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _halve(self, count: int, error: torch.OutOfMemoryError) -> None:
        self._wait()  # what is under way gives its memory back
        if count == 1:
            raise DeviceError(
                f"{self._device} ran out of memory with a single image: free some, or give --device cpu."
            ) from error
        self._largest_piece = count // 2
        note(f"{self._device} ran out of memory with {count} images at once: going on with {count // 2}")


def load_network(weights: Weights) -> torch.nn.Sequential:
    """Make the frozen network, in float32 on the CPU.

    Parameters
    ----------
    weights : Weights
        Whose values are loaded (fetched, where they are absent).

    Returns
    -------
    torch.nn.Sequential
        The network of `weights` without its last layer; of VGG16 ``features``, ``avgpool``, flatten. In
        evaluation mode, no parameter trainable. From normalised images, float32, shape
        (n, 3, height, width), to features, float32, shape (n, dimension).

    Raises
    ------
    WeightsError
        The weights cannot be loaded.
    """
    if weights.backbone != VGG16:
        from pipeline.features.torch_network import network_of

        network = torch.nn.Sequential(network_of(weights.backbone, load_weights(weights)))
        return network.eval().requires_grad_(False)
    with torch.device("meta"):  # the classifier's 124 million weights are never made
        whole = vgg16(weights=None)
    state = {key: torch.from_numpy(value) for key, value in load_weights(weights).items()}
    whole.features.load_state_dict(state, assign=True)
    frozen = torch.nn.Sequential(whole.features, whole.avgpool, torch.nn.Flatten())
    return frozen.eval().requires_grad_(False)


def limit_threads(threads: int | None) -> None:
    """Have torch compute in so many threads of this process; None leaves it as it is."""
    if threads is not None:
        torch.set_num_threads(threads)


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
    return any(capabilities.get(name, False) for name in CPU_BFLOAT16)
