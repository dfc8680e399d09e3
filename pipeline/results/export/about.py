"""What a program needs to know to use an exported classifier, as text that fits any format's metadata."""

from __future__ import annotations

import json

from pipeline.features.normalisation import normalisation_note
from pipeline.heads.linear_layer import layer_of
from pipeline.heads.model import Model


def about(model: Model) -> dict[str, str]:
    """Say what a program needs to know to use a classifier; the values are JSON.

    Returns
    -------
    dict of str to str
        ``classes``: labels, in the order of the output. ``output``: ``probabilities`` or ``scores``, and
        ``unsure_below``, the probability that the best label must have. ``preprocessing``: what must be done
        to an image. ``model``: what it is. ``identity``: of the extractor. ``normalisation``: as
        `extract.weights` reads it.
    """
    identity = model.identity
    said = {
        "classes": list(model.classes),
        "output": layer_of(model).output,
        "unsure_below": model.unsure_below,
        "preprocessing": {
            "decoding": identity.decoding,
            "resizing": identity.resizing,
            "resize": identity.resize,
            "image_size": identity.image_size,
            "mean": list(identity.mean),
            "std": list(identity.std),
            "steps": "upright, RGB; shorter side to `resize` (bilinear, antialiased); square of `image_size` "
            "from the centre; divided by 255, minus `mean`, divided by `std`; channels first",
        },
        "model": {"name": model.name, "estimator": model.estimator, "rows_sha256": model.rows_sha256},
        "identity": identity.as_dict(),
    }
    told = {key: json.dumps(value, ensure_ascii=False) for key, value in said.items()}
    return told | normalisation_note(identity.mean, identity.std)
