"""The backbone's weights: where they come from, and the digest of their values.

Weights are data: no checkpoint is unpickled into anything but tensors. Torch is imported only
where a file has to be read whose digest is not known yet.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.console import note, printable
from pipeline.errors import WeightsError
from pipeline.features import oxford
from pipeline.features.state import CONVOLUTIONS, State, digest_of, user_cache
from pipeline.files import StatCache

if TYPE_CHECKING:
    import torch

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Checkpoint file and normalisation of torchvision's ``VGG16_Weights``.
_TORCHVISION = {
    "IMAGENET1K_V1": ("vgg16-397923af.pth", _IMAGENET_MEAN, _IMAGENET_STD),
    "IMAGENET1K_FEATURES": (
        "vgg16_features-amdegroot-88682ab5.pth",
        (0.48235, 0.45882, 0.40784),
        oxford.STD,
    ),
}
_ALTERNATIVES = (
    "Set extract.weights to `oxford` (from the package index), `IMAGENET1K_V1` or `IMAGENET1K_FEATURES` "
    "(from torchvision), or the path of a .pth or .safetensors file with the keys of torchvision's vgg16."
)


# All that torch's reader of tensors was seen, or can be read, to raise over damaged bytes.
_READER_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, TypeError, ValueError, pickle.UnpicklingError, struct.error,
)  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """Weights that a name in ``params.yaml`` stands for.

    Attributes
    ----------
    name : str
        As in ``extract.weights``.
    sha256 : str
        Digest of the values, see `digest_of`.
    mean, std : tuple of float
        Normalisation of red, green and blue in [0, 1] that these weights were trained with.
    file : Path or None
        Where they are kept; None for ``random``.
    """

    name: str
    sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    file: Path | None


def resolve_weights(name: str, root: Path) -> Weights:
    """Find out what `name` stands for, fetching nothing that is not needed for its digest.

    Parameters
    ----------
    name : str
        ``oxford``, a name of torchvision's, ``random``, or a path; a relative one starts at `root`.
    root : Path
        The workspace.

    Raises
    ------
    WeightsError
        No such weights, or they cannot be fetched or read.
    """
    if name == "oxford":
        return Weights(name, oxford.VALUES_SHA256, oxford.MEAN, oxford.STD, oxford.weights_file())
    if name == "random":
        return Weights(name, digest_of(_random_state()), _IMAGENET_MEAN, _IMAGENET_STD, None)
    if name in _TORCHVISION:
        checkpoint, mean, std = _TORCHVISION[name]
        file = _torch_home() / "hub" / "checkpoints" / checkpoint
        if not file.is_file():
            _download_with_torchvision(name)
        return Weights(name, _known_digest(file), mean, std, file)
    try:
        file = root / Path(name).expanduser()
    except RuntimeError:
        raise WeightsError(f"extract.weights: {printable(name)}: no such user. {_ALTERNATIVES}") from None
    if file.suffix not in {".pth", ".pt", ".safetensors"}:
        raise WeightsError(f"extract.weights: {name!r} is unknown. {_ALTERNATIVES}")
    if not file.is_file():
        raise WeightsError(f"extract.weights: {printable(str(file))} does not exist. {_ALTERNATIVES}")
    return Weights(name, _known_digest(file), _IMAGENET_MEAN, _IMAGENET_STD, file)


def load_weights(weights: Weights) -> State:
    """Read the weights themselves.

    Returns
    -------
    dict of str to ndarray
        float32; ``{index}.weight`` of shape (out, in, 3, 3) and ``{index}.bias`` of shape (out,),
        keys as in ``torchvision.models.vgg16().features``. Inputs are RGB.

    Raises
    ------
    WeightsError
        They cannot be fetched, or are not what their digest says.
    """
    if weights.file is None:
        return _random_state()
    if weights.name == "oxford":
        return oxford.load(weights.file)
    state = _read(weights.file)
    if digest_of(state) != weights.sha256:
        raise WeightsError(f"{printable(str(weights.file))}: changed while it was being used. Run again.")
    return state


def _random_state() -> State:
    """Return He-normal weights of a fixed seed, for tests: made without torch, the same everywhere."""
    generator = np.random.default_rng(0)
    state: State = {}
    for index, inputs, outputs in CONVOLUTIONS:
        kernel = generator.standard_normal((outputs, inputs, 3, 3), dtype=np.float32)
        state[f"{index}.weight"] = kernel * np.float32(np.sqrt(2 / (inputs * 9)))
        state[f"{index}.bias"] = np.zeros(outputs, np.float32)
    return state


def _torch_home() -> Path:
    """Torch's own rule for its cache folder, applied without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", str(Path(cache) / "torch"))).expanduser()


def _download_with_torchvision(name: str) -> None:
    from torchvision.models import VGG16_Weights

    note(f"fetching torchvision's VGG16 weights {name} into {printable(str(_torch_home()))}")
    try:
        VGG16_Weights[name].get_state_dict(progress=False, check_hash=True)
    # URLError is an OSError; a wrong hash is a RuntimeError
    except (OSError, HTTPException, RuntimeError) as error:
        raise WeightsError(
            f"extract.weights: {name} is not in {printable(str(_torch_home()))} and cannot be downloaded "
            f"({printable(str(error))}). {_ALTERNATIVES}"
        ) from error


def _known_digest(file: Path) -> str:
    """Digest of a file's weights, read only if the file is new or has changed."""
    seen = StatCache(user_cache() / "weights-seen.json")
    status = file.stat()
    digest = seen.recall(str(file.resolve()), status)
    if not isinstance(digest, str):
        digest = digest_of(_read(file))
        seen.remember(str(file.resolve()), status, digest)
        with contextlib.suppress(OSError):  # where it cannot be remembered, it is taken again
            seen.save()
    return digest


def _read(file: Path) -> State:
    """Read a checkpoint, keeping the convolutions of ``features`` only."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    shown = printable(str(file))
    try:
        if file.suffix == ".safetensors":
            tensors: Any = load_file(file)
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (*_READER_ERRORS, SafetensorError) as error:
        raise WeightsError(
            f"extract.weights: {shown} cannot be read as plain tensors ({type(error).__name__}). "
            f"Save a state dict: torch.save(network.state_dict(), ...)."
        ) from error
    state: State = {}
    for index, inputs, outputs in CONVOLUTIONS:
        for part, shape in (("weight", (outputs, inputs, 3, 3)), ("bias", (outputs,))):
            key = f"{index}.{part}"
            tensor = tensors.get(f"features.{key}", tensors.get(key)) if isinstance(tensors, dict) else None
            if not isinstance(tensor, torch.Tensor) or tensor.shape != shape or not _is_plain(tensor):
                raise WeightsError(
                    f"extract.weights: {shown} lacks a float tensor features.{key} of shape {shape}: "
                    f"expected the keys of torchvision's vgg16, or of its features."
                )
            state[key] = tensor.detach().to(torch.float32).contiguous().numpy()
            if not np.isfinite(state[key]).all():
                raise WeightsError(
                    f"extract.weights: {shown}: features.{key} holds numbers that are not finite."
                )
    return state


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it holds real numbers, all of them, here."""
    import torch

    return tensor.is_floating_point() and tensor.layout is torch.strided and not tensor.is_meta
