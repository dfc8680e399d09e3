from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.errors import ModelError
from pipeline.heads.calibration import Calibration
from pipeline.heads.derived import Derivation
from pipeline.heads.model import Model, Predictions
from pipeline.heads.recipe import Recipe
from pipeline.heads.registry import PRESETS
from tests.heads.conftest import CLASSES, IDENTITY, features_like_vgg

CODES = np.arange(30) % 3  # of the rows that models are trained on
FAST: dict[str, dict[str, Any]] = {
    "boosting": {"n_estimators": 3},
    "mlp": {"max_iter": 3},
    "forest": {"n_estimators": 5},
    "hist-boosting": {"max_iter": 3},
    "linear": {"epochs": 3},
}
RAW = Derivation()


@cache
def features(rows: int, classes: int, seed: int = 0) -> npt.NDArray[np.float16]:
    """`features_like_vgg`, drawn once; not to be written to."""
    return features_like_vgg(np.arange(rows) % classes, seed)


def model_of(
    estimator: str,
    columns: int | None = None,
    derivation: Derivation = RAW,
    rows: int = 30,
    classes: int = 3,
    **params: Any,
) -> Model:
    """A model trained on the first `columns` of rows like VGG16's."""
    codes, labels = np.arange(rows) % classes, CLASSES if classes == 3 else tuple("abcdefghij")
    recipe = Recipe(estimator, {**FAST.get(estimator, {}), **params}, labels, derivation, 0, False)
    fitted = recipe.fit(derivation.rows(features(rows, classes)[:, :columns]), codes)
    return Model(
        name="m",
        estimator=estimator,
        params=recipe.described(fitted.estimator),
        classes=labels,
        views=("center",),
        derivation=derivation,
        identity=IDENTITY,
        rows=rows,
        rows_sha256="0" * 64,
        warnings=(),
        head=fitted.estimator,
        standardization=fitted.standardization,
    )


def probabilities_of(predictions: Predictions) -> npt.NDArray[np.float64]:
    assert predictions.probabilities is not None
    return predictions.probabilities


@pytest.mark.parametrize("calibration", [None, Calibration(0.7, 40)], ids=["plain", "calibrated"])
@pytest.mark.parametrize(
    ("estimator", "derivation"),
    [
        *((estimator, Derivation("avg")) for estimator in PRESETS),
        ("logreg", RAW),
        ("knn", Derivation("none", "l2")),
        ("linear-svm", Derivation("avg", "standardize")),
        ("ridge", Derivation("none", "standardize")),
        ("linear", Derivation("max", "sqrt_l2")),
    ],
    ids=str,
)
def test_predict__is_the_same_whatever_else_is_predicted(
    estimator: str, derivation: Derivation, calibration: Calibration | None
) -> None:
    # with ten columns of weights, matrix products depend on a row's place
    model = replace(model_of(estimator, None, derivation, rows=40, classes=10), calibration=calibration)
    X = features(70, 10, seed=5)
    together = model.predict(X)
    for rows in ([0], [69], [3, 1], list(range(10, 65))):
        alone = model.predict(X[rows])
        assert alone.codes.tolist() == together.codes[rows].tolist()
        if together.probabilities is None:
            assert alone.probabilities is None
        else:
            assert probabilities_of(alone).tobytes() == together.probabilities[rows].tobytes()


def test_predict__follows_the_head() -> None:
    model = model_of("logreg")
    X = features(30, 3, seed=3).astype(np.float32)
    predictions = model.predict(X)
    assert predictions.probabilities is not None
    assert predictions.probabilities.dtype == np.float64
    np.testing.assert_allclose(predictions.probabilities, model.head.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, rtol=1e-14)
    assert predictions.codes.tolist() == predictions.probabilities.argmax(axis=1).tolist()
    assert predictions.labels == [CLASSES[code] for code in model.head.predict(X)]


def test_predict__head_without_probabilities() -> None:
    model = model_of("linear-svm")
    X = features(30, 3, seed=3)
    predictions = model.predict(X)
    assert predictions.probabilities is None
    assert predictions.labels == [CLASSES[code] for code in model.head.predict(X.astype(np.float32))]


def test_predict__float16_as_stored_equals_float32() -> None:
    model, X = model_of("logreg", columns=100), features(30, 3)[:, :100]
    half, full = model.predict(X).probabilities, model.predict(X.astype(np.float32)).probabilities
    assert half is not None
    assert full is not None
    assert half.tobytes() == full.tobytes()


def test_predict__no_rows() -> None:
    for estimator in ("logreg", "ridge"):
        predictions = model_of(estimator, columns=100).predict(np.empty((0, 100), np.float32))
        assert predictions.labels == []


@pytest.mark.parametrize("shape", [(2, 99), (100,), (1, 2, 100)])
def test_predict__rows_of_another_width(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="expects rows of 100 features"):
        model_of("logreg", columns=100).predict(np.zeros(shape, np.float32))


@pytest.mark.parametrize("derivation", [Derivation("avg", "l2"), Derivation("none", "standardize")], ids=str)
def test_predict__derives_the_rows_it_is_given(derivation: Derivation) -> None:
    model, X = model_of("logreg", derivation=derivation), features(30, 3, seed=3)
    rows = derivation.rows(X)
    if derivation.normalize == "standardize":
        assert model.standardization is not None
        rows = model.standardization.apply(rows)
    expected = model.head.predict_proba(rows)
    np.testing.assert_allclose(probabilities_of(model.predict(X)), expected, atol=2e-5)


def test_predict__pooled_model_takes_whole_rows_only() -> None:
    with pytest.raises(ModelError, match="expects rows of 25088 features"):
        model_of("logreg", derivation=Derivation("avg")).predict(np.zeros((2, 512), np.float32))


@pytest.mark.parametrize("estimator", ["linear-svm", "logreg", "naive-bayes", "forest"])
def test_predict__calibrated_keeps_labels_and_gives_probabilities(estimator: str) -> None:
    model = model_of(estimator, columns=400)
    X = features(30, 3, seed=3)[:, :400]
    plain = model.predict(X)
    mild, bold = (replace(model, calibration=Calibration(t, 30)).predict(X) for t in (2.0, 0.5))
    for predictions in (mild, bold):
        assert predictions.labels == plain.labels
        np.testing.assert_allclose(probabilities_of(predictions).sum(axis=1), 1, rtol=1e-14)
    assert (probabilities_of(bold).max(axis=1) >= probabilities_of(mild).max(axis=1)).all()
    assert probabilities_of(bold).max(axis=1).sum() > probabilities_of(mild).max(axis=1).sum()


def test_sure__where_the_best_label_is_probable_enough() -> None:
    probabilities = np.array([[0.8, 0.2], [0.79, 0.21], [0.1, 0.9]])
    predictions = Predictions(np.array([0, 0, 1]), ("a", "b"), probabilities)
    assert predictions.sure.tolist() == [True, True, True]
    demanding = replace(predictions, unsure_below=0.8)
    assert demanding.sure.tolist() == [True, False, True]
    assert demanding.labels == ["a", "a", "b"]
    assert replace(demanding, probabilities=None).sure.tolist() == [True, True, True]


def test_predict__passes_on_what_is_demanded() -> None:
    model = replace(model_of("logreg", columns=100), unsure_below=0.99)
    assert model.predict(features(30, 3)[:, :100]).unsure_below == 0.99
