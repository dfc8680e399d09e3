from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.heads import model_folder
from pipeline.heads.derived import Derivation
from pipeline.heads.folds import fold_of_rows
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model_folder import HISTORY
from pipeline.heads.recipe import Recipe
from pipeline.heads.train import TrainReport, train
from pipeline.workspace import Workspace
from tests.heads.conftest import CLASSES, IDENTITY
from tests.heads.folders import files_of

Change = Callable[[Callable[[ImageRow], ImageRow]], None]


@pytest.mark.parametrize("head", ["linear", "logreg", "svm", "knn", "bayes"])
def test_train__model_knows_unseen_rows(workspace: Workspace, head: str) -> None:
    report = train(workspace, head)

    assert (report.rows, report.classes, report.warnings) == (36, 3, ())
    assert report.folder == workspace.model_folder(head)
    model = model_folder.load(report.folder)
    features = LabelledFeatures.open(workspace)
    assert (model.name, model.classes, model.views) == (head, CLASSES, ("center",))
    assert model.identity == IDENTITY
    assert (model.rows, model.rows_sha256) == (36, features.digest("train"))
    unseen = features.matrix("val")
    assert (model.predict(unseen.X).codes == unseen.y).mean() >= 0.9


def test_train__parameters_come_from_params_yaml_and_the_seed_too(workspace: Workspace) -> None:
    train(workspace, "knn")
    assert model_folder.load(workspace.model_folder("knn")).params["n_neighbors"] == 3
    train(workspace, "logreg")
    assert model_folder.load(workspace.model_folder("logreg")).params["random_state"] == 7


@pytest.mark.parametrize("head", ["linear", "svm"])
def test_train__twice_gives_the_same_bytes(workspace: Workspace, head: str) -> None:
    train(workspace, head)
    before = files_of(workspace.model_folder(head))
    train(workspace, head)
    assert files_of(workspace.model_folder(head)) == before


def test_train__test_rows_are_never_read(workspace: Workspace, asked: list[str]) -> None:
    splits = {row.sha256: row.split for row in read_manifest(workspace.manifest_file).usable}
    train(workspace, "logreg", changes={"pooling": "avg", "normalize": "standardize", "calibrate": True})
    train(workspace, "linear", changes={"calibrate": True})
    train(workspace, "svm", changes={"train_on": "train+val"})
    assert {splits[sha256] for sha256 in asked} == {"train", "val"}


@pytest.mark.parametrize("head", ["logreg", "svm", "knn"])
def test_train__val_rows_are_scored_and_not_learned_from(
    workspace: Workspace, change_rows: Change, head: str
) -> None:
    def head_of(report: TrainReport) -> bytes:
        return next(report.folder.glob("head.*")).read_bytes()

    before = train(workspace, head, changes={"pooling": "avg"})
    change_rows(lambda row: replace(row, label="owl") if row.split == "val" else row)
    after = train(workspace, head, changes={"pooling": "avg"})
    assert head_of(before) == head_of(after)
    assert before.metrics == {"rows": "val", "n": 12, "accuracy": 1.0}
    assert after.metrics == {"rows": "val", "n": 12, "accuracy": pytest.approx(1 / 3, abs=1e-6)}


def test_train__scores_those_that_evaluate_gives(workspace: Workspace) -> None:
    report = train(workspace, "bayes")
    features = LabelledFeatures.open(workspace).matrix("val")
    model = model_folder.load(report.folder)
    right = model.predict(features.X).codes == features.y
    assert report.metrics == model.metrics == {"rows": "val", "n": 12, "accuracy": round(right.mean(), 6)}


# --- train on train and val


