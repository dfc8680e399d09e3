"""What the head demands of `predict`, and which models it takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from pipeline.edit_params import write_params
from pipeline.errors import (
    DamagedShard,
    IdentityMismatch,
    ModelError,
    ParamsError,
)
from pipeline.heads.train import train
from pipeline.results.predict import predict
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.results.predictions import forwarded, known, new, photos, workspace

__all__ = ["finished", "finished_folder", "forwarded", "known", "new", "photos", "workspace"]  # fixtures

Run = Callable[..., Result]


# --- what the head demands


@pytest.fixture
def demanding(workspace: Workspace, known: list[str]) -> tuple[Workspace, dict[str, float]]:
    """A linear SVM that is sure of one of the two known images, and the confidence in each."""
    train(workspace, "linear-svm", changes={"calibrate": True})
    confidence = {
        found.path: max(found.probabilities.values())
        for found in predict(workspace, "linear-svm", known)
        if found.probabilities
    }
    threshold = sum(confidence.values()) / 2
    train(workspace, "linear-svm", changes={"calibrate": True, "unsure_below": threshold})
    return workspace, confidence


def test_unsure__below_the_probability_that_is_demanded(
    demanding: tuple[Workspace, dict[str, float]], known: list[str]
) -> None:
    workspace, confidence = demanding
    doubted, trusted = sorted(confidence, key=confidence.__getitem__)
    found = {prediction.path: prediction for prediction in predict(workspace, "linear-svm", known)}
    assert (found[doubted].label, found[doubted].best) == ("unsure", Path(doubted).parent.name)
    assert (found[trusted].label, found[trusted].best) == (Path(trusted).parent.name, None)
    for path in known:
        probabilities = found[path].probabilities
        assert probabilities is not None
        assert max(probabilities.values()) == confidence[path]


def test_unsure__in_json(run: Run, demanding: tuple[Workspace, dict[str, float]], known: list[str]) -> None:
    found = json.loads(run("predict", "linear-svm", *known, "--format", "json").stdout)
    assert sorted(prediction["label"] == "unsure" for prediction in found) == [False, True]
    for prediction in found:
        best = next(iter(prediction["probabilities"]))
        assert prediction.get("best", prediction["label"]) == best


def test_pooled_head__new_and_stored_images_alike(
    workspace: Workspace, known: list[str], new: list[str]
) -> None:
    train(workspace, "logreg", changes={"pooling": "avg", "normalize": "standardize"})
    together = predict(workspace, "logreg", [*known, *new])
    assert [prediction.label for prediction in together[:2]] == ["cat", "dog"]
    assert predict(workspace, "logreg", [new[3]]) == [together[5]]


# --- models


def test_model_by_path(workspace: Workspace, known: list[str], tmp_path: Path) -> None:
    moved = tmp_path / "from a friend"
    shutil.copytree(workspace.model_folder("logreg"), moved)
    assert predict(workspace, str(moved), known[:1]) == predict(workspace, "logreg", known[:1])
    assert predict(workspace, f"{moved}/", known[:1]) == predict(workspace, "logreg", known[:1])


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("knn", ModelError, "models/knn: no such model"),
        ("./nowhere", ModelError, "nowhere: no such model"),
        ("Logreg", ParamsError, "head 'Logreg'"),
        ("..", ParamsError, "head '..'"),
    ],
)
def test_no_such_model(
    workspace: Workspace, known: list[str], model: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as raised:
        predict(workspace, model, known[:1])
    assert words in str(raised.value)


def test_damaged_model__named(workspace: Workspace, known: list[str]) -> None:
    folder = workspace.model_folder("logreg")
    (weights,) = folder.glob("head.*")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError) as error:
        predict(workspace, "logreg", known[:1])
    assert f"{weights} is damaged" in str(error.value)
    assert "`pipeline train logreg`" in str(error.value)


def test_model_of_another_identity__refused_with_both(
    workspace: Workspace, known: list[str], forwarded: list[int]
) -> None:
    write_params(workspace.params_file, {"extract.image_size": 48, "extract.resize": 64})
    with pytest.raises(IdentityMismatch) as error:
        predict(workspace, "logreg", known[:1])
    said = str(error.value)
    assert str(workspace.params_file) in said
    assert str(workspace.model_folder("logreg")) in said
    assert "resize 64 against 32; image_size 48 against 32" in said
    assert "`pipeline train logreg`" in said
    assert forwarded == []


def test_damaged_shard__named(workspace: Workspace, photos: Path) -> None:
    (shard,) = workspace.store_folder.glob("*.h5")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    image = str(photos / "cat" / "cat-000.png")
    with pytest.raises(DamagedShard, match=shard.name):
        predict(workspace, "logreg", [image])
