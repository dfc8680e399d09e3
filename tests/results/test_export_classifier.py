"""A head as torch modules, and folded into one layer, against what the pipeline says of the same features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.dataset.manifest import ImageRow
from pipeline.errors import ModelError
from pipeline.features.identity import DIMENSION
from pipeline.heads import model_folder
from pipeline.heads.linear_layer import folded, layer_of
from pipeline.heads.matrix import LabelledFeatures
from pipeline.heads.model import Model
from pipeline.heads.train import train
from pipeline.results.export.check import said
from pipeline.results.export.classifier import Classifier
from pipeline.workspace import Workspace

SGD = "sklearn.linear_model.SGDClassifier"
LDA = "sklearn.discriminant_analysis.LinearDiscriminantAnalysis"

#: Estimator, its parameters, other settings of the head.
HEADS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("linear", {"epochs": 2}, {}),
    ("linear", {"epochs": 2}, {"pooling": "avg", "normalize": "standardize", "calibrate": True}),
    ("logreg", {}, {"normalize": "standardize"}),
    ("logreg", {}, {"pooling": "max", "normalize": "sqrt_l2"}),
    ("logreg", {"fit_intercept": False}, {"pooling": "avg", "normalize": "l2"}),
    ("linear-svm", {}, {"normalize": "l2"}),
    ("linear-svm", {}, {"pooling": "avg", "calibrate": True}),
    ("ridge", {}, {}),
    (LDA, {"solver": "lsqr", "shrinkage": "auto"}, {"pooling": "avg"}),
    (SGD, {"loss": "log_loss"}, {"pooling": "avg", "normalize": "sqrt_l2"}),
    (SGD, {"loss": "modified_huber"}, {"pooling": "max", "normalize": "l2", "calibrate": True}),
]


@pytest.fixture(params=[2, 3], ids=["two classes", "three classes"])
def trained(
    request: pytest.FixtureRequest,
    workspace: Workspace,
    change_rows: Callable[[Callable[[ImageRow], ImageRow]], None],
) -> Callable[..., Model]:
    """Train a head, and load it."""
    from dataclasses import replace

    if request.param == 2:
        change_rows(lambda row: replace(row, label="dog") if row.label == "owl" else row)

    def make(estimator: str, params: dict[str, Any], changes: dict[str, Any]) -> Model:
        params_file = workspace.params_file
        params_file.write_text(params_file.read_text() + f"  tried: {{estimator: {estimator}}}\n")
        train(workspace, "tried", overrides=params, changes=changes)
        return model_folder.load(workspace.model_folder("tried"))

    return make


def rows_of(workspace: Workspace) -> Any:
    """Rows that no head has learned from, one of them of zeros."""
    X = LabelledFeatures.open(workspace).matrix("val").X.astype(np.float32)
    return np.concatenate([X, np.zeros((1, DIMENSION), np.float32)])


@pytest.mark.parametrize(("estimator", "params", "changes"), HEADS)
def test_classifier__as_the_pipeline(
    trained: Callable[..., Model],
    workspace: Workspace,
    estimator: str,
    params: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    model, X = trained(estimator, params, changes), rows_of(workspace)
    classifier = Classifier(torch.nn.Identity(), model)
    found = classifier(torch.from_numpy(X)).numpy()
    predicted = model.predict(X)
    assert (found.argmax(axis=1) == predicted.codes).all()
    if predicted.probabilities is None:
        scores = model.head.decision_function(model.derivation.rows(X))
        expected = scores if scores.ndim == 2 else np.stack([np.zeros(len(X)), scores], axis=1)
        assert layer_of(model).output == "scores"
    else:
        expected = predicted.probabilities
        assert layer_of(model).output == "probabilities"
    assert np.abs(found - expected).max() < 2e-5
    assert np.abs(said(model, X) - expected).max() < 1e-12
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize(
    ("estimator", "params", "changes"),
    [
        ("linear", {"epochs": 2}, {}),
        ("logreg", {}, {"pooling": "avg", "normalize": "standardize"}),
        ("ridge", {}, {"normalize": "standardize", "calibrate": True}),
        ("linear-svm", {}, {"pooling": "avg"}),
    ],
)
def test_folded__one_layer_on_the_features_themselves(
    trained: Callable[..., Model],
    workspace: Workspace,
    estimator: str,
    params: dict[str, Any],
    changes: dict[str, Any],
) -> None:
    model, X = trained(estimator, params, changes), rows_of(workspace)
    layer = folded(model, DIMENSION)
    assert layer.weight.shape == (len(model.classes), DIMENSION)
    outputs = X.astype(np.float64) @ layer.weight.T + layer.bias
    if layer.link == "softmax":
        outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        outputs /= outputs.sum(axis=1, keepdims=True)
    assert np.abs(outputs - said(model, X)).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"pooling": "max"}, "pooling max"),
        ({"normalize": "l2"}, "normalize l2"),
        ({"pooling": "avg", "normalize": "sqrt_l2"}, "normalize sqrt_l2"),
    ],
)
@pytest.mark.parametrize("trained", [2], indirect=True)
def test_folded__what_is_no_linear_step(
    trained: Callable[..., Model], changes: dict[str, Any], named: str
) -> None:
    model = trained("logreg", {}, changes)
    with pytest.raises(ModelError, match=rf"{named} is no linear step\. Give --onnx or --torch-export"):
        folded(model, DIMENSION)


def test_folded__one_against_the_rest(trained: Callable[..., Model], workspace: Workspace) -> None:
    model = trained(SGD, {"loss": "log_loss"}, {"pooling": "avg"})
    if len(model.classes) == 2:
        assert folded(model, DIMENSION).link == "softmax"
        return
    with pytest.raises(ModelError, match="making probabilities class by class is no linear step"):
        folded(model, DIMENSION)


@pytest.mark.parametrize("trained", [3], indirect=True)
@pytest.mark.parametrize(
    ("estimator", "params", "told"),
    [
        ("knn", {}, r"'tried' \(knn\) is not linear, and only linear heads can be exported"),
        ("forest", {"n_estimators": 3}, "is not linear"),
        ("mlp", {"max_iter": 1, "hidden_layer_sizes": [2]}, "is not linear"),
        (SGD, {"loss": "modified_huber"}, "how loss modified_huber makes probabilities cannot be exported"),
    ],
)
def test_layer_of__heads_that_cannot_be_exported(
    trained: Callable[..., Model], estimator: str, params: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        layer_of(trained(estimator, params, {"pooling": "avg"}))
