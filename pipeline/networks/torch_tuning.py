"""The part of the network that learns, its inputs, its optimiser and its schedule.

Owns how a fine-tuning is set up. Epochs, checkpoints and what is kept are `torch_training`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from pipeline.features.torch_backbone import choose_device
from pipeline.heads.labelled_rows import LabelledRows
from pipeline.heads.torch_rows import norms
from pipeline.networks.checkpoint import Checkpoint
from pipeline.networks.finetune_task import Task
from pipeline.networks.inputs import HeldInputs, ImageInputs, Inputs
from pipeline.networks.prefixes import filled_prefix, frozen_extractor
from pipeline.networks.torch_learner import Learner
from pipeline.networks.torch_parts import Head, Network, learning_part
from pipeline.networks.torch_training import Course, Labelled, Plan, Watch, learn
from pipeline.networks.trained import teller
from pipeline.workspace import Workspace

# Images whose activations are held at once while learning: a CPU's memory takes more, its caches do not.
_PIECE = 8


def tuned(workspace: Workspace, task: Task, checkpoint: Checkpoint) -> tuple[Network, Course, str]:
    """Train the part that learns.

    Parameters
    ----------
    workspace : Workspace
        Its ``cache/`` keeps what the frozen part makes of the images.
    task : Task
    checkpoint : Checkpoint
        Of an interrupted run, if there was one.

    Returns
    -------
    tuple
        The network, how that went, and the kind of device that it was done on.
    """
    options = task.options
    device = choose_device(task.execution.device)
    norm, absolute_sum = norms(task.features.matrix("train").X)
    scale = 1 / norm if norm > 0 else 1.0
    head = Head(scale, len(task.train.classes), task.features.identity.dimension)
    head.start_from(task.layer)
    network = Network(learning_part(task.extraction.weights, task.cut), head)
    train, val = _inputs(workspace, task)
    learner = _learner(network, task, device, options.head_learning_rate / (scale * absolute_sum + 1))
    course = learn(
        learner,
        Labelled(train, task.train.y),
        Labelled(val, task.val.y),
        Plan(
            options.epochs, options.batch_size, task.features.params.seed, options.patience, from_start=True
        ),
        checkpoint,
        Watch(epoch=teller(1)),
    )
    return network, course, device.type


def _inputs(workspace: Workspace, task: Task) -> tuple[Inputs, Inputs]:
    """Return what the part that learns is given for the training and the validation images."""
    extraction, cut = task.extraction, task.cut
    if not (task.options.prefix and cut.has_prefix):
        extractor = frozen_extractor(extraction, cut, task.execution, "float32")
        return (
            ImageInputs(task.train.images, extraction.root, extractor),
            ImageInputs(task.val.images, extraction.root, extractor),
        )
    images = [*task.train.images, *task.val.images]
    store = filled_prefix(workspace, extraction, cut, images, task.execution)

    def held(rows: LabelledRows) -> Inputs:
        shape = (len(rows.y), store.identity.dimension)
        return HeldInputs(
            store.read(rows.keys, out=task.features.memory.empty(shape, store.identity.storage))
        )

    return held(task.train), held(task.val)


def _learner(network: Network, task: Task, device: torch.device, head_rate: float) -> Learner:
    options = task.options
    groups = [
        {"params": [value for value in part.parameters() if (value.ndim > 1) is decays], "lr": rate}
        | {"weight_decay": options.weight_decay if decays else 0.0}
        for part, rate in ((network.features, options.learning_rate), (network.head, head_rate))
        for decays in (True, False)  # weights, and biases
    ]
    steps = options.epochs * math.ceil(len(task.train.y) / options.batch_size)
    return Learner(
        network,
        torch.optim.AdamW(groups, fused=True),  # one pass over the weights
        device,
        task.shape,
        _schedule(steps, options.warmup),
        _PIECE if device.type == "cpu" else options.batch_size,
    )


def _schedule(steps: int, warmup: float) -> Callable[[int], float]:
    """Rise along a line, then fall along a cosine: what the learning rates are multiplied by in each step."""
    rising = max(1, round(warmup * steps))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising))) / 2

    return factor
