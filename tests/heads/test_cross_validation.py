from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.heads.cross_validation import CrossValidation, Fold
from pipeline.heads.derived import Derivation, Standardization
from pipeline.heads.folds import NOT_HELD_OUT
from pipeline.heads.memory import Memory
from pipeline.heads.recipe import Recipe
from pipeline.params import Normalize
from tests.heads.conftest import CLASSES

ROWS, COLUMNS = 75, 120
PLENTY = Memory(Path(), 10**9)


@pytest.fixture
def y() -> Any:
    return np.arange(ROWS) % 3


@pytest.fixture
def X(y: Any) -> Any:
    """Classes that overlap, so that heads differ."""
    random = np.random.default_rng(0)
    X = random.normal(5, 3, (ROWS, COLUMNS)) + 0.9 * (y[:, None] == np.arange(COLUMNS) % 3)
    return np.maximum(X, 0).astype(np.float32)


@pytest.fixture
def folds() -> list[Fold]:
    """Three folds; the last two rows are in training always."""
    fold_of = np.append(np.random.default_rng(1).permutation(np.arange(ROWS - 2) % 3), [-1, -1])
    return [(np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)) for fold in range(3)]


def recipes_of(
    estimator: str, grid: Sequence[Mapping[str, Any]], normalize: Normalize = "none"
) -> list[Recipe]:
    return [Recipe(estimator, params, CLASSES, Derivation("none", normalize), 0, False) for params in grid]


def validation_of(X: Any, y: Any, normalize: str = "none", memory: Memory = PLENTY) -> CrossValidation:
    return CrossValidation(X, y, CLASSES, standardize=normalize == "standardize", memory=memory, jobs=1)


def plainly(recipe: Recipe, X: Any, y: Any, folds: Sequence[Fold]) -> npt.NDArray[np.int64]:
    """Cross-validate by scikit-learn alone."""
    codes = np.full(len(y), NOT_HELD_OUT)
    for train, test in folds:
        learned, asked = X[train].astype(np.float64), X[test].astype(np.float64)
        if recipe.derivation.normalize == "standardize":
            mean, scale = learned.mean(axis=0), learned.std(axis=0)
            learned, asked = (learned - mean) / scale, (asked - mean) / scale
        estimator = recipe.unfitted(1.0).set_params(**recipe.params)
        if "tol" in estimator.get_params():
            estimator.set_params(tol=1e-8)
        if "max_iter" in estimator.get_params():
            estimator.set_params(max_iter=100_000)
        codes[test] = estimator.fit(learned, y[train]).predict(asked)
    return codes


GRIDS: list[tuple[str, list[dict[str, Any]]]] = [
    ("logreg", [{"C": 1e-4}, {"C": 1.0}]),
    ("logreg", [{"C": 1e-3, "class_weight": "balanced"}]),
    ("linear-svm", [{"C": 1e-4}, {"C": 1e-2}]),
    ("ridge", [{"alpha": 10.0}, {"alpha": 1e5}]),
    ("knn", [{"n_neighbors": 1}, {"n_neighbors": 7}]),
    ("rbf-svm", [{"C": 1}, {"C": 100}]),
    ("naive-bayes", [{"alpha": 0.1}, {"alpha": 10}]),
]


@pytest.mark.parametrize("normalize", ["none", "standardize"])
@pytest.mark.parametrize(("estimator", "grid"), GRIDS)
def test_held_out__says_what_scikit_learn_says(
    X: Any, y: Any, folds: Any, estimator: str, grid: Any, normalize: Normalize
) -> None:
    if estimator == "naive-bayes" and normalize == "standardize":
        pytest.skip("counts are not negative")
    before = X.copy()
    recipes = recipes_of(estimator, grid, normalize)
    found = validation_of(X, y, normalize).held_out(recipes, folds)
    for recipe, held_out in zip(recipes, found, strict=True):
        np.testing.assert_array_equal(held_out.codes, plainly(recipe, X, y, folds))
        assert (held_out.failure, held_out.warnings) == ("", ())
        assert held_out.seconds > 0
    np.testing.assert_array_equal(X, before)
    right = [(held_out.codes == y).mean() for held_out in found]
    assert max(right) < 0.95  # or all of this says little


