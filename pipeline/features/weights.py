"""The backbone's weights: where they come from, and the digest of their values.

Weights are data: no checkpoint is unpickled into anything but tensors. Torch is imported only
where a file has to be read whose digest is not known yet.
"""

from __future__ import annotations

import contextlib
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.architectures import VGG16
from pipeline.console import printable
from pipeline.errors import WeightsError
from pipeline.features import oxford
from pipeline.features.checkpoints import IMAGENET_MEAN, IMAGENET_STD, alternatives, fetch, published
from pipeline.features.normalisation import noted_normalisation
from pipeline.features.state import CONVOLUTIONS, State, digest_of, user_cache
from pipeline.files import StatCache

if TYPE_CHECKING:
    import torch

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
    backbone : str
        The network that they are of.
    """

    name: str
    sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    file: Path | None
    backbone: str = VGG16


def resolve_weights(name: str, root: Path, backbone: str = VGG16) -> Weights:
    """Find out what `name` stands for, fetching nothing that is not needed for its digest.

    Parameters
    ----------
    name : str
        ``oxford`` (of VGG16), a name of torchvision's, ``random``, or a path; a relative one starts at
        `root`.
    root : Path
        The workspace.
    backbone : str, default "vgg16"
        The network, one of `pipeline.architectures.ARCHITECTURES`.

    Raises
    ------
    WeightsError
        No such weights, or they cannot be fetched or read.
    """
    if name == "oxford" and backbone == VGG16:
        return Weights(name, oxford.VALUES_SHA256, oxford.MEAN, oxford.STD, oxford.weights_file())
    if name == "random":
        digest = digest_of(_random(backbone))
        return Weights(name, digest, IMAGENET_MEAN, IMAGENET_STD, None, backbone)
    if checkpoint := published(backbone, name):
        file = checkpoint.file
        if not file.is_file():
            fetch(backbone, name)
        digest = _known_digest(file, backbone)
        return Weights(name, digest, checkpoint.mean, checkpoint.std, file, backbone)
    try:
        file = root / Path(name).expanduser()
    except RuntimeError:
        raise _unfit(f"{printable(name)}: no such user", backbone) from None
    if file.suffix not in {".pth", ".pt", ".safetensors"}:
        raise _unfit(f"{name!r} is unknown", backbone)
    if not file.is_file():
        raise _unfit(f"{printable(str(file))} does not exist", backbone)
    mean, std = noted_normalisation(file) or (IMAGENET_MEAN, IMAGENET_STD)
    return Weights(name, _known_digest(file, backbone), mean, std, file, backbone)


def load_weights(weights: Weights) -> State:
    """Read the weights themselves.

    Returns
    -------
    dict of str to ndarray
        float32. Of VGG16: ``{index}.weight`` of shape (out, in, 3, 3) and ``{index}.bias`` of shape (out,),
        keys as in ``torchvision.models.vgg16().features``. Of the others all values but those of the last
        layer, keys as in torchvision's network. Inputs are RGB.

    Raises
    ------
    WeightsError
        They cannot be fetched, or are not what their digest says.
    """
    if weights.file is None:
        return _random(weights.backbone)
    if weights.name == "oxford":
        return oxford.load(weights.file)
    state = _read(weights.file, weights.backbone)
    if digest_of(state) != weights.sha256:
        raise WeightsError(f"{printable(str(weights.file))}: changed while it was being used. Run again.")
    return state


def _unfit(what: str, backbone: str) -> WeightsError:
    return WeightsError(f"extract.weights: {what}. {alternatives(backbone)}")


def _random(backbone: str) -> State:
    if backbone == VGG16:
        return _random_state()
    from pipeline.features.torch_network import random_state

    return random_state(backbone)


def _random_state() -> State:
    """Return He-normal weights of VGG16, for tests: made without torch, the same everywhere."""
    generator = np.random.default_rng(0)
    state: State = {}
    for index, inputs, outputs in CONVOLUTIONS:
        kernel = generator.standard_normal((outputs, inputs, 3, 3), dtype=np.float32)
        state[f"{index}.weight"] = kernel * np.float32(np.sqrt(2 / (inputs * 9)))
        state[f"{index}.bias"] = np.zeros(outputs, np.float32)
    return state


def _known_digest(file: Path, backbone: str) -> str:
    """Digest of a file's weights, read only if the file is new or has changed."""
    seen = StatCache(user_cache() / "weights-seen.json")
    status = file.stat()
    name = str(file.resolve()) if backbone == VGG16 else f"{file.resolve()} as {backbone}"
    digest = seen.recall(name, status)
    if not isinstance(digest, str):
        digest = digest_of(_read(file, backbone))
        seen.remember(name, status, digest)
        with contextlib.suppress(OSError):  # where it cannot be remembered, it is taken again
            seen.save()
    return digest


def _read(file: Path, backbone: str) -> State:
    """Read a checkpoint, keeping what comes before the last layer; of VGG16 the convolutions."""
    import torch

    tensors = _tensors(file)
    foreign: list[str] = []
    if backbone == VGG16:
        shapes, prefix, expected = _shapes(), "features.", "vgg16, or of its features"
    else:
        from pipeline.features.torch_network import is_left_out, present_name, shapes_of

        shapes, prefix, expected = shapes_of(backbone), "", backbone
        tensors = {present_name(key): tensor for key, tensor in tensors.items() if isinstance(key, str)}
        # resnet34 has all that resnet18 has, and more
        foreign = [key for key in tensors if key not in shapes and not is_left_out(backbone, key)]
    shown = printable(str(file))
    state: State = {}
    for key, shape in shapes.items():
        name = prefix + key
        tensor = tensors.get(name, tensors.get(key))
        if not isinstance(tensor, torch.Tensor) or tensor.shape != shape or not _is_plain(tensor):
            raise WeightsError(
                f"extract.weights: {shown} lacks a float tensor {name} of shape {shape}: "
                f"expected the keys of torchvision's {expected}."
            )
        state[key] = tensor.detach().to(torch.float32).contiguous().numpy()
        if not np.isfinite(state[key]).all():
            raise WeightsError(f"extract.weights: {shown}: {name} holds numbers that are not finite.")
    if foreign:
        raise WeightsError(
            f"extract.weights: {shown} holds {printable(foreign[0])}, which torchvision's {backbone} has "
            f"not. Set extract.backbone to the network that the file is of."
        )
    return state


def _shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of VGG16's convolutions, by their names in ``features``."""
    shapes: dict[str, tuple[int, ...]] = {}
    for index, inputs, outputs in CONVOLUTIONS:
        shapes[f"{index}.weight"], shapes[f"{index}.bias"] = (outputs, inputs, 3, 3), (outputs,)
    return shapes


def _tensors(file: Path) -> dict[Any, Any]:
    """Read a file that may hold tensors, and nothing that runs; empty if it holds no names."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            tensors: Any = load_file(file)
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (*_READER_ERRORS, SafetensorError) as error:
        raise WeightsError(
            f"extract.weights: {printable(str(file))} cannot be read as plain tensors "
            f"({type(error).__name__}). Save a state dict: torch.save(network.state_dict(), ...)."
        ) from error
    return tensors if isinstance(tensors, dict) else {}


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether it holds real numbers, all of them, here."""
    import torch

    return tensor.is_floating_point() and tensor.layout is torch.strided and not tensor.is_meta
