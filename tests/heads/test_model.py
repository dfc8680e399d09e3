from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.heads.model import Model
from pipeline.heads.registry import PRESETS, build
from tests.heads.conftest import CLASSES, IDENTITY, features_like_vgg

CODES = np.arange(30) % 3
FAST: dict[str, dict[str, Any]] = {
    "boosting": {"n_estimators": 3},
    "mlp": {"max_iter": 3},
    "forest": {"n_estimators": 5},
    "linear": {"epochs": 3},
}


def model_of(estimator: str, columns: int | None = None, **params: Any) -> Model:
    """A model trained on 30 rows, of the first `columns` of VGG16's."""
    head = build(estimator, {**FAST.get(estimator, {}), **params}, seed=0)
    head.fit(features_like_vgg(CODES)[:, :columns].astype(np.float32), CODES)
    return Model(
        "m", estimator, head.get_params(deep=False), CLASSES, "center", IDENTITY, 30, "0" * 64, (), head
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("estimator", PRESETS)
def test_predict__is_the_same_whatever_else_is_predicted(estimator: str) -> None:
    codes = np.arange(40) % 10  # with ten columns of weights, matrix products depend on a row's place
    head = build(estimator, FAST.get(estimator, {}), seed=0)
    head.fit(features_like_vgg(codes).astype(np.float32), codes)
    model = replace(model_of("knn", columns=10), classes=tuple("abcdefghij"), head=head)
    X = features_like_vgg(np.arange(70) % 10, seed=5)
    together = model.predict(X)
    for rows in ([0], [69], [3, 1], list(range(10, 65))):
        alone = model.predict(X[rows])
        assert alone.codes.tolist() == together.codes[rows].tolist()
        if together.probabilities is None or alone.probabilities is None:
            assert together.probabilities is alone.probabilities is None
        else:
            assert alone.probabilities.tobytes() == together.probabilities[rows].tobytes()


def test_predict__follows_the_head() -> None:
    model = model_of("logreg")
    X = features_like_vgg(CODES, seed=3).astype(np.float32)
    predictions = model.predict(X)
    assert predictions.probabilities is not None
    assert predictions.probabilities.dtype == np.float64
    np.testing.assert_allclose(predictions.probabilities, model.head.predict_proba(X), atol=1e-6)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, rtol=1e-14)
    assert predictions.codes.tolist() == predictions.probabilities.argmax(axis=1).tolist()
    assert predictions.labels == [CLASSES[code] for code in model.head.predict(X)]


def test_predict__head_without_probabilities() -> None:
    model = model_of("linear-svm")
    X = features_like_vgg(CODES, seed=3)
    predictions = model.predict(X)
    assert predictions.probabilities is None
    assert predictions.labels == [CLASSES[code] for code in model.head.predict(X.astype(np.float32))]


def test_predict__float16_as_stored_equals_float32() -> None:
    model, X = model_of("logreg", columns=100), features_like_vgg(CODES)[:, :100]
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