@pytest.mark.parametrize("normalize", ["none", "standardize"])
@pytest.mark.parametrize("estimator", ["logreg", "linear-svm", "ridge", "knn", "rbf-svm"])
def test_held_out__without_room_for_inner_products(
    X: Any, y: Any, folds: Any, tmp_path: Path, estimator: str, normalize: Normalize
) -> None:
    grid = dict(GRIDS)[estimator]
    recipes = recipes_of(estimator, grid, normalize)
    by_products = validation_of(X, y, normalize).held_out(recipes, folds)
    by_features = validation_of(X, y, normalize, Memory(tmp_path, 100)).held_out(recipes, folds)
    for one, other in zip(by_products, by_features, strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)


def test_held_out__rows_that_no_fold_holds_out(X: Any, y: Any, folds: Any) -> None:
    for estimator in ("ridge", "knn", "naive-bayes"):
        [found] = validation_of(X, y).held_out(recipes_of(estimator, [{}]), folds)
        assert np.flatnonzero(found.codes == NOT_HELD_OUT).tolist() == [ROWS - 2, ROWS - 1]


def test_held_out__a_recipe_that_fails_says_why_and_the_others_go_on(
    X: Any, y: Any, folds: Any, tmp_path: Path
) -> None:
    grid = [{"n_neighbors": 3}, {"n_neighbors": 60}, {"n_neighbors": 5}]
    for memory in (PLENTY, Memory(tmp_path, 100)):
        found = validation_of(X, y, memory=memory).held_out(recipes_of("knn", grid), folds)
        assert [bool(each.failure) for each in found] == [False, True, False]
        assert "n_neighbors <= n_samples" in found[1].failure
        assert "\n" not in found[1].failure


def test_held_out__linear_heads_that_cannot_be_fitted(X: Any, y: Any, folds: Any) -> None:
    without = [(train[y[train] != 2], test) for train, test in folds]
    found = validation_of(X, y).held_out(recipes_of("logreg", [{"C": 1.0}, {"C": 2.0}]), without)
    assert ["no training row of class 'owl'" in each.failure for each in found] == [True, True]


def test_held_out__complaints_are_told(X: Any, y: Any, folds: Any) -> None:
    grid = [{"max_iter": 1, "hidden_layer_sizes": [2]}]
    [found] = validation_of(X, y).held_out(recipes_of("mlp", grid), folds)
    assert [said.split(":")[0] for said in found.warnings] == ["ConvergenceWarning"]


def test_held_out__several_at_a_time_say_the_same(X: Any, y: Any, folds: Any) -> None:
    recipes = recipes_of("forest", [{"n_estimators": 5}, {"n_estimators": 7}, {"n_estimators": 0}])
    alone = validation_of(X, y).held_out(recipes, folds)
    together = CrossValidation(X, y, CLASSES, standardize=False, memory=PLENTY, jobs=2)
    counted: list[int] = []
    for one, other in zip(alone, together.held_out(recipes, folds, counted.append), strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert one.failure == other.failure
    assert alone[2].failure
    assert sum(counted) == 9


def test_held_out__every_fit_is_counted(X: Any, y: Any, folds: Any) -> None:
    for estimator in ("ridge", "knn", "naive-bayes"):
        counted: list[int] = []
        validation_of(X, y).held_out(recipes_of(estimator, [{}, {}]), folds, counted.append)
        assert sum(counted) == 6


def test_held_out__scales_by_the_training_rows_of_each_fold(
    X: Any, y: Any, folds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes] = []
    fit = Standardization.fit

    def watched(rows: Any) -> Standardization:
        seen.append(rows.tobytes())
        return fit(rows)

    monkeypatch.setattr(Standardization, "fit", watched)
    validation = validation_of(X, y, "standardize")
    for estimator in ("ridge", "knn"):
        validation.held_out(recipes_of(estimator, [{}], "standardize"), folds)
    assert seen == [X[train].tobytes() for train, _ in folds]  # and once for both


def test_factor_of__is_asked_where_nothing_is_standardised(X: Any, y: Any, folds: Any) -> None:
    asked: list[int] = []

    def factor_of(gram: Any) -> Any:
        asked.append(len(gram.sums))
        return gram.factor

    for standardize in (False, True):
        validation = CrossValidation(
            X, y, CLASSES, standardize=standardize, memory=PLENTY, jobs=1, factor_of=factor_of
        )
        validation.held_out(recipes_of("ridge", [{}]), folds)
    assert asked == [ROWS]
