"""The identity of an extractor: everything that makes its features what they are.

Features of two identities are never mixed. Library versions and the device are recorded
beside it, in each shard, and are no part of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.architectures import ARCHITECTURES, VGG16, architecture_of
from pipeline.errors import IdentityMismatch, StoreError
from pipeline.features.quantised import quantised_digest
from pipeline.features.weights import Weights
from pipeline.params import ExtractParams

#: Columns of a row of VGG16: 512 channels at 7 × 7 positions.
DIMENSION = ARCHITECTURES[VGG16].dimension
# Of a row of any network, or of what VGG16 makes of an image half-way: more are not to be believed.
_LARGEST = 1 << 20
#: Decoder family, and the operations between a file and the network, in order, by `ExtractParams.decoder`.
DECODING = {"pillow": "pillow, upright, RGB", "nvjpeg": "nvjpeg or else pillow, upright, RGB"}
RESIZING = {
    "pillow": "pillow bilinear, antialiased",
    "nvjpeg": "torch or else pillow, bilinear, antialiased",
}


@dataclass(frozen=True)
class Identity:
    """What two stores, or a store and a model, must share to be used together.

    Attributes
    ----------
    backbone, layer : str
        The network, and where in it the features are taken.
    weights_sha256 : str
        Digest of the weights' values, whatever file they came from.
    decoding, resizing : str
        How a file becomes pixels, and how these are scaled.
    resize, image_size : int
        Pixels of the shorter side after resizing, and of the centre square.
    mean, std : tuple of float
        Normalisation of the red, green and blue channels scaled to [0, 1].
    precision : {"half", "float32", "int8"}
        Precision class of the forward pass.
    storage : {"float16", "float32"}
        Type of the stored numbers.
    quantised_sha256 : str
        Digest of the quantised network of precision ``int8``; empty for the others.
    dimension : int
        Columns of a row.
    """

    backbone: str
    weights_sha256: str
    layer: str
    decoding: str
    resizing: str
    resize: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    precision: str
    storage: str
    quantised_sha256: str = ""
    dimension: int = DIMENSION

    @property
    def row_bytes(self) -> int:
        """What the features of one image take."""
        return self.dimension * np.dtype(self.storage).itemsize

    def as_dict(self) -> dict[str, Any]:
        """Return the identity as values that JSON can hold; without the parts that are implied."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
            if key not in _IMPLIED or value != _IMPLIED[key]
        }

    @classmethod
    def from_dict(cls, values: Any) -> Identity:
        """Rebuild an identity from `as_dict`.

        Raises
        ------
        StoreError
            `values` is not what `as_dict` returns.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(values, dict) or sorted(_IMPLIED | values) != sorted(names):
            raise StoreError(f"not an extractor's identity: expected the keys {', '.join(names)}.")
        dimension = values.get("dimension", DIMENSION)
        if type(dimension) is not int or not 0 < dimension <= _LARGEST:
            raise StoreError(
                f"not an extractor's identity: expected a dimension from 1 to {_LARGEST}, "
                f"found {dimension!r}."
            )
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def require(self, other: Identity, mine: str, theirs: str, remedy: str) -> None:
        """Refuse to go on unless `other` is the same.

        Parameters
        ----------
        other : Identity
            The identity to compare with.
        mine, theirs : str
            What each identity belongs to, for the message.
        remedy : str
            What to do about a difference.

        Raises
        ------
        IdentityMismatch
            They differ; the message shows both, part by part.
        """
        parts = [
            f"{field.name} {_short(getattr(self, field.name))} against {_short(getattr(other, field.name))}"
            for field in fields(self)
            if getattr(self, field.name) != getattr(other, field.name)
        ]
        if parts:
            raise IdentityMismatch(f"{mine} and {theirs} differ: {'; '.join(parts)}. {remedy}")


#: Parts that are not written down where they have these values, so that stores of earlier releases, and
#: all that was made with them, stay what they were.
_IMPLIED: dict[str, Any] = {"quantised_sha256": "", "dimension": DIMENSION}


def identity_of(params: ExtractParams, weights: Weights, quantised: Path | None = None) -> Identity:
    """Return the identity of the extractor that `params` ask for.

    Parameters
    ----------
    params : ExtractParams
        What is asked for.
    weights : Weights
        What `params` call their weights.
    quantised : Path, optional
        The quantised network of precision ``int8``; of no account for the others.

    Raises
    ------
    WeightsError
        The quantised network is absent or damaged.
    """
    if weights.backbone != params.backbone:
        raise ValueError(f"these are weights of {weights.backbone}, not of {params.backbone}")
    architecture = architecture_of(params.backbone)
    digest = ""
    if params.precision == "int8":
        if quantised is None:
            raise ValueError("precision int8 needs a quantised network")
        digest = quantised_digest(quantised)
    return Identity(
        backbone=params.backbone,
        weights_sha256=weights.sha256,
        layer=architecture.layer,
        decoding=DECODING[params.decoder],
        resizing=RESIZING[params.decoder],
        resize=params.resize,
        image_size=params.image_size,
        mean=weights.mean,
        std=weights.std,
        precision=params.precision,
        storage=params.storage,
        quantised_sha256=digest,
        dimension=architecture.dimension,
    )


def _short(value: Any) -> str:
    if value == "":
        return "none"
    return value[:12] + "…" if isinstance(value, str) and len(value) == 64 else str(value)
