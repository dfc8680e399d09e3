"""Heads on stored features and networks trained on the images, side by side: what each costs, and is worth.

Owns the choice of models and the words. Scores are those that ``evaluate`` wrote, times those in
``cache/times/``; nothing is trained or scored here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.console import counted
from pipeline.features.identity import Identity
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.networks.blocks import CUTS
from pipeline.networks.prefixes import prefix_identity
from pipeline.results.scores import Score
from pipeline.times import seconds_a_row, training_seconds
from pipeline.workspace import Workspace

_UNKNOWN = "–"


@dataclass(frozen=True)
class Way:
    """One model, as text: how it came to be, its accuracy on val, and the seconds that it took."""

    model: str
    how: str
    accuracy: str
    standard_error: str
    once: str
    training: str


def ways(workspace: Workspace, features: LabelledFeatures, found: Sequence[Score]) -> list[Way]:
    """Compare networks with heads on the features that are stored: those that they began from, and the best.

    Parameters
    ----------
    workspace : Workspace
    features : LabelledFeatures
        Its own.
    found : sequence of Score
        Of all models, the best first.

    Returns
    -------
    list of Way
        Empty where no network of the images, labels and extractor that are there now has a score on val.
    """
    models = {
        score.head: (score, described)
        for score in found
        if score.current and score.split == "val" and not score.out_of_fold
        if _began_with(described := _described(workspace, score.head)) == features.identity.as_dict()
    }
    networks = [name for name, (_, described) in models.items() if "training" in described]
    if not networks:
        return []
    heads = [name for name in models if name not in networks]
    begun_from = {models[name][1]["training"].get("head") for name in networks}
    compared = [name for name in heads if name in begun_from or name == heads[0]]
    return [_way(workspace, features, name, *models[name]) for name in (*compared, *networks)]


def _way(
    workspace: Workspace, features: LabelledFeatures, name: str, score: Score, described: dict[str, Any]
) -> Way:
    training = described.get("training", {})
    images = len(features.labels("train", "val").y)
    ahead = []  # identities of the rows that every image of train and val was needed of
    if training.get("command") != "train-network":
        ahead.append(features.identity)
    cut = CUTS.get(training.get("unfreeze", ""))
    if cut and cut.has_prefix and training["prefix"]:
        ahead.append(prefix_identity(features.identity, cut))
    seconds = training_seconds(workspace, name, workspace.model_folder(name) / model_folder.DESCRIPTION)
    return Way(
        model=name,
        how=_how(described, training),
        accuracy=f"{score.accuracy:.4f}",
        standard_error=f"{math.sqrt(score.accuracy * (1 - score.accuracy) / score.n):.4f}",
        once=_said(_seconds_ahead(workspace, ahead, images)) if ahead else "",
        training=_said(seconds),
    )


def _how(described: dict[str, Any], training: dict[str, Any]) -> str:
    if not training:
        return f"head ({described['estimator']}) on stored features"
    epochs = counted(training["epochs_done"], "epoch")
    if training["command"] == "train-network":
        images = "augmented images" if training["augment"] else "images"
        return f"last layer in the frozen network, {epochs} of {images}"
    return f"{training['head']}, fine-tuned from {training['unfreeze']} on, {epochs}"


def _seconds_ahead(workspace: Workspace, ahead: Sequence[Identity], images: int) -> float | None:
    each = [seconds_a_row(workspace, identity.as_dict()) for identity in ahead]
    known = [seconds for seconds in each if seconds is not None]
    return images * sum(known) if len(known) == len(each) else None


def _said(seconds: float | None) -> str:
    if seconds is None:
        return _UNKNOWN
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:.0f}"


def _described(workspace: Workspace, name: str) -> dict[str, Any]:
    path = workspace.model_folder(name) / model_folder.DESCRIPTION
    described: dict[str, Any] = json.loads(path.read_bytes())
    return described


def _began_with(described: dict[str, Any]) -> dict[str, Any]:
    """Return the identity of the features that a model stands on; before a network learned on, if it did."""
    identity: dict[str, Any] = described["identity"]
    base = described.get("training", {}).get("base_weights_sha256", identity["weights_sha256"])
    return {**identity, "weights_sha256": base}
