from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.svm import LinearSVC
from sklearn.utils.validation import check_is_fitted

from pipeline.errors import HeadError
from pipeline.heads.linear.estimators import LinearHead, fit_estimator, linear_head
from tests.heads.linear.conftest import linear_svm, logistic, ridge, rows_like_vgg

HEADS = [
    pytest.param(lambda **parameters: logistic(1e-4, **parameters), id="logistic"),
    pytest.param(lambda **parameters: linear_svm(1e-6, **parameters), id="svm"),
    pytest.param(lambda **parameters: ridge(1e5, **parameters), id="ridge"),
]
Head = Callable[..., Any]


class OwnRegression(LogisticRegression):  # type: ignore[misc]
    pass


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (LogisticRegression(C=0.5), LinearHead("logistic", 0.5, None)),
        (LogisticRegression(tol=1, max_iter=7, solver="saga", n_jobs=2), LinearHead("logistic", 1.0, None)),
        (LogisticRegression(class_weight="balanced"), LinearHead("logistic", 1.0, "balanced")),
        (LinearSVC(C=3, dual=False), LinearHead("squared-hinge", 3.0, None)),
        (RidgeClassifier(alpha=2, class_weight={1: 3.0}), LinearHead("squared", 2.0, {1: 3.0})),
        (LogisticRegression(solver="liblinear"), None),
        (LogisticRegression(fit_intercept=False), None),
        (LogisticRegression(C=np.inf), None),
        (LogisticRegression(l1_ratio=1, solver="saga"), None),
        (LogisticRegression(warm_start=True), None),
        (LinearSVC(loss="hinge"), None),
        (LinearSVC(penalty="l1", dual=False), None),
        (LinearSVC(intercept_scaling=2), None),
        (LinearSVC(multi_class="crammer_singer"), None),
        (RidgeClassifier(positive=True), None),
        (RidgeClassifier(alpha=0), None),
        (OwnRegression(), None),
        (SGDClassifier(), None),
        (RandomForestClassifier(), None),
    ],
)
def test_linear_head(estimator: Any, expected: LinearHead | None) -> None:
    assert linear_head(estimator) == expected


@pytest.mark.parametrize("class_weight", [None, "balanced", {"dog": 3.0, "owl": 0.5}])
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("head", HEADS)
def test_fit_estimator__equals_its_own_fit(head: Head, k: int, class_weight: Any) -> None:
    X, codes = rows_like_vgg(48, 3000, k)
    y = np.array(["cat", "dog", "owl"])[codes]
    if isinstance(class_weight, dict):
        class_weight = {name: weight for name, weight in class_weight.items() if name in y}
    unseen = rows_like_vgg(20, 3000, k, seed=1)[0].astype(np.float64)
    own = head(class_weight=class_weight).fit(X.astype(np.float64), y)
    ours = fit_estimator(head(class_weight=class_weight), X.astype(np.float64), y)

    expected = np.atleast_2d(own.coef_)
    assert ours.coef_.shape == expected.shape
    assert ours.coef_.dtype == np.float64
    np.testing.assert_allclose(ours.coef_, expected, atol=1e-5 * np.abs(expected).max())
    assert ours.intercept_.shape == own.intercept_.shape
    scores = own.decision_function(unseen)
    np.testing.assert_allclose(ours.decision_function(unseen), scores, atol=1e-5 * np.abs(scores).max())
    np.testing.assert_array_equal(ours.predict(unseen), own.predict(unseen))
    if hasattr(own, "predict_proba"):
        np.testing.assert_allclose(ours.predict_proba(unseen), own.predict_proba(unseen), atol=1e-4)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("head", HEADS)
def test_fit_estimator__float16_as_it_is(head: Head, k: int) -> None:
    X, y = rows_like_vgg(48, 3000, k)
    own = head().fit(X.astype(np.float64), y)
    ours = fit_estimator(head(), X, y)
    assert ours.coef_.dtype == np.float32
    scores = own.decision_function(X.astype(np.float64))
    found = ours.decision_function(X.astype(np.float32))
    np.testing.assert_allclose(found, scores, atol=1e-5 * np.abs(scores).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("head", HEADS)
def test_fit_estimator__more_rows_than_columns(head: Head, dtype: npt.DTypeLike) -> None:
    X, y = rows_like_vgg(200, 60, 3)
    own = head().fit(X.astype(np.float64), y)
    ours = fit_estimator(head(), X.astype(dtype), y)
    scores = own.decision_function(X.astype(np.float64))
    found = ours.decision_function(X.astype(dtype))
    np.testing.assert_allclose(
        found, scores, atol=(1e-3 if dtype == np.float32 else 1e-5) * np.abs(scores).max()
    )


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("head", HEADS)
def test_fit_estimator__has_what_a_fitted_estimator_has(head: Head, k: int) -> None:
    X, y = rows_like_vgg(48, 3000, k)
    unfitted = head()
    fitted = fit_estimator(unfitted, X, y)
    assert fitted is unfitted
    check_is_fitted(fitted)
    own = head().fit(X.astype(np.float64), y)
    learned = {name for name in vars(own) if name.endswith("_")} - {"solver_"}
    assert learned <= set(vars(fitted))
    assert fitted.n_features_in_ == 3000
    np.testing.assert_array_equal(fitted.classes_, np.arange(k))
    assert type(fitted.n_iter_) is type(own.n_iter_) or own.n_iter_ is None
    with pytest.raises(ValueError, match="3000 features"):
        fitted.predict(X[:, :100])
    # It can be fitted anew, and by itself.
    assert clone(fitted).fit(X.astype(np.float64), y).score(X.astype(np.float64), y) == 1


def test_fit_estimator__large_C_needs_no_patience() -> None:
    X, y = rows_like_vgg(48, 3000, 2)
    own = LinearSVC(C=1e3, random_state=0).fit(X.astype(np.float64), y)
    ours = fit_estimator(LinearSVC(C=1e3, random_state=0), X, y)
    scores = own.decision_function(X.astype(np.float64))
    np.testing.assert_allclose(
        ours.decision_function(X.astype(np.float64)), scores, atol=1e-3 * np.abs(scores).max()
    )


def test_fit_estimator__one_class() -> None:
    X, _ = rows_like_vgg(20, 3000, 2)
    with pytest.raises(HeadError, match="at least two classes"):
        fit_estimator(LogisticRegression(), X, np.zeros(20))


def test_fit_estimator__minimises_something_else() -> None:
    X, y = rows_like_vgg(20, 3000, 2)
    with pytest.raises(ValueError, match="minimises something else"):
        fit_estimator(SGDClassifier(), X, y)