@pytest.mark.parametrize("calibrate", [False, True])
@pytest.mark.parametrize("head", ["logreg", "svm", "linear", "knn"])
def test_train_on_both__each_row_is_scored_by_a_head_that_has_not_seen_it(
    workspace: Workspace, head: str, calibrate: bool
) -> None:
    changes = {"train_on": "train+val", "calibrate": calibrate, "pooling": "max", "normalize": "l2"}
    model = model_folder.load(train(workspace, head, changes=changes).folder)
    features = LabelledFeatures.open(workspace)
    rows = features.matrix("train", "val", derivation=Derivation("max", "l2"))
    assert (model.rows, model.rows_sha256) == (48, features.digest("train", "val"))
    assert model.held_out is not None
    settings = features.params.heads[head]
    recipe = Recipe(settings.estimator, settings.params, rows.classes, model.derivation, 7, False)
    fold_of = fold_of_rows(rows.y, rows.groups, 5, 7)
    expected = np.empty(48, np.int64)
    for fold in range(5):
        learned = fold_of != fold
        fitted = recipe.fit(rows.X[learned], rows.y[learned])
        expected[~learned] = fitted.estimator.predict(rows.X[~learned])
    np.testing.assert_array_equal(model.held_out.codes, expected)
    assert model.metrics["accuracy"] == round(float((expected == rows.y).mean()), 6)
    assert (model.held_out.probabilities is not None) == (calibrate or head != "svm")


def test_train_on_both__the_head_is_that_of_all_rows(workspace: Workspace) -> None:
    model = model_folder.load(train(workspace, "svm", changes={"train_on": "train+val"}).folder)
    rows = LabelledFeatures.open(workspace).matrix("train", "val", derivation=Derivation())
    expected = Recipe("linear-svm", {}, rows.classes, Derivation(), 7, False).fit(rows.X, rows.y).estimator
    np.testing.assert_allclose(model.head.coef_, expected.coef_, rtol=1e-3, atol=1e-9)


def test_train__who_says_how_to_fit_gets_scikit_learn(workspace: Workspace) -> None:
    report = train(workspace, "logreg", overrides={"solver": "newton-cg", "C": 0.01, "tol": 1e-3})
    rows = LabelledFeatures.open(workspace).matrix("train", derivation=Derivation())
    settings = {"solver": "newton-cg", "C": 0.01, "tol": 1e-3, "max_iter": 1000, "random_state": 7}
    expected = LogisticRegression(**settings).fit(rows.X, rows.y)
    np.testing.assert_array_equal(model_folder.load(report.folder).head.coef_, expected.coef_)


def test_train__linear_logs_every_epoch(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    train(workspace, "linear", overrides={"epochs": 3})
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3
    assert told[0].startswith("Epoch 1/3: train loss ")
    with (workspace.model_folder("linear") / HISTORY).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert (
        f"val loss {float(rows[2]['val_loss']):.4f}, accuracy {float(rows[2]['val_accuracy']):.4f}" in told[2]
    )


def test_train__linear_without_validation_rows(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, split="test") if row.split == "val" else row)
    train(workspace, "linear", overrides={"epochs": 1})
    assert (workspace.model_folder("linear") / HISTORY).read_text().splitlines()[1].endswith(",,")


def test_train__log_of_another_estimator_goes(workspace: Workspace) -> None:
    train(workspace, "linear", overrides={"epochs": 1})
    text = workspace.params_file.read_text()
    workspace.params_file.write_text(
        text.replace("linear: {estimator: linear}", "linear: {estimator: ridge}")
    )
    train(workspace, "linear")
    assert not (workspace.model_folder("linear") / HISTORY).exists()


def test_train__overrides_under_another_name(workspace: Workspace) -> None:
    params = workspace.params_file.read_bytes()
    train(workspace, "knn")
    before = files_of(workspace.model_folder("knn"))
    report = train(workspace, "knn", name="knn1", overrides={"n_neighbors": 1})
    assert report.name == "knn1"
    assert model_folder.load(workspace.model_folder("knn1")).params["n_neighbors"] == 1
    assert files_of(workspace.model_folder("knn")) == before
    assert workspace.params_file.read_bytes() == params


