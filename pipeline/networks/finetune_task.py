"""What a fine-tuning is to do, and whether it can be done.

Owns the refusals. It computes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import HeadError, ModelError, ParamsError
from pipeline.features.extraction import Extraction
from pipeline.features.extractor import Execution
from pipeline.heads import model_folder
from pipeline.heads.current import require_current
from pipeline.heads.labelled_rows import LabelledRows
from pipeline.heads.linear_layer import LinearLayer, folded
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import Model
from pipeline.heads.settings import free_name
from pipeline.networks.blocks import Cut, cut_of
from pipeline.networks.options import FinetuneOptions
from pipeline.networks.train_network import require_vgg16
from pipeline.params import read_params
from pipeline.views import CENTER
from pipeline.workspace import Workspace


@dataclass(frozen=True, eq=False)
class Task:
    """All that is known before anything is computed."""

    head: str
    name: str
    options: FinetuneOptions
    execution: Execution
    cut: Cut
    layer: LinearLayer
    extraction: Extraction
    features: LabelledFeatures
    train: LabelledRows
    val: LabelledRows

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of what goes into the part that learns."""
        return self.cut.shape(self.extraction.params.image_size)


def task_of(
    workspace: Workspace,
    head: str,
    name: str | None,
    options: FinetuneOptions,
    execution: Execution,
    *,
    trust: bool,
) -> Task:
    """Read what there is, and refuse what cannot be before anything is computed; see `finetune`."""
    cut = cut_of(options.unfreeze)
    params = read_params(workspace.params_file)
    require_vgg16(params.extract)
    if options.prefix and cut.has_prefix:
        cut.require_storable(params.extract.image_size)
    name = free_name(params, "", name or f"{head}-finetuned")
    if name == head:
        raise ParamsError(f"--name {name}: the head that is fine-tuned has that name. Choose another.")
    features = LabelledFeatures.open(workspace)
    model = model_folder.load(workspace.model_folder(head), trust=trust)
    require_current(model, head, features)
    extraction = Extraction.of(workspace, execution)
    features.identity.require(
        extraction.identity,
        f"the features in {workspace.store_folder}",
        f"what {workspace.params_file} asks for",
        "Run `pipeline extract`.",
    )
    if "val" in model.splits:
        raise ModelError(
            f"model {head!r} has learned from the validation images, by which the best epoch is chosen. "
            f"Train one with `train_on: train`, and fine-tune that."
        )
    train, val = features.labels("train"), features.labels("val")
    if not len(val.y):
        raise HeadError(
            f"{workspace.manifest_file}: fine-tuning is stopped by the loss on the validation images, and "
            f"there are none. Give val a share in dataset.split, and run `pipeline prepare --resplit`."
        )
    return Task(head, name, options, execution, cut, _layer(model), extraction, features, train, val)


def _layer(model: Model) -> LinearLayer:
    """Fold a head into one layer on the features as they are stored."""
    if model.derivation.views != "center":
        raise ModelError(
            f"model {model.name!r} was trained with views {model.derivation.views}, and is asked about the "
            f"mean of {', '.join(model.views)}: the network that is fine-tuned sees one view at a time. "
            f"Fine-tune a head with views {CENTER}."
        )
    try:
        return folded(model, model.identity.dimension)
    except ModelError:
        derivation = model.derivation
        raise ModelError(
            f"model {model.name!r} ({model.estimator}, pooling {derivation.pooling}, normalize "
            f"{derivation.normalize}) cannot be fine-tuned, as it is no linear layer on the features as they "
            f"are stored. Take one of estimator linear, logreg, linear-svm, ridge or lda, with pooling none "
            f"or avg and normalize none or standardize."
        ) from None
