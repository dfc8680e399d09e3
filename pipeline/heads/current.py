"""Whether a trained head is of the features and the labelled images that are there now."""

from __future__ import annotations

from pipeline.errors import ModelError
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import Model


def require_current(model: Model, head: str, features: LabelledFeatures) -> None:
    """See that a model is of the features and the labelled images that are there now.

    Raises
    ------
    ModelError
        It was trained on other images, views or labels.
    HeadError
        It was trained on several views, and there is only the centre now.
    IdentityMismatch
        It was trained on features of another extractor.
    """
    again = f"Run `pipeline {model.training.get('command', 'train')} {head}` again."
    model.identity.require(features.identity, f"model {head!r}", "the features in use", again)
    use = model.derivation.views
    there = features.views_of(use)
    if model.views != there:
        raise ModelError(
            f"model {head!r} was trained on the views {', '.join(model.views)}, and extract.views names "
            f"{', '.join(there)} now. {again}"
        )
    if (model.rows_sha256, model.classes) != (features.digest(*model.splits, use=use), features.classes):
        raise ModelError(
            f"model {head!r} was trained on other images or labels than {' and '.join(model.splits)} now "
            f"have, so its scores might count images that it learned from. {again}"
        )
