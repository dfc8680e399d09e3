from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from pipeline.errors import HeadError
from pipeline.heads.derived import Derivation
from pipeline.heads.recipe import Recipe
from tests.heads.conftest import CLASSES, features_like_vgg

CODES = np.arange(24) % 3
X = features_like_vgg(CODES)[:, :60].astype(np.float32)


def recipe_of(estimator: str, params: dict[str, Any] | None = None, **settings: Any) -> Recipe:
    return Recipe(
        estimator,
        params or {},
        settings.pop("classes", CLASSES),
        Derivation(**settings),
        seed=5,
        trust=False,
    )


@pytest.mark.parametrize("scale", [1.0, 50.0])
@pytest.mark.parametrize(
    ("estimator", "name", "at_norm_1", "power"),
    [
        ("logreg", "C", 500, -2),
        ("linear-svm", "C", 2, -2),
        ("ridge", "alpha", 0.5, 2),
        ("logreg", "tol", 1e-5, 1),
    ],
)
def test_fit__regularisation_follows_the_norm_of_the_rows(
    estimator: str, name: str, at_norm_1: float, power: int, scale: float
) -> None:
    rows = X / np.sqrt(np.mean((X**2).sum(axis=1))) * scale
    found = recipe_of(estimator).fit(rows.astype(np.float32), CODES).estimator
    assert getattr(found, name) == pytest.approx(at_norm_1 * scale**power, rel=1e-2)


def test_fit__presets_predict_the_same_on_rows_of_any_size() -> None:
    for estimator in ("logreg", "ridge"):
        found = [
            recipe_of(estimator).fit(X * scale, CODES).estimator.decision_function(X * scale)
            for scale in (np.float32(1), np.float32(1e-3))
        ]
        assert np.abs(found[0] - found[1]).max() < 0.05 * np.abs(found[0]).max()


def test_fit__the_users_own_regularisation_is_absolute() -> None:
    assert recipe_of("logreg", {"C": 0.25}).fit(X.copy(), CODES).estimator.C == 0.25


def test_fit__rows_of_zeros_have_no_norm_to_follow() -> None:
    fitted = recipe_of("logreg").fit(np.zeros_like(X), CODES)
    assert fitted.estimator.C == LogisticRegression().C


def test_fit__standardised_rows_are_learned_from() -> None:
    rows = X.copy()
    fitted = recipe_of("sklearn.linear_model.LogisticRegression", normalize="standardize").fit(rows, CODES)
    scaled = StandardScaler().fit_transform(X.astype(np.float64))
    np.testing.assert_allclose(rows, scaled, atol=1e-4)
    expected = LogisticRegression(random_state=5).fit(scaled, CODES)
    np.testing.assert_allclose(fitted.estimator.coef_, expected.coef_, atol=1e-2)
    assert fitted.standardization is not None
    np.testing.assert_allclose(fitted.standardization.mean, X.mean(axis=0), rtol=1e-5)


def test_fit__constant_columns() -> None:
    rows = np.hstack([X, np.full((24, 3), 7, np.float32)])
    for normalize in ("none", "standardize"):
        for estimator in ("logreg", "ridge", "linear", "knn", "lda"):
            fitted = recipe_of(estimator, normalize=normalize).fit(rows.copy(), CODES)
            assert fitted.standardization is None or (fitted.standardization.scale[-3:] == 1).all()


def test_fit__validation_rows_are_standardised_as_the_training_rows_were() -> None:
    recipe = recipe_of("linear", {"epochs": 2}, normalize="standardize")
    validation = X.copy()
    seen: list[float | None] = []
    fitted = recipe.fit(
        X.copy(),
        CODES,
        validation=(validation, CODES),
        on_epoch=lambda epoch, _: seen.append(epoch.val_accuracy),
    )
    np.testing.assert_array_equal(validation, X)
    assert fitted.standardization is not None
    rows = fitted.standardization.apply(X)
    assert seen[-1] == pytest.approx((fitted.estimator.predict(rows) == CODES).mean())
    assert len(seen) == 2


def test_fit__complaints_once_each_and_on_one_line() -> None:
    fitted = recipe_of("logreg", {"max_iter": 1, "tol": 1e-9}).fit(X.copy(), CODES)
    assert len(fitted.warnings) == 1
    assert fitted.warnings[0].startswith("ConvergenceWarning: ")
    assert "\n" not in fitted.warnings[0]


