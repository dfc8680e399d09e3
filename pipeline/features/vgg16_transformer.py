"""The transformer of the pipeline's own network, with the defaults of ``params.yaml``."""

from __future__ import annotations

import os

from pipeline.architectures import VGG16
from pipeline.features.transformer import BackboneFeatures


class VGG16Features(BackboneFeatures):
    """The 25,088 numbers behind VGG16's ``avgpool``, of image files or of decoded images.

    Parameters
    ----------
    weights : str, default "oxford"
        As ``extract.weights`` of ``params.yaml``; a relative path starts at the current folder.
    precision, resize, image_size, storage, store, device, batch_size, workers
        See `BackboneFeatures`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> classifier = make_pipeline(VGG16Features(store="features"), LogisticRegression(C=1e-4))
    >>> classifier.fit(["cat.jpg", "dog.jpg"], ["cat", "dog"])  # doctest: +SKIP
    """

    def __init__(
        self,
        weights: str = "oxford",
        precision: str = "half",
        resize: int = 256,
        image_size: int = 224,
        storage: str = "float16",
        store: str | os.PathLike[str] | None = None,
        device: str = "auto",
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> None:
        super().__init__(
            VGG16, weights, precision, resize, image_size, storage, store, device, batch_size, workers
        )
