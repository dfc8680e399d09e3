from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.exceptions import ConvergenceWarning

from pipeline.errors import HeadError
from pipeline.heads import linear_path
from pipeline.heads.factor import Factor
from pipeline.heads.linear.problems import ClassWeight, Objective
from pipeline.heads.linear.rows import Rows
from pipeline.heads.linear.subspace import PlainRows
from pipeline.heads.linear_path import PathFit, fit_path, winners
from tests.heads.linear.conftest import Codes, linear_svm, logistic, ridge, rows_like_vgg, stratified

NAMES = ("cat", "dog", "owl", "fox")

#: From hardly any learning to rows learned by heart: each 6 decades.
STRENGTHS: dict[Objective, list[float]] = {
    "logistic": [1e-8, 1e-6, 1e-4, 1e-2],
    "squared-hinge": [1e-10, 1e-8, 1e-6, 1e-4],
    "squared": [1e10, 1e8, 1e6, 1e4],
}
ESTIMATORS: dict[Objective, Callable[..., Any]] = {
    "logistic": logistic,
    "squared-hinge": linear_svm,
    "squared": ridge,
}


def factored(X: npt.NDArray[np.floating]) -> Rows:
    return Rows.of_factor(Factor.of(X))


def exactly(
    rows: Rows | PlainRows, y: Codes, objective: Objective, tolerance: float = 1e-10, **settings: Any
) -> PathFit:
    """Fit to convergence, whatever it takes."""
    names, folds, strengths = NAMES[: y.max() + 1], stratified(y), STRENGTHS[objective]
    settings |= {"tolerance": tolerance, "max_iterations": 20_000}
    return fit_path(rows, y, names, folds, strengths, objective, **settings)


def by_scikit_learn(
    X: npt.NDArray[np.floating], y: Codes, objective: Objective, class_weight: Any
) -> npt.NDArray[np.float64]:
    """Decision values of held-out rows, shape (n_strengths, n, k), one fit after the other."""
    X = X.astype(np.float64)
    columns = 1 if y.max() == 1 else int(y.max()) + 1
    scores = np.full((len(STRENGTHS[objective]), len(y), columns), np.nan)
    for place, strength in enumerate(STRENGTHS[objective]):
        for train, test in stratified(y):
            head = ESTIMATORS[objective](strength, class_weight=class_weight)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it has come to the end of its precision, or near it
                head.fit(X[train], y[train])
            scores[place, test] = head.decision_function(X[test]).reshape(len(test), columns)
    return scores


@pytest.mark.parametrize(
    "class_weight", [None, "balanced", (1.0, 3.0, 0.5)], ids=["even", "balanced", "given"]
)
@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("objective", list(STRENGTHS))
def test_fit_path__equals_scikit_learn_on_the_features(
    objective: Objective, k: int, class_weight: ClassWeight
) -> None:
    X, y = rows_like_vgg(48, 400, k)
    theirs = dict(enumerate(class_weight[:k])) if isinstance(class_weight, tuple) else class_weight
    ours = class_weight[:k] if isinstance(class_weight, tuple) else class_weight
    fit = exactly(factored(X), y, objective, class_weight=ours)
    expected = by_scikit_learn(X, y, objective, theirs)
    assert fit.converged.all()
    assert fit.held_out.shape == expected.shape
    for found, wanted in zip(fit.held_out, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max() + 1e-6)


@pytest.mark.parametrize("objective", list(STRENGTHS))
@pytest.mark.parametrize(
    ("rows", "tolerance", "allowed"),
    [
        pytest.param(lambda X: PlainRows.of(X.astype(np.float64)), 1e-10, 1e-5, id="features"),
        pytest.param(lambda X: PlainRows.of(X.astype(np.float32)), 1e-7, 2e-3, id="features in float32"),
        pytest.param(lambda X: Rows.of_factor(Factor.of(X), np.float32), 1e-7, 2e-3, id="factor in float32"),
    ],
)
def test_fit_path__the_same_on_all_forms_of_rows(
    rows: Callable[[Any], Rows | PlainRows], tolerance: float, allowed: float, objective: Objective
) -> None:
    X, y = rows_like_vgg(48, 400, 3)
    expected = exactly(factored(X), y, objective).held_out
    found = exactly(rows(X), y, objective, tolerance=tolerance).held_out
    for some, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(some, wanted, atol=allowed * np.abs(wanted).max())