def test_reads__features_as_stored_where_the_estimator_takes_them() -> None:
    assert recipe_of("linear").reads is None
    assert recipe_of("linear", normalize="standardize").reads == Derivation("none", "standardize")
    assert recipe_of("logreg").reads == Derivation()


# --- weights of classes


def test_class_weight__by_label() -> None:
    recipe = recipe_of("logreg", {"class_weight": {"owl": 3, "cat": 0.5}})
    assert recipe.unfitted().class_weight == {0: 0.5, 1: 1.0, 2: 3.0}
    fitted = recipe.fit(X.copy(), CODES)
    assert recipe.described(fitted.estimator)["class_weight"] == {"owl": 3, "cat": 0.5}
    codes = {0: 0.5, 1: 1.0, 2: 3.0}
    same = LogisticRegression(C=fitted.estimator.C, tol=1e-9, max_iter=10_000, class_weight=codes)
    np.testing.assert_allclose(fitted.estimator.coef_, same.fit(X, CODES).coef_, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("columns", [8, 500])
def test_logreg__is_at_the_optimum_however_little_it_is_regularised(columns: int) -> None:
    random = np.random.default_rng(0)
    y = np.arange(120) % 3
    rows = (random.normal(0, 1, (120, columns)) + 1.5 * np.eye(3, columns)[y]).astype(np.float32)
    fitted = recipe_of("logreg", {"C": 1e3}).fit(rows.copy(), y).estimator
    expected = LogisticRegression(C=1e3, tol=1e-9, max_iter=100_000).fit(rows.astype(np.float64), y)
    scale = np.abs(expected.coef_).max()
    np.testing.assert_allclose(fitted.coef_, expected.coef_, atol=2e-3 * scale)


@pytest.mark.parametrize(
    "estimator", ["logreg", "linear-svm", "ridge", "rbf-svm", "forest", "hist-boosting", "linear"]
)
def test_class_weight__balanced_is_for_all_that_have_it(estimator: str) -> None:
    recipe = recipe_of(estimator, {"class_weight": "balanced"})
    assert recipe.unfitted().class_weight == "balanced"


def test_class_weight__balanced_counts_a_rare_class_as_much() -> None:
    y = np.array([0] * 20 + [1] * 4)
    rows = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    counts = [
        np.bincount(
            recipe_of("logreg", {"class_weight": weight, "C": 1e-6}, classes=("a", "b"))
            .fit(rows.copy(), y)
            .estimator.predict(rows),
            minlength=2,
        )[1]
        for weight in (None, "balanced")
    ]
    assert counts[0] == 0  # all are taken for the frequent class
    assert counts[1] > 4


def test_class_weight__labels_that_yaml_reads_as_numbers() -> None:
    recipe = recipe_of("logreg", {"class_weight": {7: 2}}, classes=("7", "8", "9"))
    assert recipe.unfitted().class_weight == {0: 2.0, 1: 1.0, 2: 1.0}


@pytest.mark.parametrize(
    ("estimator", "weight", "message"),
    [
        (
            "logreg",
            {"cow": 1},
            r"class_weight: 'cow' is no class of the training images \('cat', 'dog', 'owl'\)",
        ),
        ("logreg", {"caat": 1}, "Did you mean 'cat'"),
        ("logreg", {"x\x1b": 1}, r"'x\\x1b' is no class"),
        ("logreg", {"cat": "much"}, "a number above 0 for 'cat', found 'much'"),
        ("logreg", {"cat": 0}, "above 0"),
        ("logreg", {"cat": -1}, "above 0"),
        ("logreg", {"cat": float("nan")}, "above 0"),
        ("logreg", {"cat": True}, "above 0"),
        ("knn", "balanced", "'knn' has no parameter 'class_weight'"),
        ("naive-bayes", {"cat": 2}, "has no parameter 'class_weight'"),
    ],
)
def test_class_weight__that_means_nothing(estimator: str, weight: Any, message: str) -> None:
    with pytest.raises(HeadError, match=message) as caught:
        recipe_of(estimator, {"class_weight": weight}).unfitted()
    assert "\n" not in str(caught.value)
