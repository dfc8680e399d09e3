"""Torchvision's definitions of the networks, without their last layer.

Owns how one is made, of which values it consists, and how old checkpoints call these. It reads no file,
and runs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torchvision.models import get_model

from pipeline.architectures import ARCHITECTURES
from pipeline.features.state import State

# Without the outputs that only training needs; and with the change of scale that torchvision's weights of
# these two were trained behind, and that it makes itself only where it loads them.
_OPTIONS = {"aux_logits": False, "transform_input": True, "init_weights": False}
_WITH_OPTIONS = ("googlenet", "inception_v3")

# Names that torchvision's own loaders of densenet*.pth and vit_*.pth translate, too.
_OLD_NAMES = (
    (re.compile(r"\A(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\..*)"), r"\1\2"),
    (re.compile(r"\A(.*\.mlp)\.linear_1(\..*)"), r"\g<1>.0\2"),
    (re.compile(r"\A(.*\.mlp)\.linear_2(\..*)"), r"\g<1>.3\2"),
)


def skeleton(backbone: str) -> torch.nn.Module:
    """Make a network without its last layer, and without the values of its parameters.

    Parameters
    ----------
    backbone : str
        One of `ARCHITECTURES`.

    Returns
    -------
    torch.nn.Module
        From images, shape (n, 3, height, width), to features, shape (n, dimension). Its parameters, but for
        a few small ones, are on the meta device, and take no memory.
    """
    with _Unallocated():
        return _cut(backbone)


def network_of(backbone: str, state: State) -> torch.nn.Module:
    """Make a network without its last layer, of given values.

    Parameters
    ----------
    backbone : str
        One of `ARCHITECTURES`.
    state : dict of str to ndarray of float32
        With the names and shapes of `shapes_of`.
    """
    network = skeleton(backbone)
    values = (
        network.state_dict()
    )  # with the versions that some layers ask for, and counters that are no values
    values.update({name: torch.from_numpy(value) for name, value in state.items()})
    network.load_state_dict(values, assign=True)
    return network


def shapes_of(backbone: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all values of a network but its last layer, by torchvision's names.

    Those are the parameters, and the statistics of its normalisations.
    """
    return {name: tuple(value.shape) for name, value in _values(skeleton(backbone)).items()}


def random_state(backbone: str) -> State:
    """Draw the values that torchvision starts a training with, always the same, for tests."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return {name: value.numpy() for name, value in _values(_cut(backbone)).items()}


def present_name(name: str) -> str:
    """Return the present name of a value in a checkpoint, which may be an old one."""
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name


def is_left_out(backbone: str, name: str) -> bool:
    """Say whether a value of a whole network plays no part in its features.

    Those are the last layer, outputs that only training needs, counters, and indices that follow from the
    definition.
    """
    layers = (f"{ARCHITECTURES[backbone].replaced}.", "AuxLogits.", "aux1.", "aux2.")
    return name.startswith(layers) or name.endswith((".num_batches_tracked", ".relative_position_index"))


def _cut(backbone: str) -> torch.nn.Module:
    options = _OPTIONS if backbone in _WITH_OPTIONS else {}
    network: torch.nn.Module = get_model(backbone, weights=None, **options)
    network.set_submodule(ARCHITECTURES[backbone].replaced, torch.nn.Identity())
    return network


def _values(network: torch.nn.Module) -> Mapping[str, torch.Tensor]:
    """All but counters, and indices that follow from the definition."""
    return {name: value for name, value in network.state_dict().items() if value.is_floating_point()}


class _Unallocated(TorchFunctionMode):
    """Have parameters made on the meta device: most of them, and nothing else, begin as ``torch.empty``.

    With ``torch.device("meta")``, tables that are computed from the definition would have no values, and
    the RegNets, which compute their widths with tensors, could not be made at all.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if func is torch.empty:
            options["device"] = "meta"
        return func(*args, **options)
