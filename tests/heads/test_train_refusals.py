"""What cannot be trained, and what is complained of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset.manifest import ImageRow
from pipeline.errors import HeadError, ParamsError
from pipeline.heads import model_folder
from pipeline.heads.train import train
from pipeline.workspace import Workspace
from tests.heads.folders import files_of

Change = Callable[[Callable[[ImageRow], ImageRow]], None]


@pytest.mark.parametrize(
    ("head", "changes", "overrides", "message"),
    [
        ("svm", {"unsure_below": 0.8}, {}, r"heads.svm.unsure_below: .* no probabilities .*calibrate: true"),
        ("rbf-svm", {"unsure_below": 0.8}, {}, "no probabilities"),
        (
            "logreg",
            {"unsure_below": 1.5},
            {},
            "heads.logreg.unsure_below: expected a number above 0 and below 1",
        ),
        ("logreg", {}, {"class_weight": {"cow": 2}}, "'cow' is no class"),
        (
            "rbf-svm",
            {"calibrate": True},
            {"decision_function_shape": "ovo"},
            "cannot be trained in folds: .*decision_function_shape: ovr",
        ),
        ("naive-bayes", {"normalize": "standardize"}, {}, "cannot be trained: Negative values"),
    ],
)
def test_train__what_a_head_cannot_have_leaves_the_model_there_is(
    workspace: Workspace, head: str, changes: dict[str, Any], overrides: dict[str, Any], message: str
) -> None:
    train(workspace, "knn")
    before = files_of(workspace.model_folder("knn"))
    with pytest.raises((HeadError, ParamsError), match=message) as caught:
        train(workspace, head, changes=changes, overrides=overrides)
    assert "\n" not in str(caught.value)
    assert files_of(workspace.model_folder("knn")) == before
    assert [path.name for path in workspace.models_folder.iterdir()] == ["knn"]


SILENT = """
from sklearn.base import BaseEstimator, ClassifierMixin
class Silent(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        raise AssertionError
"""


def test_train__neither_decision_values_nor_probabilities_to_calibrate(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "silent_heads.py").write_text(SILENT)
    monkeypatch.syspath_prepend(tmp_path)
    with workspace.params_file.open("a") as file:
        file.write("  silent: {estimator: silent_heads.Silent, calibrate: true}\n")
    with pytest.raises(HeadError, match=r"heads.silent.calibrate: .* neither decision values nor"):
        train(workspace, "silent", trust=True)


def test_train__a_class_called_unsure(workspace: Workspace, change_rows: Change) -> None:
    change_rows(lambda row: replace(row, label="unsure") if row.label == "owl" else row)
    train(workspace, "logreg")  # no image is called unsure for want of a label
    with pytest.raises(HeadError, match=r"heads.logreg.unsure_below: a class .* itself called 'unsure'"):
        train(workspace, "logreg", changes={"unsure_below": 0.8})


def test_train__calibration_with_one_row_a_class(workspace: Workspace, change_rows: Change) -> None:
    change_rows(
        lambda row: replace(row, split="val") if row.split == "train" and "/00" not in row.path else row
    )
    assert train(workspace, "logreg").rows == 3
    with pytest.raises(HeadError, match=r"logreg.*cannot be trained in folds: 5 folds need"):
        train(workspace, "logreg", changes={"calibrate": True})


def test_train__short_name_that_params_yaml_lacks(workspace: Workspace) -> None:
    train(workspace, "ridge")
    assert model_folder.load(workspace.model_folder("ridge")).estimator == "ridge"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"head": "logrge"}, ParamsError, "neither in params.yaml.*Did you mean 'logreg'"),
        ({"head": "../x"}, ParamsError, "lower-case"),
        (
            {"head": "knn", "name": "logreg"},
            ParamsError,
            "--name logreg: params.yaml has a head of that name",
        ),
        ({"head": "knn", "name": "A b"}, ParamsError, "lower-case"),
        ({"head": "knn", "overrides": {"neighbours": 1}}, HeadError, "no parameter 'neighbours'"),
        ({"head": "knn", "overrides": {"n_neighbors": 99}}, HeadError, "(?i)knn.*n_neighbors.*n_samples"),
        ({"head": "logreg", "overrides": {"C": -1}}, HeadError, "logreg.*'C' parameter.*must be a float"),
        ({"head": "logreg", "overrides": {"solver": "magic"}}, HeadError, "'solver' parameter"),
        ({"head": "logreg", "overrides": {"C": {"a": 1}}}, HeadError, "'C' parameter"),
        ({"head": "linear", "overrides": {"epochs": 0}}, HeadError, "epochs must be a whole number"),
    ],
)
def test_train__what_cannot_be_trained_leaves_the_model_there_is(
    workspace: Workspace, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    train(workspace, "knn")
    before = files_of(workspace.model_folder("knn"))
    with pytest.raises(error, match=message) as caught:
        train(workspace, **arguments)
    assert "\n" not in str(caught.value)
    assert files_of(workspace.model_folder("knn")) == before
    assert [path.name for path in workspace.models_folder.iterdir()] == ["knn"]


def test_train__untrusted_types_need_trust(workspace: Workspace) -> None:
    train(
        workspace, "knn", name="tree", overrides={"algorithm": "kd_tree", "metric": "euclidean"}, trust=True
    )
    assert (workspace.model_folder("tree") / "head.joblib").is_file()
    with pytest.raises(HeadError, match=r"'tree2' .*KDTree.*--trust"):
        train(workspace, "knn", name="tree2", overrides={"algorithm": "kd_tree", "metric": "euclidean"})
    assert not workspace.model_folder("tree2").exists()


def test_train__complaints_are_told_and_kept(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    report = train(workspace, "logreg", overrides={"max_iter": 1})
    told = capsys.readouterr().err.splitlines()
    assert len(told) == len(report.warnings) == 1
    assert told[0].startswith("warning: head logreg: ConvergenceWarning: ")
    assert model_folder.load(report.folder).warnings == report.warnings


def test_train__an_estimator_is_not_a_head(workspace: Workspace) -> None:
    with pytest.raises(ParamsError, match="is an estimator, and a head has a name of its own: add a line"):
        train(workspace, "sklearn.ensemble.ExtraTreesClassifier")
