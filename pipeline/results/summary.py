"""The layer table of the whole classifier: the frozen network with a linear head in its place."""

from __future__ import annotations

import re

import torch
import torchinfo

from pipeline.architectures import architecture_of
from pipeline.dataset.manifest import read_manifest
from pipeline.params import read_params
from pipeline.workspace import Workspace


def summary(workspace: Workspace, classes: int | None = None) -> str:
    """Describe the network with ``Linear(dimension, classes)`` where the features are taken, the rest frozen.

    Parameters
    ----------
    workspace : Workspace
        Its ``params.yaml`` gives the network and the image size, its manifest the number of classes.
    classes : int, optional
        Outputs of the head; by default those of the manifest, or 2 where there is none.

    Returns
    -------
    str
        torchinfo's table: layers, output shapes, parameters, multiply-adds for one image.
    """
    from pipeline.features.torch_network import skeleton

    params = read_params(workspace.params_file).extract
    size, architecture = params.image_size, architecture_of(params.backbone)
    if classes is None:
        has_manifest = workspace.manifest_file.is_file()
        classes = len(read_manifest(workspace.manifest_file).classes) if has_manifest else 2
    # shapes and counts need no values: on the meta device nothing is allocated or computed
    network = skeleton(architecture.name).requires_grad_(False)
    network.set_submodule(architecture.replaced, torch.nn.Linear(architecture.dimension, classes))
    described = torchinfo.summary(
        network.to("meta"),
        input_size=(1, 3, size, size),
        col_names=("output_size", "num_params", "trainable"),
        depth=2,
        device="meta",
        verbose=0,
    )
    # an enumeration that torchinfo 1.8 forgot to spell: Units.GIGABYTES
    return re.sub(r"\(Units\.(\w)\w*\)", r"(\1)", str(described))
