"""The weights that torchvision publishes: their names, files and normalisation, and how they are fetched.

Owns what torchvision calls them. Their values it never looks at. Torch is imported only for networks other
than VGG16, or to fetch something.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from pipeline.architectures import VGG16, architecture_of
from pipeline.console import note, printable
from pipeline.errors import WeightsError
from pipeline.features import oxford

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Checkpoint file and normalisation of torchvision's ``VGG16_Weights``.
_VGG16 = {
    "IMAGENET1K_V1": ("vgg16-397923af.pth", IMAGENET_MEAN, IMAGENET_STD),
    "IMAGENET1K_FEATURES": (
        "vgg16_features-amdegroot-88682ab5.pth",
        (0.48235, 0.45882, 0.40784),
        oxford.STD,
    ),
}
# All names that torchvision has given so far begin so.
_DEFAULT, _PREFIX = "DEFAULT", "IMAGENET1K_"


@dataclass(frozen=True)
class Checkpoint:
    """Published weights.

    Attributes
    ----------
    file : Path
        Where torchvision keeps them once they are fetched.
    mean, std : tuple of float
        Normalisation of red, green and blue in [0, 1] that they were trained with. The other settings of
        torchvision's presets, sizes and interpolation, are not taken over: ``params.yaml`` says the sizes,
        and the interpolation is bilinear for every network.
    """

    file: Path
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def published(backbone: str, name: str) -> Checkpoint | None:
    """Return the weights that torchvision calls `name`, or None if it has none of that name.

    Parameters
    ----------
    backbone : str
        One of `pipeline.architectures.ARCHITECTURES`.
    name : str
        ``IMAGENET1K_V1`` and the like; of networks other than VGG16 ``DEFAULT``, too.
    """
    if backbone == VGG16:
        if name not in _VGG16:
            return None
        checkpoint, mean, std = _VGG16[name]
        return Checkpoint(_folder() / checkpoint, mean, std)
    if name != _DEFAULT and not name.startswith(_PREFIX):
        return None
    member = _members(backbone).get(name)
    if member is None:
        return None
    preset = member.transforms()
    return Checkpoint(_folder() / member.url.rpartition("/")[2], tuple(preset.mean), tuple(preset.std))


def fetch(backbone: str, name: str) -> None:
    """Have torchvision download weights that are `published`.

    Raises
    ------
    WeightsError
        They cannot be downloaded.
    """
    member = _members(backbone)[name]
    preset = member.transforms()
    network = type(member).__name__.removesuffix("_Weights")
    note(f"fetching torchvision's {network} weights {name} into {printable(str(torch_home()))}")
    if backbone != VGG16:
        note(
            f"torchvision scores them with extract.resize {preset.resize_size[0]} and "
            f"extract.image_size {preset.crop_size[0]}"
        )
    try:
        member.get_state_dict(progress=False, check_hash=True)
    # URLError is an OSError; a wrong hash is a RuntimeError
    except (OSError, HTTPException, RuntimeError) as error:
        raise WeightsError(
            f"extract.weights: {name} is not in {printable(str(torch_home()))} and cannot be downloaded "
            f"({printable(str(error))}). {alternatives(backbone)}"
        ) from error


def alternatives(backbone: str) -> str:
    """Say what ``extract.weights`` can be."""
    if backbone == VGG16:
        return (
            "Set extract.weights to `oxford` (from the package index), `IMAGENET1K_V1` or "
            "`IMAGENET1K_FEATURES` (from torchvision), or the path of a .pth or .safetensors file with the "
            "keys of torchvision's vgg16."
        )
    return (
        f"Set extract.weights to {', '.join(_members(backbone))} (from torchvision), or to the path of a "
        f".pth or .safetensors file with the keys of torchvision's {backbone}; or extract.backbone to vgg16, "
        f"whose weights are on the package index."
    )


def torch_home() -> Path:
    """Torch's own rule for its cache folder, applied without importing torch."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("TORCH_HOME", str(Path(cache) / "torch"))).expanduser()


def _folder() -> Path:
    return torch_home() / "hub" / "checkpoints"


def _members(backbone: str) -> dict[str, Any]:
    """Torchvision's weights by name, ``DEFAULT`` first, without those made for images of another size."""
    from torchvision.models import get_model_weights

    published: Any = get_model_weights(backbone)
    known = {_DEFAULT: published.DEFAULT, **published.__members__}
    architecture = architecture_of(backbone)
    if not architecture.only_smallest:
        return known
    size = (architecture.smallest, architecture.smallest)
    return {name: member for name, member in known.items() if member.meta["min_size"] == size}
