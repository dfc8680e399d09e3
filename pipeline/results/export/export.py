"""``pipeline export``: a trained classifier, from images to probabilities, for other programs.

Owns the order of things: what cannot be exported is refused before any work; each file is written under a
temporary name, read back, and asked about images; only one that says what the pipeline says gets its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.architectures import architecture_of
from pipeline.console import printable
from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.sources import source_root
from pipeline.errors import ModelError
from pipeline.features.identity import DECODING
from pipeline.files import replacing
from pipeline.heads import model_folder
from pipeline.heads.linear_layer import folded, layer_of
from pipeline.heads.model import Model
from pipeline.networks.model_extractor import ModelExtractor
from pipeline.params import read_params
from pipeline.results.export.check import Parity, Sample
from pipeline.results.export.wanted import Wanted
from pipeline.views import CENTER
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Exported:
    """A file that was written, and has passed the check.

    Attributes
    ----------
    path : Path
        Of the file.
    takes, gives : str
        What goes in and what comes out, in words.
    parity : Parity
        How it compares with the pipeline.
    """

    path: Path
    takes: str
    gives: str
    parity: Parity


def export(workspace: Workspace, model: str, wanted: Wanted, *, trust: bool = False) -> list[Exported]:
    """Write a classifier in other programs' formats.

    Parameters
    ----------
    workspace : Workspace
        Its ``params.yaml`` says which extractor is in use, its manifest which images the check may ask about.
    model : str
        A model's name, or the path of its folder. Its head must be linear.
    wanted : Wanted
        Which files.
    trust : bool, default False
        Whether a pickled head may be loaded.

    Returns
    -------
    list of Exported
        In the order of `Wanted`.

    Raises
    ------
    ModelError
        There is no such model, it cannot be exported so, or a file does not say what the pipeline says;
        then that file is not written.
    IdentityMismatch
        The model was trained on features of another extractor than the one in use.
    SourceError, ManifestError
        An image that the check asks about is not there, or there is none.
    PipelineError
        ONNX is wanted, and the packages for it are not installed.
    """
    from pipeline.features.torch_backbone import load_network

    folder = model_folder.folder_of(workspace, model)
    head = model_folder.load(folder, trust=trust)
    _require_exportable(head, wanted)
    asked = ModelExtractor.of(workspace, folder, head)
    manifest = read_manifest(workspace.manifest_file)
    root = source_root(read_params(workspace.params_file).dataset.source, workspace)
    sample = Sample.of(head, asked.weights, manifest, root, asked.store)
    return list(_written(head, load_network(asked.weights), sample, wanted))


def _require_exportable(model: Model, wanted: Wanted) -> None:
    """Refuse what cannot be, before anything is loaded or computed."""
    layer_of(model)
    if model.derivation.views != "center":
        raise ModelError(
            f"model {model.name!r} was trained with views {model.derivation.views}, and is asked about the "
            f"mean of {', '.join(model.views)}: an exported classifier sees one view of an image. Export a "
            f"head with views {CENTER}, such as `pipeline train {model.name} --views {CENTER} --name "
            f"{model.name}-{CENTER}` makes."
        )
    if model.identity.precision == "int8":
        raise ModelError(
            f"model {model.name!r} was trained on features of precision int8: of a network in 8 bits, which "
            f"neither ONNX nor torch is given here, and the one in float32 would say something else. Set "
            f"extract.precision to half, run `pipeline extract --fresh` and `pipeline train {model.name}`."
        )
    if wanted.with_preprocessing and model.identity.decoding != DECODING["pillow"]:
        raise ModelError(
            f"model {model.name!r} was trained on images as nvJPEG decodes and torch resizes them, and the "
            f"preprocessing that is exported is Pillow's. Leave --with-preprocessing out."
        )
    if wanted.state_dict:
        folded(model, architecture_of(model.identity.backbone).dimension)
    if wanted.onnx:
        from pipeline.results.export.onnx_file import require_onnx

        require_onnx()


def _written(
    model: Model, network: torch.nn.Sequential, sample: Sample, wanted: Wanted
) -> Iterator[Exported]:
    """Write file after file; what does not pass the check leaves none."""
    from pipeline.results.export.forms import forms_of

    for form in forms_of(model, network, sample, wanted):
        with replacing(form.path) as temporary:
            form.write(temporary)
            parity = sample.compare(form.ask(temporary), printable(str(form.path)))
        yield Exported(form.path, form.takes, form.gives, parity)