def test_fit_path__coefficients_give_the_scores() -> None:
    X, y = rows_like_vgg(48, 400, 4)
    factor, folds = Factor.of(X), stratified(rows_like_vgg(48, 400, 4)[1])
    fit = fit_path(Rows.of_factor(factor), y, NAMES, folds, [1e-6, 1e-4], "logistic")
    assert fit.coefficients.shape == (3, 2, 4, 48)
    assert fit.intercepts.shape == (3, 2, 4)
    assert fit.iterations.shape == fit.converged.shape == (3, 2)
    for fold, (_, test) in enumerate(folds):
        on_features = factor.coefficients(fit.coefficients[fold, 1], X)
        scores = X[test].astype(np.float64) @ on_features.T + fit.intercepts[fold, 1]
        np.testing.assert_allclose(scores, fit.held_out[1, test], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("objective", list(STRENGTHS))
def test_fit_path__more_rows_than_columns(objective: Objective) -> None:
    X, y = rows_like_vgg(200, 30, 3)
    expected = by_scikit_learn(X, y, objective, None)
    for rows in (factored(X), PlainRows.of(X.astype(np.float64))):
        found = exactly(rows, y, objective).held_out
        for some, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(some, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("objective", list(STRENGTHS))
def test_fit_path__repeated_rows_and_constant_features(objective: Objective) -> None:
    X, y = rows_like_vgg(40, 300, 2)
    X = np.vstack([X, X[:20], 0 * X[:4]])
    X[:, 100:130] = 700  # the same in every row
    y = np.concatenate([y, y[:20], y[:4]])
    expected = by_scikit_learn(X, y, objective, None)
    found = exactly(factored(X), y, objective).held_out
    for some, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(some, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("value", [0, 3.7])
@pytest.mark.parametrize("form", [factored, PlainRows.of], ids=["factor", "features"])
@pytest.mark.parametrize("objective", list(STRENGTHS))
def test_fit_path__nothing_to_learn_from(
    objective: Objective, form: Callable[[npt.NDArray[np.float64]], Rows | PlainRows], value: float
) -> None:
    X, y = np.full((40, 50), float(value)), rows_like_vgg(40, 50, 2)[1]
    fit = fit_path(form(X), y, NAMES[:2], stratified(y), [1e-3, 1.0], objective)
    assert fit.converged.all()
    if objective != "squared-hinge":  # whose intercept is penalised
        assert fit.iterations.max() == 0
        for train, test in stratified(y):
            share = y[train].mean()
            best = np.log(share / (1 - share)) if objective == "logistic" else 2 * share - 1
            np.testing.assert_allclose(fit.held_out[:, test], best, atol=1e-9)


def test_fit_path__default_tolerance_is_good_enough_to_choose_by() -> None:
    X, y = rows_like_vgg(48, 400, 2)
    rows = Rows.of_factor(Factor.of(X), np.float32)
    for objective, strengths in STRENGTHS.items():
        quick = fit_path(rows, y, NAMES[:2], stratified(y), strengths, objective).held_out
        exact = exactly(factored(X), y, objective).held_out
        for found, wanted in zip(quick, exact, strict=True):
            np.testing.assert_allclose(found, wanted, atol=0.05 * wanted.std())


@pytest.mark.parametrize("objective", list(STRENGTHS))
def test_fit_path__same_bits_again(objective: Objective) -> None:
    X, y = rows_like_vgg(48, 400, 3)
    fits = [
        fit_path(form(X.astype(np.float32)), y, NAMES[:3], stratified(y), STRENGTHS[objective], objective)
        for form in (factored, factored, PlainRows.of, PlainRows.of)
    ]
    for first, second in (fits[:2], fits[2:]):
        assert first.held_out.tobytes() == second.held_out.tobytes()
        assert first.coefficients.tobytes() == second.coefficients.tobytes()


@pytest.mark.parametrize("objective", list(STRENGTHS))
def test_fit_path__in_batches(monkeypatch: pytest.MonkeyPatch, objective: Objective) -> None:
    X, y = rows_like_vgg(48, 400, 3)
    whole = exactly(factored(X), y, objective)
    monkeypatch.setattr(linear_path, "_COLUMNS", 5)
    parts = exactly(factored(X), y, objective)
    scale = np.abs(whole.held_out).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(parts.held_out / scale, whole.held_out / scale, atol=1e-6)
    np.testing.assert_array_equal(parts.converged, whole.converged)


def test_fit_path__labels_of_held_out_rows_teach_nothing() -> None:
    X, y = rows_like_vgg(48, 400, 2)
    folds, rows = stratified(y), factored(X)
    changed = y.copy()
    changed[folds[0][1]] ^= 1
    for objective, strengths in STRENGTHS.items():
        before, after = (
            fit_path(rows, labels, NAMES[:2], folds[:1], strengths, objective, class_weight="balanced")
            for labels in (y, changed)
        )
        assert before.held_out.tobytes() == after.held_out.tobytes()


def test_fit_path__rows_that_no_fold_holds_out() -> None:
    X, y = rows_like_vgg(48, 400, 2)
    folds = stratified(y)
    fit = fit_path(factored(X), y, NAMES[:2], folds[:2], [1e-4], "logistic")
    kept = np.sort(np.concatenate([folds[0][1], folds[1][1]]))
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(fit.held_out[0, :, 0])), kept)


@pytest.mark.parametrize(
    ("objective", "strength"), [("logistic", 1e12), ("squared-hinge", 1e9), ("squared", 1e-9)]
)
@pytest.mark.parametrize("form", [factored, PlainRows.of], ids=["factor", "features"])
def test_fit_path__no_regularisation_to_speak_of(
    form: Callable[[Any], Rows | PlainRows], objective: Objective, strength: float
) -> None:
    X, y = rows_like_vgg(30, 100, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = fit_path(form(X.astype(np.float32)), y, NAMES[:3], stratified(y), [strength], objective)
    assert np.isfinite(fit.held_out).all()
    assert fit.iterations.max() <= linear_path.MAX_ITERATIONS
    train, _ = stratified(y)[0]
    scores = form(X.astype(np.float32)).matrix[train] @ fit.coefficients[0, 0].T + fit.intercepts[0, 0]
    assert (winners(scores) == y[train]).all()


def test_fit_path__stopped_short_is_said() -> None:
    X, y = rows_like_vgg(48, 400, 2)
    with pytest.warns(ConvergenceWarning, match=r"^logistic at strength 0.01, 100: .* after 5 iterations$"):
        fit = fit_path(
            factored(X), y, NAMES[:2], stratified(y), [1e-9, 1e-2, 100], "logistic", max_iterations=5
        )
    np.testing.assert_array_equal(fit.converged, [[True, False, False]] * 3)
    np.testing.assert_array_equal(fit.iterations[:, 1:], 5)
    assert np.isfinite(fit.held_out).all()


def test_fit_path__class_missing_in_a_fold() -> None:
    X, y = rows_like_vgg(30, 100, 3)
    folds = [*stratified(y)[:1], (np.flatnonzero(y != 1), np.flatnonzero(y == 1))]
    with pytest.raises(HeadError, match=r"fold 2 of 2: no training row of class 'd\\x1bg'.*fewer folds"):
        fit_path(factored(X), y, ("cat", "d\x1bg", "owl"), folds, [1.0], "squared")


def test_fit_path__held_out_twice() -> None:
    X, y = rows_like_vgg(30, 100, 2)
    folds = stratified(y)
    with pytest.raises(HeadError, match=f"row {folds[0][1][0]} is held out by 2 folds"):
        fit_path(factored(X), y, NAMES[:2], [*folds, folds[0]], [1.0], "squared")


@pytest.mark.parametrize("strength", [0, -1, np.inf, np.nan])
def test_fit_path__strength_out_of_range(strength: float) -> None:
    X, y = rows_like_vgg(30, 100, 2)
    with pytest.raises(HeadError, match="must be a number above 0"):
        fit_path(factored(X), y, NAMES[:2], stratified(y), [1.0, strength], "logistic")


def test_fit_path__one_class() -> None:
    X, _ = rows_like_vgg(30, 100, 2)
    y = np.zeros(30, np.int64)
    with pytest.raises(HeadError, match="at least two classes, found 1"):
        fit_path(factored(X), y, ("cat",), [(np.arange(20), np.arange(20, 30))], [1.0], "logistic")


def test_winners() -> None:
    np.testing.assert_array_equal(winners(np.array([[[-1.0], [2.0]], [[0.5], [-0.1]]])), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(winners(np.array([[0.1, 3.0, -1.0], [2.0, 0.0, 1.0]])), [1, 0])
