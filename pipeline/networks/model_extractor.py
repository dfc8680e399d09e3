"""Whose features a trained model wants: the workspace's extractor, or a network that was fine-tuned with it.

Owns that question, and the file of a fine-tuned network. A model that brings its network needs nothing of
``params.yaml``: its own identity says all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.sources import source_root
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.identity import DECODING, Identity, identity_of
from pipeline.features.normalisation import normalisation_note
from pipeline.features.quantised import QUANTISED
from pipeline.features.state import State
from pipeline.features.weights import Weights, resolve_weights
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import Model
from pipeline.networks.blocks import CUTS, Cut
from pipeline.networks.prefixes import go_on, prefix_identity
from pipeline.networks.stores import fill, opened
from pipeline.params import ExtractParams, Split, read_params
from pipeline.typed import build
from pipeline.workspace import Workspace

#: Name of the file, beside the head, with the convolutions of a network that was fine-tuned with it.
BACKBONE = "backbone.safetensors"


@dataclass(frozen=True)
class ModelExtractor:
    """What computes a model's features.

    Attributes
    ----------
    params : ExtractParams
    weights : Weights
    quantised : Path or None
        The network of precision ``int8``.
    identity : Identity
        Of the model, and of all this.
    store : Path or None
        Folder of the store that may hold such features.
    """

    params: ExtractParams
    weights: Weights
    quantised: Path | None
    identity: Identity
    store: Path | None

    @classmethod
    def of(cls, workspace: Workspace, folder: Path, model: Model) -> ModelExtractor:
        """Find what computes the features of the model in a folder.

        Raises
        ------
        IdentityMismatch
            It was trained on features of another extractor than the one of ``params.yaml``, and brings none.
        WeightsError
            The weights cannot be had.
        """
        if BACKBONE in model.extras:
            return cls._brought(workspace, folder, model)
        params = read_params(workspace.params_file).extract
        weights = resolve_weights(params.weights, workspace.root, params.backbone)
        # the network of precision int8 comes with the model
        quantised = folder / QUANTISED if QUANTISED in model.extras else workspace.quantised_file
        identity = identity_of(params, weights, quantised)
        identity.require(
            model.identity,
            f"the extractor in {workspace.params_file}",
            f"that of the model in {folder}",
            f"Change params.yaml back, or train again: `dvc repro` or `pipeline train {model.name}`.",
        )
        return cls(params, weights, quantised, identity, workspace.store_folder)

    @classmethod
    def _brought(cls, workspace: Workspace, folder: Path, model: Model) -> ModelExtractor:
        found = model.identity
        params = extract_params(found, BACKBONE)
        weights = resolve_weights(BACKBONE, folder, found.backbone)
        identity = identity_of(params, weights)
        identity.require(
            found, f"the network in {folder / BACKBONE}", "that of the model beside it", "Fine-tune it again."
        )
        in_workspace = folder.resolve().parent == workspace.models_folder.resolve()
        store = workspace.finetuned_store(folder.name) if in_workspace else None
        return cls(params, weights, None, identity, store)

    def extractor(self, execution: Execution = Execution()) -> Extractor:  # noqa: B008 (frozen)
        """Set the network up.

        Raises
        ------
        WeightsError, DeviceError
            It cannot be set up.
        """
        return Extractor(self.params, self.weights, execution, self.quantised)


def features_of(
    workspace: Workspace,
    name: str,
    model: Model,
    *splits: Split,
    features: LabelledFeatures | None = None,
    folder: Path | None = None,
    execution: Execution = Execution(),  # noqa: B008 (frozen)
) -> LabelledFeatures:
    """Open the features that a model wants, of splits; those of a fine-tuned network are computed on demand.

    Where the outputs of its frozen blocks are stored, these are gone on from; other images are pushed through
    the whole network. Both are of the identity's precision class, and alike within it.

    Parameters
    ----------
    workspace : Workspace
    name : str
        Of the model.
    model : Model
    *splits : {"train", "val", "test"}
        Whose rows will be read.
    features : LabelledFeatures, optional
        The workspace's own, where they are open already.
    folder : Path, optional
        Where the model's files are, if not in their place yet.
    execution : Execution
        How features are computed.

    Raises
    ------
    ManifestError, MissingRows, IdentityMismatch, HeadError
        See `LabelledFeatures.open`.
    SourceError, WeightsError, DeviceError, StoreLocked
        Features are to be computed, and cannot be.
    """
    if BACKBONE not in model.extras:
        return features or LabelledFeatures.open(workspace)
    asked = ModelExtractor.of(workspace, folder or workspace.model_folder(name), model)
    params, manifest = read_params(workspace.params_file), read_manifest(workspace.manifest_file)
    store = opened(workspace.finetuned_store(name), asked.identity)
    images = [image for image in manifest.usable if image.split in splits]
    root = source_root(params.dataset.source, workspace)
    if cut := _cut_of(model):
        base = replace(model.identity, weights_sha256=model.training["base_weights_sha256"])
        go_on(workspace, cut, prefix_identity(base, cut), asked.weights, execution, images, store)
    fill(store, images, root, lambda: asked.extractor(execution), "extract")
    return LabelledFeatures.of(workspace, params, manifest, store)


def _cut_of(model: Model) -> Cut | None:
    """Return the place from which on a network was fine-tuned, if there is a part before it."""
    cut = CUTS.get(model.training.get("unfreeze", ""))
    return cut if cut and cut.has_prefix else None


def extract_params(identity: Identity, weights: str) -> ExtractParams:
    """Return the parameters of the extractor that has this identity, if `weights` have its digest.

    Raises
    ------
    ParamsError
        No extractor of this release has it.
    """
    names = ("backbone", "precision", "resize", "image_size", "storage")
    values = {name: getattr(identity, name) for name in names}
    decoder = next((name for name, text in DECODING.items() if text == identity.decoding), "pillow")
    params: ExtractParams = build(
        ExtractParams, {**values, "weights": weights, "decoder": decoder}, "identity"
    )
    return params


def backbone_bytes(state: State, identity: Identity) -> bytes:
    """Return the file of a fine-tuned network: safetensors, with the keys of torchvision's ``vgg16``."""
    from safetensors.numpy import save

    named = {f"features.{name}": value for name, value in state.items()}
    content: bytes = save(named, normalisation_note(identity.mean, identity.std))
    return content
