from __future__ import annotations

from typing import Any

import pytest

from pipeline.times import count_rows, keep_training, seconds_a_row, training_seconds
from pipeline.workspace import Workspace

FEATURES: dict[str, Any] = {"layer": "pool5", "precision": "half", "mean": [0.5, 0.25]}


def test_training__is_that_of_the_model_that_is_there(workspace: Workspace) -> None:
    description = workspace.root / "model.json"
    description.write_text("{}")
    assert training_seconds(workspace, "mine", description) is None
    keep_training(workspace, "mine", description, 1.25)
    assert training_seconds(workspace, "mine", description) == 1.25
    assert training_seconds(workspace, "other", description) is None
    description.write_text('{"another": "model of that name"}')
    assert training_seconds(workspace, "mine", description) is None


def test_rows__average_over_all_that_were_computed(workspace: Workspace) -> None:
    assert seconds_a_row(workspace, FEATURES) is None
    count_rows(workspace, FEATURES, 30, 6.0)
    count_rows(workspace, FEATURES, 10, 4.0)
    assert seconds_a_row(workspace, FEATURES) == 10 / 40


def test_rows__of_another_extractor_start_anew(workspace: Workspace) -> None:
    count_rows(workspace, FEATURES, 30, 6.0)
    other = {**FEATURES, "precision": "float32"}
    assert seconds_a_row(workspace, other) is None
    count_rows(workspace, other, 5, 10.0)
    assert seconds_a_row(workspace, other) == 2.0
    assert seconds_a_row(workspace, FEATURES) is None


def test_rows__none_that_could_be_read(workspace: Workspace) -> None:
    count_rows(workspace, FEATURES, 0, 6.0)
    assert seconds_a_row(workspace, FEATURES) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seconds": "soon", "rows": 1}', "null"])
def test_damaged__is_as_if_nothing_was_known(workspace: Workspace, text: str) -> None:
    count_rows(workspace, FEATURES, 30, 6.0)
    [file] = workspace.times_folder.rglob("*.json")
    file.write_text(text)
    assert seconds_a_row(workspace, FEATURES) is None
    count_rows(workspace, FEATURES, 1, 3.0)
    assert seconds_a_row(workspace, FEATURES) == 3.0
