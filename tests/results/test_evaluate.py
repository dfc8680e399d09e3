from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.dataset.manifest import ImageRow, read_manifest
from pipeline.errors import HeadError, IdentityMismatch, ModelError, WorkspaceError
from pipeline.heads import model_folder
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.train import train
from pipeline.results.evaluate import evaluate
from pipeline.results.metrics import score
from pipeline.results.scores import scores, scores_table
from pipeline.workspace import Workspace
from tests.heads.conftest import IDENTITY, relabelled

Change = Callable[[Callable[[ImageRow], ImageRow]], None]


@pytest.fixture
def trained(workspace: Workspace) -> Workspace:
    train(workspace, "knn")
    return workspace


def test_evaluate__scores_the_models_own_predictions(trained: Workspace) -> None:
    found = evaluate(trained, "knn")

    rows = LabelledFeatures.open(trained).matrix("val")
    predictions = model_folder.load(trained.model_folder("knn")).predict(rows.X)
    assert replace(found, scored={}) == score("knn", "val", rows.y, predictions)
    assert found.scored == {
        "model_sha256": hashlib.sha256((trained.model_folder("knn") / "model.json").read_bytes()).hexdigest(),
        "rows_sha256": rows.digest,
    }
    assert found.n == 12

    stored = json.loads(trained.metrics_file("knn", "val").read_bytes())
    assert stored == json.loads(json.dumps(found.as_dict()))
    assert list(stored)[:4] == ["head", "split", "n", "accuracy"]
    assert stored["confusion"]["labels"] == ["cat", "dog", "owl"]

    with trained.confusion_file("knn", "val").open(newline="") as file:
        pairs = [(row["actual"], row["predicted"]) for row in csv.DictReader(file)]
    actual = [row.label for row in read_manifest(trained.manifest_file).of_split("val")]
    assert pairs == list(zip(actual, predictions.labels, strict=True))


def test_evaluate__twice_gives_the_same_bytes(trained: Workspace) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (trained.root / "reports").rglob("*.*")}

    for split in ("val", "test"):
        evaluate(trained, "knn", split)
    before = files()
    for split in ("val", "test"):
        evaluate(trained, "knn", split)  # type: ignore[arg-type]
    assert files() == before
    assert len(before) == 5


def test_evaluate__counts_looks_at_the_test_split(trained: Workspace, change_rows: Change) -> None:
    train(trained, "bayes")
    assert evaluate(trained, "knn").test_looks is None
    assert not trained.test_looks_file.exists()

    assert evaluate(trained, "knn", "test").test_looks == 1
    assert evaluate(trained, "knn", "test").test_looks == 1
    assert evaluate(trained, "bayes", "test").test_looks == 2
    train(trained, "knn")  # the same model again is no other model
    assert evaluate(trained, "knn", "test").test_looks == 1
    train(trained, "knn", overrides={"n_neighbors": 1})
    assert evaluate(trained, "knn", "test").test_looks == 3
    assert json.loads(trained.metrics_file("knn", "test").read_bytes())["test_looks"] == 3

    change_rows(lambda row: replace(row, split="val") if row.path == "owl/19.jpg" else row)
    assert evaluate(trained, "knn", "test").test_looks == 4  # other rows, and not a fresh start
    assert len(json.loads(trained.test_looks_file.read_bytes())["looks"]) == 4


def test_evaluate__val_and_train_rows_only_where_asked(trained: Workspace, asked: list[str]) -> None:
    evaluate(trained, "knn")
    assert asked == [row.sha256 for row in read_manifest(trained.manifest_file).of_split("val")]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"looks": [{"head": "knn"}]}', '{"looks": 3}'])
def test_evaluate__damaged_record_of_looks_is_not_overwritten(trained: Workspace, content: str) -> None:
    trained.test_looks_file.parent.mkdir(parents=True)
    trained.test_looks_file.write_text(content)
    with pytest.raises(WorkspaceError, match=r"test-looks.json: not a record of looks"):
        evaluate(trained, "knn", "test")
    assert trained.test_looks_file.read_text() == content
    assert not trained.metrics_file("knn", "test").exists()


@pytest.mark.parametrize(
    "change",
    [
        lambda row: relabelled(row, "cat/00.jpg", "dog"),
        lambda row: replace(row, split="val") if row.path == "cat/00.jpg" else row,
        # A validation image of yesterday is learned from today, and the other way round.
        lambda row: replace(row, split={"train": "val", "val": "train"}.get(row.split, row.split)),
    ],
)
def test_evaluate__model_of_other_training_rows(
    trained: Workspace, change_rows: Change, change: Callable[[ImageRow], ImageRow]
) -> None:
    change_rows(change)
    with pytest.raises(ModelError, match=r"other images or labels.*Run `pipeline train knn` again"):
        evaluate(trained, "knn")
    assert not trained.metrics_file("knn", "val").exists()


def test_evaluate__relabelled_validation_image_needs_no_training(
    trained: Workspace, change_rows: Change
) -> None:
    path = read_manifest(trained.manifest_file).of_split("val")[0].path
    before = evaluate(trained, "knn")
    change_rows(lambda row: relabelled(row, path, "dog"))
    after = evaluate(trained, "knn")
    assert after.per_class["dog"]["n"] == before.per_class["dog"]["n"] + 1


