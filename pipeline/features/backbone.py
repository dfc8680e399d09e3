"""The frozen network: pixels in, features out; and the choice of what runs it, and where.

Owns that choice. It imports neither torch nor OpenVINO unless that one is to run.
"""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline import gpu
from pipeline.architectures import VGG16
from pipeline.errors import DeviceError
from pipeline.features.weights import Weights

#: What a CPU with native bfloat16 has one of, as Linux and torch call them.
CPU_BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16"})


class Backbone(Protocol):
    """A network from pixels to the features that `pipeline.architectures` describes.

    Attributes
    ----------
    batch_size : int
        How many images to hand over at once where speed is all that counts.
    made_with : dict of str to str
        Device, backend, the type computed in, and versions: to be recorded with the features.
    """

    batch_size: int
    made_with: dict[str, str]

    def __call__(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.floating[Any]]:
        """Push images through.

        Parameters
        ----------
        pixels : ndarray of uint8, shape (n, 3, height, width)
            Red, green and blue, 0 to 255; fastest if channels vary fastest in memory.

        Returns
        -------
        ndarray of float32, or of the type that is stored, shape (n, dimension)
            A row depends on its own pixels only. On a CPU that holds to the last bit, whatever `n`
            and the number of threads, for VGG16; other networks may round otherwise (by 2e-6 of the
            largest feature at most, where it was tried) for another `n`.

        Raises
        ------
        DeviceError
            The device has not the memory for a single image.
        """


def open_backbone(
    weights: Weights,
    precision: str,
    *,
    device: str = "auto",
    backend: str = "auto",
    quantised: Path | None = None,
    storage: str = "float32",
    threads: int | None = None,
) -> Backbone:
    """Set up the network.

    Parameters
    ----------
    weights : Weights
        Fetched, where they are absent and needed.
    precision : {"half", "float32", "int8"}
        Precision class.
    device : {"auto", "cuda", "mps", "cpu"}
        ``auto`` takes CUDA, then MPS, then the CPU; for ``int8`` the CPU.
    backend : {"auto", "torch", "openvino"}
        ``auto`` takes OpenVINO for ``int8``, and for VGG16 on x86 CPUs if it is installed.
    quantised : Path, optional
        The network of ``int8``; needed for that.
    storage : {"float32", "float16"}
        The type that the features will be stored in: a device may save the way for more.
    threads : int, optional
        Of the forward pass on a CPU.

    Raises
    ------
    DeviceError
        Device, backend and precision do not go together, or are not to be had here.
    WeightsError
        The weights, or the quantised network, cannot be loaded.
    """
    require_possible(precision, device, backend, weights.backbone)
    if precision == "int8":
        if quantised is None:
            raise ValueError("precision int8 needs a quantised network")
        backend = "openvino"
    elif (
        backend == "auto"
        and weights.backbone == VGG16
        and is_openvino_fast()
        and chosen_device(device) == "cpu"
    ):
        backend = "openvino"
    if backend == "openvino":
        from pipeline.features.openvino_backbone import OpenVinoBackbone

        return OpenVinoBackbone(weights, precision, quantised if precision == "int8" else None, threads)
    from pipeline.features.torch_backbone import TorchBackbone, choose_device, limit_threads

    limit_threads(threads)
    return TorchBackbone(weights, precision, choose_device(device), storage=storage)


def require_possible(
    precision: str, device: str, backend: str, network: str, decoder: str = "pillow"
) -> None:
    """Refuse what does not go together anywhere, before anything is loaded; parameters as above.

    Raises
    ------
    DeviceError
        ``int8``, or OpenVINO, is asked for together with another device or backend; or OpenVINO for another
        network than VGG16; or images decoded on a GPU for a network that is not run there.
    """
    if decoder == "nvjpeg" and (backend == "openvino" or device in ("cpu", "mps")):
        asked = "--backend openvino" if backend == "openvino" else f"--device {device}"
        raise DeviceError(
            f"{asked}: extract.decoder is nvjpeg, which runs on an NVIDIA GPU. Leave it out, or set "
            f"extract.decoder to pillow."
        )
    if backend == "openvino" and network != VGG16:
        raise DeviceError(
            f"--backend openvino: it runs vgg16 only, and extract.backbone is {network}. Leave --backend out."
        )
    if precision == "int8":
        _refuse("extract.precision is int8, which only OpenVINO computes, on a CPU", device, backend)
    elif backend == "openvino":
        _refuse("--backend openvino runs on a CPU", device, backend)


def _refuse(reason: str, device: str, backend: str) -> None:
    """Refuse another device than a CPU, and another backend than OpenVINO."""
    if device not in ("auto", "cpu"):
        raise DeviceError(f"--device {device}: {reason}. Leave --device out.")
    if backend == "torch":
        raise DeviceError(
            f"--backend torch: {reason}. Leave --backend out, or set extract.precision to half."
        )


def is_openvino_fast() -> bool:
    """Whether OpenVINO is here, and was measured on such a CPU to be faster than torch."""
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return on_x86 and importlib.util.find_spec("openvino") is not None


def chosen_device(device: str) -> str:
    """Say which device is meant by `device`, asking torch, whose import takes seconds, only if need be."""
    if device == "auto" and not gpu.may_be_here():
        return "cpu"
    if device == "auto":
        from pipeline.features.torch_backbone import choose_device

        return choose_device(device).type
    return device
