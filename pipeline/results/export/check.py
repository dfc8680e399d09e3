"""Whether an exported classifier says what the pipeline says, on images of the workspace.

Owns the sample, what the pipeline says of it, and the bound. It knows no format of a file.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.console import counted, printable
from pipeline.dataset.examiner import look_at
from pipeline.dataset.manifest import ImageRow, Manifest
from pipeline.dataset.sources import image_file
from pipeline.errors import IdentityMismatch, ManifestError, MissingRows, ModelError, SourceError
from pipeline.features.identity import Identity
from pipeline.features.store import Features, FeatureStore, RowKey
from pipeline.features.transforms import to_pixels
from pipeline.features.weights import Weights
from pipeline.heads.calibration import scores
from pipeline.heads.model import Model

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

#: How far a probability may be off; of scores, which have no scale of their own, how far in parts of the
#: largest.
TOLERANCE = 1e-4
# A hundred times more would find nothing else: it is the same network on every image.
_IMAGES = 32


@dataclass(frozen=True)
class Parity:
    """How an exported classifier compares with the pipeline.

    Attributes
    ----------
    images : int
        That both were asked about.
    split : str
        Which these are of: ``val``, or ``the manifest`` where that split is empty.
    numbers : {"probabilities", "scores"}
        What was compared.
    difference : float
        The largest, to those of the pipeline's network in float32. Of scores, in parts of the largest score.
    stored_difference : float or None
        The same to what the pipeline says of the stored features, which are rounded, and may be of a network
        in half precision; None where the store lacks one.
    """

    images: int
    split: str
    numbers: str
    difference: float
    stored_difference: float | None


@dataclass(frozen=True, eq=False)
class Sample:
    """Images, and what the pipeline says of them.

    Attributes
    ----------
    split, numbers : str
        See `Parity`.
    originals : tuple of ndarray of uint8, shape (height, width, 3), length n
        Upright, red, green and blue.
    pixels : ndarray of uint8, shape (n, 3, image_size, image_size)
        Resized and cropped.
    expected : ndarray of float64, shape (n, k)
        Probabilities, or scores, by the pipeline's network in float32.
    stored : ndarray of float64, shape (n, k), or None
        The same from stored features.
    """

    split: str
    numbers: str
    originals: tuple[Pixels, ...]
    pixels: Pixels
    expected: Floats
    stored: Floats | None

    @classmethod
    def of(cls, model: Model, weights: Weights, manifest: Manifest, root: Path, store: Path | None) -> Sample:
        """Read some images of the validation split, and ask the pipeline about them.

        Parameters
        ----------
        model : Model
            Of the extractor with these weights.
        weights : Weights
        manifest : Manifest
            Which images there are. Where none is of the validation split, any may be taken.
        root : Path
            Their folder.
        store : Path or None
            Folder of the feature store, which may be of another extractor, or absent.

        Raises
        ------
        ManifestError
            There is no image to ask about.
        SourceError
            An image is not there any more, or another one.
        """
        import torch

        from pipeline.features.torch_backbone import TorchBackbone

        of_val = manifest.of_split("val")
        rows = _spread(of_val or manifest.usable)
        if not rows:
            raise ManifestError(
                "data/manifest.csv lists no usable image, and what is exported is checked on some."
            )
        originals = tuple(_read(row, root) for row in rows)
        pixels = np.stack([_to_pixels(image, model.identity) for image in originals]).transpose(0, 3, 1, 2)
        backbone = TorchBackbone(weights, "float32", torch.device("cpu"))
        parts = [pixels[at : at + backbone.batch_size] for at in range(0, len(pixels), backbone.batch_size)]
        features = np.concatenate([backbone(part) for part in parts])
        stored = None
        with contextlib.suppress(MissingRows, IdentityMismatch):
            keys = [RowKey(row.sha256) for row in rows]
            if store is not None:
                stored = said(model, FeatureStore.open(store, model.identity).read(keys))
        split = "val" if of_val else "the manifest"
        numbers = "scores" if model.predict(features[:1]).probabilities is None else "probabilities"
        return cls(split, numbers, originals, pixels, said(model, features), stored)

    def compare(self, found: npt.NDArray[np.floating], what: str) -> Parity:
        """Hold against the pipeline what an exported classifier says of these images.

        Parameters
        ----------
        found : ndarray of float, shape (n, k)
            Probabilities, or scores.
        what : str
            What says so, for the message.

        Raises
        ------
        ModelError
            A number is further off than `TOLERANCE`, or a label is another where two are not that near.
        """
        if found.shape != self.expected.shape:
            raise ModelError(f"{what}: expected numbers of shape {self.expected.shape}, found {found.shape}.")
        unit = max(1.0, float(np.abs(self.expected).max()))
        every = np.arange(len(found))
        lead = self.expected.max(axis=1) - self.expected[every, found.argmax(axis=1)]
        others = int((lead > 2 * TOLERANCE * unit).sum())
        difference = float(np.abs(found - self.expected).max()) / unit
        if others or not difference <= TOLERANCE:  # what is no number is not below it either
            raise ModelError(
                f"{what} was not written: asked about {counted(len(found), 'image')} of {self.split}, it "
                f"gives {counted(others, 'other label')} than the pipeline, and {self.numbers} up to "
                f"{difference:.2g} off ({TOLERANCE:g} are allowed). Please report this as a bug."
            )
        stored = None if self.stored is None else float(np.abs(found - self.stored).max()) / unit
        return Parity(len(found), self.split, self.numbers, difference, stored)


def said(model: Model, features: Features) -> Floats:
    """Return what a model says of features, shape (n, k): probabilities, or scores of a head without any."""
    predicted = model.predict(features)
    if predicted.probabilities is not None:
        return predicted.probabilities
    rows = model.derivation.rows(features)
    if model.standardization is not None:
        model.standardization.apply(rows, out=rows)
    return scores(model.head, rows, classes=len(model.classes), rows=model.rows)


def _spread(rows: tuple[ImageRow, ...]) -> list[ImageRow]:
    """Take some rows from all over the manifest, whose order is that of the classes' folders."""
    places = np.linspace(0, len(rows) - 1, min(_IMAGES, len(rows))).round().astype(int)
    return [rows[place] for place in places.tolist()]


def _read(row: ImageRow, root: Path) -> Pixels:
    verdict, image = look_at(image_file(row.path, root))
    if image is None or verdict.sha256 != row.sha256:
        raise SourceError(
            f"{printable(row.path)}: {verdict.reason or 'changed_since_prepare'}, and what is exported is "
            f"checked on images. Bring it back, or run `pipeline prepare --rehash`."
        )
    return np.asarray(image)


def _to_pixels(image: Pixels, identity: Identity) -> Pixels:
    from PIL import Image

    return np.asarray(to_pixels(Image.fromarray(image), identity.resize, identity.image_size))
