"""``pipeline finetune``: the last blocks of the network learn on, together with a trained head.

Owns the order of things. A head that knows nothing would wreck the network, so one is trained first, on
stored features. What the frozen part makes of the images is stored, too, so that an epoch costs only what
learns. The test images are never read.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from pipeline.features.extractor import Execution
from pipeline.features.lock import locked
from pipeline.features.state import State, digest_of
from pipeline.features.weights import load_weights
from pipeline.files import sha256_of, write_atomically
from pipeline.heads import model_folder
from pipeline.heads.model import Model
from pipeline.networks.checkpoint import Checkpoint
from pipeline.networks.finetune_task import Task, task_of
from pipeline.networks.model_extractor import BACKBONE, backbone_bytes, features_of
from pipeline.networks.options import FinetuneOptions
from pipeline.networks.trained import NetworkReport, metrics_of, model_of, saved
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.networks.torch_parts import Network
    from pipeline.networks.torch_training import Course


def finetune(
    workspace: Workspace,
    head: str,
    *,
    name: str | None = None,
    options: FinetuneOptions = FinetuneOptions(),  # noqa: B008 (frozen)
    execution: Execution = Execution(),  # noqa: B008 (frozen)
    fresh: bool = False,
    trust: bool = False,
) -> NetworkReport:
    """Train the last blocks of the network and a head together, and save both as a model.

    Parameters
    ----------
    workspace : Workspace
        With features, and the head trained on them.
    head : str
        Name of its model. It must fold into one linear layer on the features as they are stored.
    name : str, optional
        Of the new model; by default that of the head and ``-finetuned``.
    options : FinetuneOptions
        What learns, and how.
    execution : Execution
        What changes speed and memory only.
    fresh : bool, default False
        Start anew, even where an interrupted run could go on.
    trust : bool, default False
        Whether a pickled head may be loaded.

    Returns
    -------
    NetworkReport

    Raises
    ------
    ParamsError
        There is no such block, `name` is a head of ``params.yaml``, or an option is out of its range.
    ModelError
        The head is absent, damaged, not linear, of other images, or has learned from the validation images.
    IdentityMismatch
        The head was trained on features of another extractor.
    HeadError
        The network is another than VGG16, or of precision ``int8``; there are no validation images; or the
        loss ceased to be finite.
    SourceError
        An image cannot be read, or is not that of the manifest.
    StoreLocked
        Another process fine-tunes a network of this name.
    WeightsError, DeviceError
        The network cannot be set up.
    """
    task = task_of(workspace, head, name, options, execution, trust=trust)
    folder = workspace.networks_folder / task.name
    with locked(folder):
        from pipeline.networks.torch_tuning import tuned

        settings = {
            "command": "finetune",
            **asdict(options),
            "seed": task.features.params.seed,
            "identity": task.extraction.identity.as_dict(),
            "head_sha256": sha256_of(workspace.model_folder(head) / model_folder.DESCRIPTION),
            "rows": [task.train.digest, task.val.digest],
        }
        checkpoint = Checkpoint(folder / "checkpoint.safetensors", settings)
        if fresh:
            checkpoint.file.unlink(missing_ok=True)
        network, course, device = tuned(workspace, task, checkpoint)
        model = _model(task, network, course, device)
        write_atomically(folder / BACKBONE, model.extras[BACKBONE])
        features = features_of(
            workspace, task.name, model, "val", folder=folder, execution=replace(execution, batch_size=None)
        )
        model = replace(model, metrics=metrics_of(model, features.matrix("val").X, task.val.y))
        report = saved(workspace, model, course)
        shutil.rmtree(folder)
    return report


def _model(task: Task, network: Network, course: Course, device: str) -> Model:
    """Put head and network together."""
    from pipeline.heads.torch_head import TorchLinear

    options, seed = task.options, task.features.params.seed
    head = TorchLinear(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.head_learning_rate,
        weight_decay=options.weight_decay,
        patience=options.patience,
        random_state=seed,
    )
    state: State = {**load_weights(task.extraction.weights), **network.learned()}
    identity = replace(task.extraction.identity, weights_sha256=digest_of(state))
    training = {
        "command": "finetune",
        "head": task.head,
        "base_weights_sha256": task.extraction.weights.sha256,
        **asdict(options),
        "device": device,
    }
    model = model_of(task.name, head, network.head.layer(), course, identity, task.train, training)
    return replace(model, extras={BACKBONE: backbone_bytes(state, identity)})
