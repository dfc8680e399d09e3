"""What heads that had not learned from an image say of it: what the report shows of the head in focus.

Owns the way back from a trained head to how it was made. Test rows are never asked about.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.dataset.manifest import ImageRow
from pipeline.errors import HeadError
from pipeline.heads import model_folder
from pipeline.heads.calibration import can_be_calibrated
from pipeline.heads.current import require_current
from pipeline.heads.folds import NOT_HELD_OUT
from pipeline.heads.labelled_rows import FeatureMatrix
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import Model, Predictions
from pipeline.heads.out_of_fold import out_of_fold
from pipeline.heads.recipe import FIT_ERRORS, Recipe, norm_of, one_line
from pipeline.heads.registry import preset_of
from pipeline.networks.model_extractor import BACKBONE, features_of
from pipeline.workspace import Workspace

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answers:
    """Images of train and val, and what was said of each.

    Attributes
    ----------
    images : tuple of ImageRow, length n
        Without those that no fold could hold out.
    y : ndarray of int64, shape (n,)
        Their labels, as positions among the classes.
    predictions : Predictions
        Of the same images.
    decisions : ndarray of float64, shape (n, k), or None
        The larger, the likelier the class: probabilities where there are any, else decision values.
    left_out : int
        Images that no fold could hold out.
    calibrating : bool
        Whether the probabilities' temperature was fitted to these very images.
    out_of_fold : bool
        Whether heads made in the same way were asked; otherwise the head itself, about images of val.
    """

    images: tuple[ImageRow, ...]
    y: Codes
    predictions: Predictions
    decisions: Floats | None
    left_out: int
    calibrating: bool
    out_of_fold: bool = True

    @cached_property
    def certainty(self) -> Floats:
        """How sure the head is of each label, shape (n,): its probability, else its lead over the next."""
        if self.predictions.probabilities is not None:
            return np.asarray(self.predictions.probabilities.max(axis=1))
        if self.decisions is None:
            return np.zeros(len(self.y))
        ordered = np.sort(self.decisions, axis=1)
        return np.asarray(ordered[:, -1] - ordered[:, -2])

    @property
    def mistakes(self) -> list[int]:
        """Places of the images that were given another label than their own, the surest first."""
        wrong = np.flatnonzero(self.predictions.codes != self.y)
        return [int(place) for place in wrong[np.argsort(-self.certainty[wrong], kind="stable")]]

    @property
    def least_certain(self) -> list[int]:
        """Places of all images, the least certain first; none where the head does not say how sure it is."""
        return [] if self.decisions is None else np.argsort(self.certainty, kind="stable").tolist()

    def said_certainty(self, place: int) -> str:
        """Say how sure the head is of one image's label; nothing where it does not say."""
        if self.decisions is None:
            return ""
        value = self.certainty[place]
        return f"{value:.1%}" if self.predictions.probabilities is not None else f"lead {value:.2f}"


def current_model(
    workspace: Workspace, features: LabelledFeatures, head: str, *, trust: bool
) -> tuple[Model, LabelledFeatures]:
    """Load a trained head, and see that it is of the features and images that are there now.

    Returns
    -------
    Model, LabelledFeatures
        The features are those of the workspace, or of the network that was fine-tuned with the head.

    Raises
    ------
    ModelError
        It is absent or damaged, or was trained on other images or labels.
    IdentityMismatch
        It was trained on features of another extractor.
    """
    model = model_folder.load(workspace.model_folder(head), trust=trust)
    features = features_of(workspace, head, model, "train", "val", features=features)
    require_current(model, head, features)
    return model, features


def held_out_answers(
    model: Model, features: LabelledFeatures, *, trust: bool
) -> tuple[Answers, tuple[Recipe, FeatureMatrix] | None]:
    """Ask about images that were not learned from, in the way that suits the model.

    Returns
    -------
    Answers
    tuple of Recipe and FeatureMatrix, or None
        See `recipe_of`; None for a model whose network has learned, too. Heads made like that would stand on
        features that have seen the training images, so it is asked itself, about the validation images.
    """
    if BACKBONE not in model.extras:
        made = recipe_of(model, features, trust=trust)
        return answers_of(model, *made, features), made
    rows = features.matrix("val")
    predictions = model.predict(rows.X)
    answers = Answers(
        rows.images, rows.y, predictions, predictions.probabilities, 0, False, out_of_fold=False
    )
    return answers, None


def recipe_of(model: Model, features: LabelledFeatures, *, trust: bool) -> tuple[Recipe, FeatureMatrix]:
    """Return how a model was made, and the rows of train and val as it sees them.

    Only parameters that were set are in the recipe: what was derived from the scale of the rows is derived
    again in each fold.
    """
    seed = features.params.seed
    recipe = Recipe(model.estimator, {}, model.classes, model.derivation, seed, trust)
    rows = features.matrix("train", "val", derivation=recipe.reads)
    norm = None
    if preset_of(model.estimator).scaled:
        learned = np.array([image.split in model.splits for image in rows.images])
        norm = norm_of(model.derivation.scaled(rows.X[rows.learned(np.flatnonzero(learned))]))
    usual = recipe.described(recipe.unfitted(norm))
    params = {name: value for name, value in model.params.items() if _plain(usual.get(name)) != value}
    return replace(recipe, params=params), rows


def answers_of(model: Model, recipe: Recipe, rows: FeatureMatrix, features: LabelledFeatures) -> Answers:
    """Ask heads made like a model about the images that each had not learned from.

    Raises
    ------
    HeadError
        There are too few images to hold some out, or the head cannot be made in folds.
    """
    scored = can_be_calibrated(model.head)
    held_out = model.held_out
    if held_out is not None and (held_out.probabilities is not None or not scored):
        predictions, decisions = held_out, held_out.probabilities
    else:
        try:
            found = out_of_fold(recipe.fit, rows, features.memory, recipe.seed, scored=scored)
        except FIT_ERRORS as error:
            raise HeadError(
                f"head {model.name!r} ({model.estimator}) cannot be trained in folds: {one_line(error)}"
            ) from error
        predictions = found.predictions(model)
        decisions = found.scores if predictions.probabilities is None else predictions.probabilities
    held = predictions.codes != NOT_HELD_OUT
    return Answers(
        images=tuple(rows.images[place] for place in np.flatnonzero(held).tolist()),
        y=rows.y[held],
        predictions=predictions.of(held),
        decisions=None if decisions is None else decisions[held],
        left_out=int((~held).sum()),
        calibrating=model.calibration is not None,
    )


def _plain(value: Any) -> Any:
    """Return a parameter as a model's description holds it."""
    return json.loads(json.dumps(value, default=repr))