def test_evaluate__model_of_another_extractor(trained: Workspace) -> None:
    path = trained.model_folder("knn") / "model.json"
    stored = json.loads(path.read_bytes())
    stored["identity"] = replace(IDENTITY, precision="float32").as_dict()
    path.write_text(json.dumps(stored))
    with pytest.raises(
        IdentityMismatch, match=r"model 'knn' .* precision float32 against half.*pipeline train knn"
    ):
        evaluate(trained, "knn")


def test_evaluate__split_without_images(trained: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, split="test") if row.split == "val" else row)
    with pytest.raises(HeadError, match=r"split 'val' has no image.*dataset.split.*--resplit"):
        evaluate(trained, "knn")


def test_evaluate__no_model(workspace: Workspace) -> None:
    with pytest.raises(ModelError, match=r"no such model. Run `pipeline train knn` first"):
        evaluate(workspace, "knn")


def test_evaluate__class_missing_from_the_split(trained: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, split="test") if (row.split, row.label) == ("val", "owl") else row)
    found = evaluate(trained, "knn")
    assert found.n == 8
    assert found.per_class["owl"]["n"] == 0


def test_looks__model_is_known_by_its_description(trained: Workspace) -> None:
    evaluate(trained, "knn", "test")
    look = json.loads(trained.test_looks_file.read_bytes())["looks"][0]
    description = (trained.model_folder("knn") / "model.json").read_bytes()
    assert look["model_sha256"] == hashlib.sha256(description).hexdigest()
    assert look["rows_sha256"] == LabelledFeatures.open(trained).matrix("test").digest


def test_evaluate__head_that_demands_a_probability(workspace: Workspace) -> None:
    train(workspace, "svm", changes={"calibrate": True})
    rows = LabelledFeatures.open(workspace).matrix("val")
    predictions = model_folder.load(workspace.model_folder("svm")).predict(rows.X)
    assert predictions.probabilities is not None
    confidence = predictions.probabilities.max(axis=1)
    threshold = float(sorted(confidence)[4] + sorted(confidence)[5]) / 2
    sure = confidence >= threshold
    train(workspace, "svm", changes={"calibrate": True, "unsure_below": threshold})
    evaluate(workspace, "svm")
    stored = json.loads(workspace.metrics_file("svm", "val").read_bytes())
    assert stored["unsure_below"] == threshold
    assert sure.sum() == 7
    assert stored["coverage"] == pytest.approx(sure.mean(), abs=1e-6)
    assert stored["accuracy_covered"] == (predictions.codes == rows.y)[sure].mean()
    assert stored["accuracy"] == pytest.approx((predictions.codes == rows.y).mean(), abs=1e-6)
    assert 0 <= stored["ece"] <= 1
    with workspace.confusion_file("svm", "val").open(newline="") as file:
        assert {row["predicted"] for row in csv.DictReader(file)} <= {"cat", "dog", "owl"}


def test_evaluate__pooled_and_standardised_as_in_training(workspace: Workspace) -> None:
    train(workspace, "logreg", changes={"pooling": "avg", "normalize": "standardize"})
    assert evaluate(workspace, "logreg").accuracy >= 0.9
    assert evaluate(workspace, "logreg", "train").ece is None


# --- a head that has learned from val


@pytest.mark.parametrize("calibrate", [False, True])
def test_evaluate__val_that_was_learned_from_is_scored_out_of_fold(
    workspace: Workspace, change_rows: Change, calibrate: bool
) -> None:
    change_rows(lambda row: relabelled(row, "cat/13.jpg", "dog"))  # of val: no honest head gets it right
    report = train(workspace, "knn", changes={"train_on": "train+val", "calibrate": calibrate})
    model = model_folder.load(report.folder)
    rows = LabelledFeatures.open(workspace).matrix("train", "val")
    assert model.held_out is not None
    of_val = [place for place, image in enumerate(rows.images) if image.split == "val"]
    found = evaluate(workspace, "knn")
    assert found.n == 12
    assert found.out_of_fold
    assert found.accuracy == pytest.approx((model.held_out.codes[of_val] == rows.y[of_val]).mean(), abs=1e-6)
    assert found.accuracy < 1
    assert (found.ece is None) == calibrate
    assert json.loads(workspace.metrics_file("knn", "val").read_bytes())["out_of_fold"] is True
    test = evaluate(workspace, "knn", "test")
    assert (test.n, test.out_of_fold, test.test_looks) == (12, False, 1)
    [line] = [score for score in scores(workspace) if score.split == "val"]
    assert (line.out_of_fold, line.current) == (True, True)
    assert "val, out of fold" in scores_table([line])


def test_evaluate__val_that_was_learned_from_and_has_changed(
    workspace: Workspace, change_rows: Change
) -> None:
    train(workspace, "knn", changes={"train_on": "train+val"})
    change_rows(lambda row: relabelled(row, "cat/13.jpg", "dog"))
    with pytest.raises(ModelError, match="other images or labels than train and val now have"):
        evaluate(workspace, "knn")


def test_evaluate__rows_that_no_head_was_asked_about_are_not_scored(
    workspace: Workspace, change_rows: Change
) -> None:
    # one group with all owls: nothing could be learned of them in the fold that held it out
    change_rows(lambda row: replace(row, group="owls") if row.label == "owl" else row)
    train(workspace, "knn", changes={"train_on": "train+val"})
    found = evaluate(workspace, "knn")
    assert (found.n, found.per_class["owl"]["n"]) == (8, 0)
