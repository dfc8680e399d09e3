"""`pipeline train`: what its options say of the head."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result

from pipeline.workspace import Workspace

Run = Callable[..., Result]


@pytest.fixture
def workspace(finished: Workspace) -> Workspace:
    return finished


def model(workspace: Workspace, name: str) -> Any:
    return json.loads((workspace.model_folder(name) / "model.json").read_bytes())


def test_options__take_the_place_of_params_yaml_for_this_run(run: Run, workspace: Workspace) -> None:
    before = workspace.params_file.read_bytes()
    options = ["--pooling", "avg", "--normalize", "l2", "--calibrate", "--unsure-below", "0.8"]
    result = run("train", "linear-svm", *options, "--name", "demanding")
    assert "held out: 5 folds in " in result.stderr
    found = model(workspace, "demanding")
    assert (found["pooling"], found["normalize"], found["features"]) == ("avg", "l2", 512)
    assert (found["calibration"]["rows"], found["unsure_below"]) == (28, 0.8)
    assert workspace.params_file.read_bytes() == before
    said = run("evaluate", "demanding").stdout
    assert ", log loss " in said
    assert ", calibration error " in said
    assert "at least 0.8 probable: " in said


def test_options__params_yaml_holds_where_nothing_is_said(run: Run, workspace: Workspace) -> None:
    text = workspace.params_file.read_text()
    assert "    estimator: linear-svm\n" in text
    line = "    estimator: linear-svm\n    normalize: standardize\n    calibrate: true\n"
    workspace.params_file.write_text(text.replace("    estimator: linear-svm\n", line))
    run("train", "linear-svm")
    assert model(workspace, "linear-svm")["normalize"] == "standardize"
    assert model(workspace, "linear-svm")["calibration"] is not None
    run("train", "linear-svm", "--no-calibrate")
    assert model(workspace, "linear-svm")["calibration"] is None


def test_memory__features_that_are_larger_go_to_a_file(run: Run, workspace: Workspace) -> None:
    before = model(workspace, "logreg")
    result = run("train", "logreg", "--memory", "1MB")
    assert "they go to a temporary file in " in result.stderr
    assert model(workspace, "logreg") == before
    assert "expected a size, such as 4GB" in run("train", "logreg", "--memory", "much", code=1).stderr


@pytest.mark.parametrize(
    "option", [["--pooling", "mean"], ["--normalize", "l1"], ["--unsure-below", "0"], ["--unsure-below", "1"]]
)
def test_options__that_mean_nothing(run: Run, option: list[str]) -> None:
    assert option[0] in run("train", "logreg", *option, code=2).stderr


def test_unsure_below__without_probabilities(run: Run) -> None:
    said = run("train", "linear-svm", "--unsure-below", "0.8", code=1).stderr
    assert said.startswith("pipeline: heads.linear-svm.unsure_below: linear-svm has no probabilities")
