"""A classifier for torch: the state of torchvision's network with a new last layer, or an exported program.

Owns both formats, and how each is read back, so that a check sees what is in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save

from pipeline.architectures import VGG16, architecture_of
from pipeline.heads.linear_layer import folded
from pipeline.heads.model import Model

if TYPE_CHECKING:
    from pipeline.results.export.classifier import Classifier

#: The file in a program's archive that says what the program is of.
DESCRIPTION = "classifier.json"


def state_of(network: torch.nn.Sequential, model: Model) -> dict[str, torch.Tensor]:
    """Put the state of torchvision's network together, a linear layer in the place of its last layer.

    Parameters
    ----------
    network : torch.nn.Sequential
        As `load_network` makes it.
    model : Model
        Whose head folds into one layer.

    Returns
    -------
    dict of str to torch.Tensor
        For ``network = torchvision.models.vgg16()`` once ``network.classifier = torch.nn.Linear(25088, k)``;
        of another network the layer that `Architecture.replaced` names. The softmax of what comes out are
        the probabilities.

    Raises
    ------
    ModelError
        The head is not linear, or does not fold into one layer.
    """
    architecture = architecture_of(model.identity.backbone)
    layer = folded(model, architecture.dimension)
    # VGG16 comes in the parts that are used, the others whole
    prefix = "features." if architecture.name == VGG16 else ""
    state = {prefix + key.removeprefix("0."): value for key, value in network.state_dict().items()}
    state[f"{architecture.replaced}.weight"] = torch.from_numpy(layer.weight).float()
    state[f"{architecture.replaced}.bias"] = torch.from_numpy(layer.bias).float()
    return state


def write_state(path: Path, state: Mapping[str, torch.Tensor], about: Mapping[str, str] | None) -> None:
    """Write a state dict: as safetensors if there is something to say `about` it, else by ``torch.save``."""
    if about is not None:
        path.write_bytes(
            save({key: value.contiguous() for key, value in state.items()}, metadata=dict(about))
        )
    else:
        torch.save(dict(state), path)


def read_state(path: Path, model: Model, *, safetensors: bool) -> torch.nn.Module:
    """Load a state dict from a file into torchvision's network, as its user will.

    Returns
    -------
    torch.nn.Module
        From normalised images, shape (n, 3, height, width), to probabilities, or to scores of a head that
        has none.
    """
    from pipeline.features.torch_network import skeleton

    state = load_file(path) if safetensors else torch.load(path, weights_only=True)
    architecture = architecture_of(model.identity.backbone)
    network = skeleton(architecture.name)
    with torch.device("meta"):
        layer = torch.nn.Linear(architecture.dimension, len(model.classes))
    network.set_submodule(architecture.replaced, layer)
    network.load_state_dict(state, assign=True)
    if folded(model, architecture.dimension).link != "none":
        network = torch.nn.Sequential(network, torch.nn.Softmax(dim=1))
    return network.eval().requires_grad_(False)


def program_of(classifier: Classifier, image_size: int) -> torch.export.ExportedProgram:
    """Export a classifier for any number of square images."""
    # two, as a batch of one would be taken for all that there is
    example = torch.zeros((2, 3, image_size, image_size))
    return torch.export.export(classifier, (example,), dynamic_shapes=({0: torch.export.Dim("n")},))


def write_program(path: Path, program: torch.export.ExportedProgram, about: Mapping[str, str]) -> None:
    """Write a program, and what there is to say about it as `DESCRIPTION`."""
    description = {DESCRIPTION: json.dumps(dict(about), indent=2)}
    with path.open("wb") as file:  # by its name, torch would want it to end in .pt2
        torch.export.save(program, file, extra_files=description)


def read_program(path: Path) -> torch.nn.Module:
    """Load a program from a file, as its user will."""
    with path.open("rb") as file:
        module: torch.nn.Module = torch.export.load(file).module()
    return module
