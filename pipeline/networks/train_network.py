"""``pipeline train-network``: the frozen network with a new last layer, trained on the images themselves.

Owns the order of things. Every image goes through the network again in every epoch, which is what stored
features spare: it is here for comparison, and for augmentation. The test images are never read.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.architectures import VGG16
from pipeline.console import note, progress
from pipeline.dataset.manifest import ImageRow
from pipeline.errors import HeadError
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.lock import locked
from pipeline.features.quantised import calibration_rows
from pipeline.features.store import Features, FeatureStore
from pipeline.heads.labelled_rows import LabelledRows
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.memory import Memory
from pipeline.heads.settings import free_name
from pipeline.networks.checkpoint import Checkpoint
from pipeline.networks.inputs import HeldInputs, ImageInputs, in_order
from pipeline.networks.options import NetworkOptions
from pipeline.networks.trained import Floats, NetworkReport, metrics_of, model_of, saved, teller
from pipeline.params import ExtractParams, read_params
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.heads.torch_head import TorchLinear
    from pipeline.networks.torch_training import Course

# Training images whose features say how large features are: of so many the estimate is off by 1 % or so, and
# all the weights' scale depends on it, no more.
_MEASURED = 256
# Of the tutorial's log: every so many minibatches.
_EVERY = 5


def train_network(
    workspace: Workspace,
    name: str = "network",
    options: NetworkOptions = NetworkOptions(),  # noqa: B008 (frozen)
    execution: Execution = Execution(),  # noqa: B008 (frozen)
    *,
    fresh: bool = False,
) -> NetworkReport:
    """Train a linear layer behind the frozen network on the training images, and save it as a head.

    What is learned, and from which batches, is what ``pipeline train linear`` learns from stored features;
    but for augmentation, and for the epoch that is kept: the one with the lowest loss on the validation
    images.

    Parameters
    ----------
    workspace : Workspace
        With a manifest; features need not be stored.
    name : str, default "network"
        Of the model.
    options : NetworkOptions
        How it learns.
    execution : Execution
        What changes speed and memory only.
    fresh : bool, default False
        Start anew, even where an interrupted run could go on.

    Returns
    -------
    NetworkReport

    Raises
    ------
    ParamsError
        `name` is a head of ``params.yaml``, or an option is out of its range.
    HeadError
        The network is another than VGG16, or of precision ``int8``; there are fewer than two classes; or the
        loss ceased to be finite.
    SourceError
        An image cannot be read, or is not that of the manifest.
    StoreLocked
        Another process trains a network of this name.
    WeightsError, DeviceError
        The network cannot be set up.
    """
    params = read_params(workspace.params_file)
    require_vgg16(params.extract)
    name = free_name(params, "", name)
    extraction = Extraction.of(workspace, execution)
    images = LabelledFeatures.of(
        workspace, params, extraction.manifest, FeatureStore(workspace.store_folder, extraction.identity)
    )
    train, val = images.labels("train"), images.labels("val")
    folder = workspace.networks_folder / name
    with locked(folder):
        settings = {
            "command": "train-network",
            **asdict(options),
            "seed": params.seed,
            "identity": extraction.identity.as_dict(),
            "rows": [train.digest, val.digest],
        }
        checkpoint = Checkpoint(folder / "checkpoint.safetensors", settings)
        if fresh:
            checkpoint.file.unlink(missing_ok=True)
        extractor = extraction.extractor(execution)
        started = time.perf_counter()
        held_out = _features(val.images, extraction, extractor, images.memory)
        measured = _features(calibration_rows(train.images, _MEASURED), extraction, extractor, images.memory)
        ahead = time.perf_counter() - started
        layer, course = _learned(
            train, (held_out, val.y), measured, extraction, extractor, options, params.seed, checkpoint
        )
        training = {"command": "train-network", **asdict(options), "device": extractor.made_with["device"]}
        model = model_of(
            name, _unfitted(options, params.seed), layer, course, extraction.identity, train, training
        )
        model = replace(model, metrics=metrics_of(model, held_out, val.y))
        report = saved(workspace, model, course, ahead)
        shutil.rmtree(folder)
    return report


def require_vgg16(params: ExtractParams) -> None:
    """Refuse networks that are not trained here.

    Raises
    ------
    HeadError
        It is another than VGG16, or one of 8-bit numbers.
    """
    if params.backbone != VGG16:
        raise HeadError(
            f"extract.backbone is {params.backbone}, and only vgg16 can be trained in the network itself. "
            f"Train a head on its stored features: `pipeline train`."
        )
    if params.precision == "int8":
        raise HeadError(
            "extract.precision is int8, and a network of 8-bit numbers is not trained. Set it to half or "
            "float32, and run `pipeline extract --fresh`."
        )


def _learned(
    train: LabelledRows,
    val: tuple[Features, npt.NDArray[np.int64]],
    measured: Features,
    extraction: Extraction,
    extractor: Extractor,
    options: NetworkOptions,
    seed: int,
    checkpoint: Checkpoint,
) -> tuple[tuple[Floats, Floats], Course]:
    """Train the layer; return its weight and bias, and how that went."""
    import torch

    from pipeline.heads.torch_rows import norms
    from pipeline.networks.torch_learner import Learner
    from pipeline.networks.torch_parts import Head
    from pipeline.networks.torch_training import Labelled, Plan, Watch, learn

    norm, absolute_sum = norms(measured)
    scale = 1 / norm if norm > 0 else 1.0
    dimension = extraction.identity.dimension
    head = Head(scale, len(train.classes), dimension)
    groups = [
        {"params": [head.linear.weight], "weight_decay": options.weight_decay},
        {"params": [head.linear.bias], "weight_decay": 0.0},
    ]
    rate = options.learning_rate / (scale * absolute_sum + 1)
    optimizer = torch.optim.Adam(groups, lr=rate, fused=True)  # one pass over the weights
    inputs = ImageInputs(train.images, extraction.root, extractor, seed if options.augment else None)
    course = learn(
        Learner(head, optimizer, torch.device("cpu"), (dimension,)),
        Labelled(inputs, train.y),
        Labelled(HeldInputs(val[0]), val[1]) if len(val[1]) else None,
        Plan(options.epochs, options.batch_size, seed),
        checkpoint,
        Watch(_tell, teller(0)),
    )
    return head.layer(), course


def _features(
    images: Sequence[ImageRow], extraction: Extraction, extractor: Extractor, memory: Memory
) -> Features:
    """Push images through as they are, once."""
    identity = extraction.identity
    X: Features = memory.empty((len(images), identity.dimension), identity.storage)
    order = in_order(len(images), extractor.batch_size)
    with (
        progress("features", len(images)) as advance,
        contextlib.closing(ImageInputs(images, extraction.root, extractor).batches(order, 0)) as batches,
    ):
        for places, batch in zip(order, batches, strict=False):
            X[places] = batch
            advance(len(places))
    return X


def _unfitted(options: NetworkOptions, seed: int) -> TorchLinear:
    from pipeline.heads.torch_head import TorchLinear

    return TorchLinear(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        random_state=seed,
    )


def _tell(epoch: int, number: int, loss: float, accuracy: float) -> None:
    """Log as the tutorial does, epochs and minibatches counted from 0."""
    if number % _EVERY == 0:
        note(f"Epoch {epoch}, minibatch {number}: train acc = {accuracy:.4f}, train loss = {loss:.3f}")
