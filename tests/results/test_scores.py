from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest

from pipeline.dataset.manifest import ImageRow
from pipeline.errors import WorkspaceError
from pipeline.files import write_json
from pipeline.heads.train import train
from pipeline.results.evaluate import evaluate
from pipeline.results.scores import Score, scores, scores_table
from pipeline.workspace import Workspace

Change = Callable[[Callable[[ImageRow], ImageRow]], None]


def write(workspace: Workspace, head: str, split: str, accuracy: float, log_loss: float | None) -> None:
    values = {"head": head, "split": split, "n": 40, "accuracy": accuracy, "accuracy_95": [0.5, 0.99]}
    write_json(
        workspace.metrics_file(head, split),
        values | {"macro_f1": accuracy, "log_loss": log_loss, "more": [1], "scored": [{"rows_sha256": ""}]},
    )


def test_scores__val_before_test_and_the_best_first(workspace: Workspace) -> None:
    write(workspace, "knn", "val", 0.8, 0.5)
    write(workspace, "logreg", "test", 0.95, 0.1)
    write(workspace, "svm", "val", 0.9, None)
    found = scores(workspace)
    assert [(score.head, score.split) for score in found] == [
        ("svm", "val"),
        ("knn", "val"),
        ("logreg", "test"),
    ]
    assert found[0] == Score("svm", "val", 40, 0.9, (0.5, 0.99), 0.9, None, out_of_fold=False, current=False)


def test_scores__none_yet(workspace: Workspace) -> None:
    assert scores(workspace) == []


def test_scores_table(workspace: Workspace) -> None:
    write(workspace, "svm", "val", 0.9, None)
    header, _, line = scores_table(scores(workspace)).splitlines()
    assert " ".join(header.split()) == "head split images accuracy 95 % interval macro F1 log loss"
    assert " ".join(line.split()) == "svm val 40 0.9000 0.500 – 0.990 0.9000 - out of date"


def test_scores__of_another_model_or_other_images_are_out_of_date(
    workspace: Workspace, change_rows: Change
) -> None:
    def current() -> dict[str, bool]:
        return {score.split: score.current for score in scores(workspace)}

    train(workspace, "knn")
    for split in ("val", "test"):
        evaluate(workspace, "knn", split)
    assert current() == {"val": True, "test": True}
    assert "out of date" not in scores_table(scores(workspace))

    change_rows(lambda row: replace(row, split="train") if row.path == "owl/19.jpg" else row)  # of test
    assert current() == {"val": True, "test": False}
    train(workspace, "knn")
    assert current() == {"val": False, "test": False}
    evaluate(workspace, "knn", "val")
    assert current() == {"val": True, "test": False}
    assert [score.split for score in scores(workspace)] == ["val", "test"]
    shutil.rmtree(workspace.model_folder("knn"))
    assert current() == {"val": False, "test": False}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"accuracy_95": [1]}'])
def test_scores__file_that_is_none(workspace: Workspace, content: str) -> None:
    write(workspace, "knn", "val", 0.8, 0.5)
    workspace.metrics_file("knn", "val").write_text(content)
    with pytest.raises(WorkspaceError, match=r"knn.val.json: not a metrics file.*pipeline evaluate"):
        scores(workspace)
