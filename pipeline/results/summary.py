"""The layer table of the whole classifier: the frozen network with a linear head in its place."""

from __future__ import annotations

import re

import torch
import torchinfo
from torchvision.models import vgg16

from pipeline.dataset.manifest import read_manifest
from pipeline.features.identity import DIMENSION
from pipeline.params import read_params
from pipeline.workspace import Workspace


def summary(workspace: Workspace, classes: int | None = None) -> str:
    """Describe VGG16 with ``classifier = Linear(25088, classes)`` and the rest frozen.

    Parameters
    ----------
    workspace : Workspace
        Its ``params.yaml`` gives the image size, its manifest the number of classes.
    classes : int, optional
        Outputs of the head; by default those of the manifest, or 2 where there is none.

    Returns
    -------
    str
        torchinfo's table: layers, output shapes, parameters, multiply-adds for one image.
    """
    size = read_params(workspace.params_file).extract.image_size
    if classes is None:
        has_manifest = workspace.manifest_file.is_file()
        classes = len(read_manifest(workspace.manifest_file).classes) if has_manifest else 2
    # shapes and counts need no values: on the meta device nothing is allocated or computed
    with torch.device("meta"):
        network = vgg16(weights=None).requires_grad_(False)
        network.classifier = torch.nn.Linear(DIMENSION, classes)
    described = torchinfo.summary(
        network,
        input_size=(1, 3, size, size),
        col_names=("output_size", "num_params", "trainable"),
        depth=2,
        device="meta",
        verbose=0,
    )
    # an enumeration that torchinfo 1.8 forgot to spell: Units.GIGABYTES
    return re.sub(r"\(Units\.(\w)\w*\)", r"(\1)", str(described))
