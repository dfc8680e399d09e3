"""Predictions of single images: the same as in training, and never dependent on their company."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.prepare import prepare
from pipeline.features.extract import extract
from pipeline.features.extractor import Execution
from pipeline.features.store import RowKey
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.results.predict import Prediction, predict
from pipeline.workspace import Workspace
from tests.commands.conftest import finished, finished_folder
from tests.results.predictions import forwarded, known, new, photos, workspace

__all__ = ["finished", "finished_folder", "forwarded", "known", "new", "photos", "workspace"]  # fixtures


# --- where features come from


def test_stored_images__not_computed_again(
    workspace: Workspace, known: list[str], new: list[str], forwarded: list[int]
) -> None:
    assert [prediction.label for prediction in predict(workspace, "logreg", known)] == ["cat", "dog"]
    assert forwarded == []
    predict(workspace, "logreg", [known[0], new[0], known[1], new[1]])
    assert forwarded == [2]


def test_stored_images__wherever_they_lie(
    workspace: Workspace, photos: Path, tmp_path: Path, forwarded: list[int]
) -> None:
    shutil.copyfile(photos / "cat" / "cat-000.png", tmp_path / "elsewhere.jpeg")
    (copy,) = predict(workspace, "logreg", [str(tmp_path / "elsewhere.jpeg")])
    (original,) = predict(workspace, "logreg", [str(photos / "cat" / "cat-000.png")])
    assert copy.probabilities == original.probabilities
    assert forwarded == []


def test_stored_images__torch_is_not_imported(workspace: Workspace, photos: Path) -> None:
    code = (
        "import sys; from pipeline.cli import cli;"
        "cli(sys.argv[1:], standalone_mode=False);"
        "print(sorted({'torch', 'torchvision'} & sys.modules.keys()))"
    )
    arguments = ["--root", str(workspace.root), "predict", "logreg", str(photos)]
    arguments += ["--output", str(workspace.root / "labels.txt")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("head", ["logreg", "linear-svm"])
def test_new_image__as_if_it_had_been_added(
    workspace: Workspace, photos: Path, new: list[str], head: str
) -> None:
    (before,) = predict(workspace, head, [new[3]])
    shutil.copyfile(new[3], photos / "dog" / "added.png")
    prepare(workspace)
    extract(workspace, Execution(batch_size=7))
    (row,) = [row for row in read_manifest(workspace.manifest_file).rows if row.path == "dog/added.png"]
    features = LabelledFeatures.open(workspace).store.read([RowKey(row.sha256)])
    model = model_folder.load(workspace.model_folder(head))
    stored = model.predict(features.astype(np.float32))
    assert before.label == stored.labels[0]
    if stored.probabilities is not None:
        assert before.probabilities == dict(
            zip(stored.classes, stored.probabilities[0].tolist(), strict=True)
        )
    assert predict(workspace, head, [new[3]]) == [before]


def test_probabilities_equal_those_of_the_evaluated_rows(workspace: Workspace, photos: Path) -> None:
    validation = LabelledFeatures.open(workspace).matrix("val")
    expected = model_folder.load(workspace.model_folder("logreg")).predict(validation.X)
    assert expected.probabilities is not None
    predictions = predict(workspace, "logreg", [str(photos / path) for path in validation.paths])
    for prediction, row in zip(predictions, expected.probabilities.tolist(), strict=True):
        assert prediction.probabilities == dict(zip(expected.classes, row, strict=True))


def test_without_a_store__the_same(workspace: Workspace, photos: Path, forwarded: list[int]) -> None:
    image = str(photos / "cat" / "cat-000.png")
    before = predict(workspace, "logreg", [image])
    shutil.rmtree(workspace.root / "cache")
    assert predict(workspace, "logreg", [image]) == before
    assert forwarded == [1]
    assert not (workspace.root / "cache").exists()


def test_store_of_another_identity__computed_and_left_alone(
    workspace: Workspace, photos: Path, forwarded: list[int]
) -> None:
    image = str(photos / "cat" / "cat-000.png")
    before = predict(workspace, "logreg", [image])
    description = workspace.store_folder / "store.json"
    other = description.read_text().replace('"resize": 32', '"resize": 48')
    description.write_text(other)
    assert predict(workspace, "logreg", [image]) == before
    assert forwarded == [1]
    assert description.read_text() == other


# --- independence


def test_alone_or_in_company__the_same_to_the_last_bit(
    workspace: Workspace, photos: Path, new: list[str]
) -> None:
    together = predict(workspace, "logreg", [*new, str(photos)])
    assert predict(workspace, "logreg", [str(photos), *reversed(new)]) == [
        *together[len(new) :], *reversed(together[: len(new)]),
    ]  # fmt: skip
    for number in (0, 16):  # the first of each batch
        assert predict(workspace, "logreg", [new[number]]) == [together[number]]


@pytest.mark.parametrize("head", ["logreg", "linear-svm"])
def test_alone_or_in_company__stored_images(workspace: Workspace, photos: Path, head: str) -> None:
    together = predict(workspace, head, [str(photos)])
    for number in (0, 7, 39):
        assert predict(workspace, head, [together[number].path]) == [together[number]]


def test_bad_neighbours_change_nothing(workspace: Workspace, new: list[str], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    bad = str(tmp_path / "text.jpg")
    first, wrong, second = predict(workspace, "logreg", [new[0], bad, new[1]])
    assert wrong == Prediction(bad, None, None, "unsupported_format")
    assert [first, second] == predict(workspace, "logreg", new[:2])


def test_probabilities__sorted_and_sum_to_one(workspace: Workspace, known: list[str]) -> None:
    for prediction in predict(workspace, "logreg", known):
        assert prediction.probabilities is not None
        values = list(prediction.probabilities.values())
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-12)
        assert next(iter(prediction.probabilities)) == prediction.label
    assert predict(workspace, "linear-svm", known[:1])[0].probabilities is None