def test_train__what_stands_between_features_and_answer_comes_from_params_yaml(workspace: Workspace) -> None:
    text = workspace.params_file.read_text()
    line = "svm: {estimator: linear-svm, pooling: max, normalize: standardize, calibrate: true,"
    line += " unsure_below: 0.7}"
    workspace.params_file.write_text(text.replace("svm: {estimator: linear-svm}", line))
    model = model_folder.load(train(workspace, "svm").folder)
    assert model.derivation == Derivation("max", "standardize")
    assert model.standardization is not None
    assert model.calibration is not None
    assert model.unsure_below == 0.7
    unseen = LabelledFeatures.open(workspace).matrix("val")
    predictions = model.predict(unseen.X)
    assert predictions.probabilities is not None
    assert (predictions.codes == unseen.y).mean() >= 0.9

    changes = {"pooling": "none", "normalize": "l2", "calibrate": False}
    model = model_folder.load(
        train(workspace, "svm", name="other", changes=changes | {"unsure_below": None}).folder
    )
    assert (model.derivation, model.calibration, model.unsure_below) == (Derivation("none", "l2"), None, None)


@pytest.mark.parametrize("pooling", ["none", "avg", "max"])
@pytest.mark.parametrize("normalize", ["none", "l2", "sqrt_l2", "standardize"])
def test_train__knows_unseen_rows_on_every_view(workspace: Workspace, pooling: str, normalize: str) -> None:
    changes = {"pooling": pooling, "normalize": normalize}
    model = model_folder.load(train(workspace, "logreg", changes=changes).folder)
    unseen = LabelledFeatures.open(workspace).matrix("val")
    # 25,088 columns of equal weight, most of them noise, are too many for 36 rows
    enough = 0.6 if (pooling, normalize) == ("none", "standardize") else 0.9
    assert (model.predict(unseen.X).codes == unseen.y).mean() >= enough


def test_train__standardisation_is_of_the_training_rows_alone(workspace: Workspace) -> None:
    model = model_folder.load(train(workspace, "logreg", changes={"normalize": "standardize"}).folder)
    X = LabelledFeatures.open(workspace).matrix("train").X.astype(np.float64)
    assert model.standardization is not None
    np.testing.assert_allclose(model.standardization.mean, X.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_train__calibration_is_fitted_to_rows_that_were_held_out(workspace: Workspace) -> None:
    model = model_folder.load(train(workspace, "bayes", changes={"calibrate": True}).folder)
    assert model.calibration is not None
    assert model.calibration.rows == 36
    # Bernoulli naive Bayes counts 25,088 columns as independent, and is far too sure of itself
    assert model.calibration.temperature > 10


@pytest.mark.parametrize("head", ["linear", "logreg", "forest"])
def test_train__larger_than_memory_is_the_same(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], head: str
) -> None:
    changes = {"normalize": "standardize"}
    before = files_of(train(workspace, head, changes=changes).folder)
    assert "temporary file" not in capsys.readouterr().err
    assert files_of(train(workspace, head, changes=changes, memory=1000).folder) == before
    assert "temporary file" in capsys.readouterr().err
    assert list((workspace.root / "cache").glob(".matrix.*")) == []


def test_train__presets_converge_quietly(workspace: Workspace) -> None:
    for head in ("logreg", "linear-svm", "ridge", "knn", "rbf-svm", "naive-bayes", "lda", "forest"):
        assert train(workspace, head).warnings == ()


def test_train__scikit_learn_head_without_torch(workspace: Workspace) -> None:
    code = """
import sys
from pathlib import Path
from pipeline.heads.recipe import Recipe
from pipeline.heads.train import TrainReport, train
from pipeline.workspace import Workspace
train(Workspace(Path(sys.argv[1])), "logreg")
print([name for name in ("torch", "torchvision", "PIL") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(workspace.root)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert json.loads((workspace.model_folder("logreg") / "model.json").read_bytes())["rows"] == 36


def test_train__duplicates_are_rows_of_their_own(workspace: Workspace, change_rows: Change) -> None:
    first = read_manifest(workspace.manifest_file).of_split("train")[0]
    change_rows(lambda row: replace(row, sha256=first.sha256) if row.path == "cat/01.jpg" else row)
    matrix = LabelledFeatures.open(workspace).matrix("train")
    assert len(matrix.y) == 36
    np.testing.assert_array_equal(matrix.X[0], matrix.X[1])
    assert train(workspace, "logreg").rows == 36
