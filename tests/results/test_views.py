"""What is done with a head that is asked about the mean of an image's views."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from pipeline.dataset.prepare import prepare
from pipeline.edit_params import write_params
from pipeline.errors import ModelError
from pipeline.features.extract import extract
from pipeline.features.extractor import Extractor
from pipeline.features.store import RowKey
from pipeline.heads import model_folder
from pipeline.heads.load_features import load_features
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.networks.finetune import finetune
from pipeline.results.evaluate import evaluate
from pipeline.results.export.export import export
from pipeline.results.export.wanted import Wanted
from pipeline.results.predict import predict
from pipeline.results.report.answers import current_model, held_out_answers
from pipeline.results.report.learning_curve import learning_curve
from pipeline.workspace import Workspace
from tests.commands.conftest import finished_folder
from tests.conftest import write_images

__all__ = ["finished_folder"]  # fixtures

VIEWS = ("center", "hflip", "bottom-right")
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def viewed_folder(finished_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished workspace with three views of each image, and a head of either kind."""
    folder = tmp_path_factory.mktemp("viewed") / "copy"
    shutil.copytree(finished_folder, folder)
    workspace = Workspace(folder / "workspace")
    write_params(
        workspace.params_file,
        {"extract.resize": 36, "extract.views": list(VIEWS)},  # with 32 all crops were one
    )
    extract(workspace, fresh=True)
    for use in ("average", "stack"):
        train(workspace, "logreg", name=use, changes={"views": use})
    return folder


@pytest.fixture
def workspace(viewed_folder: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(viewed_folder, tmp_path / "copy")
    return Workspace(tmp_path / "copy" / "workspace")


@pytest.fixture
def forwarded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many squares went through the network, batch by batch."""
    counts: list[int] = []
    original = Extractor.forward

    def forward(extractor: Extractor, pixels: Any) -> Any:
        counts.append(len(pixels))
        return original(extractor, pixels)

    monkeypatch.setattr(Extractor, "forward", forward)
    return counts


def expected(workspace: Workspace, name: str, split: str) -> Any:
    """Probabilities of images: of a linear head on rows as they are, those of its mean decision value."""
    features = LabelledFeatures.open(workspace)
    images = features.labels(split).images  # type: ignore[arg-type]
    keys = [RowKey(image.sha256, view) for image in images for view in VIEWS]
    head = model_folder.load(workspace.model_folder(name)).head
    scores = head.decision_function(features.store.read(keys).astype(np.float64)).reshape(-1, len(VIEWS))
    of_dog = 1 / (1 + np.exp(-scores.mean(axis=1)))
    return np.stack([1 - of_dog, of_dog], axis=1)


@pytest.mark.parametrize("name", ["average", "stack"])
def test_evaluate__is_of_the_mean(workspace: Workspace, name: str) -> None:
    rows = LabelledFeatures.open(workspace).labels("test")
    probabilities = expected(workspace, name, "test")
    metrics = evaluate(workspace, name, "test")
    assert metrics.n == len(rows.y)
    assert metrics.accuracy == pytest.approx((probabilities.argmax(axis=1) == rows.y).mean(), abs=1e-6)
    right = probabilities[np.arange(len(rows.y)), rows.y]
    assert metrics.log_loss == pytest.approx(-np.log(right).mean(), abs=1e-3)


@pytest.mark.parametrize("name", ["average", "stack"])
def test_predict__stored_and_new_images_alike(
    workspace: Workspace, name: str, forwarded: list[int], tmp_path: Path
) -> None:
    photos = workspace.root.parent / "photos"
    features = LabelledFeatures.open(workspace)
    files = [str(photos / path) for path in features.labels("val").paths]
    stored = predict(workspace, name, files)
    assert forwarded == []
    found = [[each.probabilities["cat"], each.probabilities["dog"]] for each in stored if each.probabilities]
    np.testing.assert_allclose(found, expected(workspace, name, "val"), atol=1e-4)
    shutil.move(workspace.store_folder, tmp_path / "aside")
    assert predict(workspace, name, files[:2]) == stored[:2]
    assert sum(forwarded) == 2 * len(VIEWS)


def test_predict__an_image_that_lacks_a_view_is_computed(workspace: Workspace, forwarded: list[int]) -> None:
    write_images(workspace.root.parent / "photos", {"cat": 21, "dog": 20})
    write_params(workspace.params_file, {"extract.views": ["center"]})
    prepare(workspace)
    extract(workspace)
    forwarded.clear()
    new = str(workspace.root.parent / "photos" / "cat" / "cat-020.png")
    (before,) = predict(workspace, "stack", [new])
    assert sum(forwarded) == 3
    write_params(workspace.params_file, {"extract.views": list(VIEWS)})
    extract(workspace)
    forwarded.clear()
    assert predict(workspace, "stack", [new]) == [before]
    assert forwarded == []


@pytest.mark.parametrize("name", ["average", "stack"])
def test_report__answers_and_learning_curve(workspace: Workspace, name: str) -> None:
    model, features = current_model(workspace, LabelledFeatures.open(workspace), name, trust=False)
    answers, made = held_out_answers(model, features, trust=False)
    assert len(answers.images) == len(answers.y) == len(features.labels("train", "val").y)
    assert made is not None
    recipe, rows = made
    assert recipe.params == {}  # the regularisation follows from the rows that were learned from
    curve = learning_curve(model, recipe, rows, features, answers)
    assert [point.images for point in curve] == sorted({point.images for point in curve})
    assert curve[-1].images < len(answers.y)  # images, and not their views
    assert curve[-1].accuracy == pytest.approx((answers.predictions.codes == answers.y).mean(), abs=0.05)


@pytest.mark.parametrize("name", ["average", "stack"])
def test_export_and_finetune__refused_by_name(workspace: Workspace, tmp_path: Path, name: str) -> None:
    words = (
        f"model '{name}' was trained with views {name}, and is asked about the mean of {', '.join(VIEWS)}: "
    )
    with pytest.raises(ModelError, match=re.escape(words) + "an exported classifier sees one view"):
        export(workspace, name, Wanted(state_dict=tmp_path / "x.safetensors"))
    with pytest.raises(ModelError, match=re.escape(words) + "the network that is fine-tuned sees one view"):
        finetune(workspace, name)


def test_load_features__is_of_the_centre(workspace: Workspace) -> None:
    features = LabelledFeatures.open(workspace)
    images = features.labels("train").images
    X, _, paths = load_features(workspace.root, "train")
    assert paths.tolist() == [image.path for image in images]
    np.testing.assert_array_equal(X, features.store.read([RowKey(image.sha256) for image in images]))


def test_commands__tell_of_views(run: Run, workspace: Workspace) -> None:
    assert "views      bottom-right 40, center 40, hflip 40\n" in run("store", "info").output
    told = run("sweep", "-e", "ridge", "--pooling", "avg", "--normalize", "l2").output
    assert re.search(r"estimator +pooling +normalize +views +setting", told)
    assert re.search(r"^\d +ridge +avg +l2 +stack ", told, re.MULTILINE)
    told = run("sweep", "-e", "knn", "--pooling", "avg", "--normalize", "l2", "--views", "average").output
    assert re.search(r"^\d +knn +avg +l2 +average ", told, re.MULTILINE)
    run("train", "linear-svm", "--views", "stack")
    run("evaluate", "linear-svm")
    write_params(workspace.params_file, {"extract.views": ["center"]})
    refused = run("train", "linear-svm", "--views", "stack", code=1).stderr
    assert "names center. Run `pipeline extract`" in refused
