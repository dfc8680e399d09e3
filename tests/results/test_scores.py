from __future__ import annotations

import pytest

from pipeline.errors import WorkspaceError
from pipeline.files import write_json
from pipeline.results.scores import Score, scores, scores_table
from pipeline.workspace import Workspace


def write(workspace: Workspace, head: str, split: str, accuracy: float, log_loss: float | None) -> None:
    values = {"head": head, "split": split, "n": 40, "accuracy": accuracy, "accuracy_95": [0.5, 0.99]}
    write_json(
        workspace.metrics_file(head, split),
        values | {"macro_f1": accuracy, "log_loss": log_loss, "more": [1]},
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
    assert found[0] == Score("svm", "val", 40, 0.9, (0.5, 0.99), 0.9, None)


def test_scores__none_yet(workspace: Workspace) -> None:
    assert scores(workspace) == []


def test_scores_table(workspace: Workspace) -> None:
    write(workspace, "svm", "val", 0.9, None)
    header, _, line = scores_table(scores(workspace)).splitlines()
    assert " ".join(header.split()) == "head split images accuracy 95 % interval macro F1 log loss"
    assert line.split() == ["svm", "val", "40", "0.9000", "0.500", "–", "0.990", "0.9000", "-"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"accuracy_95": [1]}'])
def test_scores__file_that_is_none(workspace: Workspace, content: str) -> None:
    write(workspace, "knn", "val", 0.8, 0.5)
    workspace.metrics_file("knn", "val").write_text(content)
    with pytest.raises(WorkspaceError, match=r"knn.val.json: not a metrics file.*pipeline evaluate"):
        scores(workspace)
