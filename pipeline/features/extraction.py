"""What a workspace asks for: which images, and which extractor.

Owns how the two are read, and when the network of precision ``int8`` is drawn, from the training
images: with a new store, and never again while the store lives, unless features are to be replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.console import printable, progress
from pipeline.dataset.manifest import ImageRow, Manifest, read_manifest
from pipeline.dataset.sources import image_file, source_root
from pipeline.errors import SourceError, SourceMissing
from pipeline.features.backbone import require_possible
from pipeline.features.decoder import decoded
from pipeline.features.description import is_store
from pipeline.features.extractor import Execution, Extractor
from pipeline.features.identity import Identity, identity_of
from pipeline.features.index import Index
from pipeline.features.listed import Listed
from pipeline.features.lock import locked
from pipeline.features.quantised import calibration_rows, quantise
from pipeline.features.store import FeatureStore
from pipeline.features.weights import Weights, resolve_weights
from pipeline.files import write_atomically
from pipeline.params import ExtractParams, read_params
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Extraction:
    """What a workspace asks for.

    Attributes
    ----------
    params : ExtractParams
        Which extractor.
    weights : Weights
        Its weights.
    quantised : Path or None
        Its network, where precision is ``int8``.
    identity : Identity
        What these amount to.
    listed : Listed
        Which images, and which views of them.
    manifest_file : Path
        Where these stand.
    root : Path
        The folder that they are in.
    """

    params: ExtractParams
    weights: Weights
    quantised: Path | None
    identity: Identity
    listed: Listed
    manifest_file: Path
    root: Path

    @classmethod
    def of(
        cls,
        workspace: Workspace,
        execution: Execution = Execution(),  # noqa: B008 (frozen)
        *,
        fresh: bool = False,
        network: Path | None = None,
    ) -> Extraction:
        """Read what a workspace asks for, and quantise the network where that is still to be done.

        Parameters
        ----------
        workspace : Workspace
            With a manifest.
        execution : Execution
            What is to run it.
        fresh : bool, default False
            Quantise the network even if there is a store. The same training images give the same one.
        network : Path, optional
            Where to put a quantised network; by default where it is kept.

        Raises
        ------
        ParamsError, ManifestError, WeightsError
            It cannot be read, or not be had.
        DeviceError
            It cannot be run so; nothing was done yet.
        SourceMissing, SourceError
            The network is to be quantised, and the images for it are not there.
        """
        params = read_params(workspace.params_file)
        extract = params.extract
        require_possible(
            extract.precision, execution.device, execution.backend, extract.backbone, extract.decoder
        )
        listed = Listed.of(workspace.manifest_file, extract.views)
        weights = resolve_weights(extract.weights, workspace.root, extract.backbone)
        root = source_root(params.dataset.source, workspace)
        quantised = None
        if extract.precision == "int8":
            quantised = workspace.quantised_file
            if fresh or not is_store(workspace.store_folder):
                quantised = network or quantised
                _draw(quantised, extract, weights, read_manifest(workspace.manifest_file), root)
            else:
                _refuse_other_precision(workspace, extract, weights)
        identity = identity_of(extract, weights, quantised)
        return cls(extract, weights, quantised, identity, listed, workspace.manifest_file, root)

    @cached_property
    def manifest(self) -> Manifest:
        """All that is known of the images."""
        return read_manifest(self.manifest_file)

    def index(self) -> Index:
        """Return what is to be recorded once all rows are stored."""
        listed = self.listed
        return Index(self.identity, self.params.weights, len(listed.keys), listed.keys_sha256, listed.views)

    def extractor(self, execution: Execution) -> Extractor:
        """Set the network up.

        Raises
        ------
        SourceMissing
            There is nothing to push through it: the folder of the images is not there.
        WeightsError, DeviceError
            It cannot be set up.
        """
        require_source(self.root)
        return Extractor(self.params, self.weights, execution, self.quantised)


def _refuse_other_precision(workspace: Workspace, params: ExtractParams, weights: Weights) -> None:
    """Refuse a store that is not of int8 while there is no network to tell the identity by."""
    if FeatureStore.open(workspace.store_folder).identity.precision != "int8":
        asked = replace(identity_of(replace(params, precision="half"), weights), precision="int8")
        FeatureStore.open(workspace.store_folder, asked)


def _draw(file: Path, params: ExtractParams, weights: Weights, manifest: Manifest, root: Path) -> None:
    """Quantise the network on a sample of the training images, and keep it."""
    require_source(root)
    rows = calibration_rows(manifest.usable)
    with progress("quantise", len(rows)) as advance:
        content = quantise(weights, _sample(rows, params, root), advance)
    with locked(file.parent):
        write_atomically(file, content)


def _sample(rows: Sequence[ImageRow], params: ExtractParams, root: Path) -> npt.NDArray[np.uint8]:
    files = [image_file(row.path, root) for row in rows]
    sample = []
    for row, image in zip(rows, decoded(files, params, workers=1, ahead=8), strict=True):
        if image.pixels is None or image.verdict.sha256 != row.sha256:
            reason = image.verdict.reason or "changed_since_prepare"
            raise SourceError(
                f"{printable(row.path)}: {reason}, and the network cannot be quantised without it. "
                f"Run `pipeline prepare --rehash`, which looks at every image anew."
            )
        sample.append(image.pixels.transpose(2, 0, 1))
    return np.stack(sample)


def require_source(root: Path) -> None:
    """Refuse to go on without the folder of the images.

    Raises
    ------
    SourceMissing
        It is not there.
    """
    if not root.is_dir():
        raise SourceMissing(
            f"{printable(str(root))}: the folder of the images is not there, and not all have features yet. "
            f"Bring it back, or run `pipeline prepare`."
        )
