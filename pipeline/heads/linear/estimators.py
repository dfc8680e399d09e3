"""scikit-learn's linear classifiers, fitted by this solver.

Owns the question which of their settings it takes over, and the attributes that make a fitted
estimator of what it finds. Predicts nothing: that stays scikit-learn's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.heads.factor import Factor, worth_factoring
from pipeline.heads.linear.problems import ClassWeight, Objective
from pipeline.heads.linear.subspace import PlainRows
from pipeline.heads.linear_path import fit_path

# A tenth of a sweep's: to be compared with scikit-learn's own.
_TOLERANCE = 1e-7


@dataclass(frozen=True)
class LinearHead:
    """What a linear classifier minimises.

    Attributes
    ----------
    objective : Objective
    strength : float
        Its ``C`` or ``alpha``.
    class_weight : "balanced", dict of float by label, or None
    """

    objective: Objective
    strength: float
    class_weight: Any

    def weights(self, classes: npt.NDArray[Any]) -> ClassWeight:
        """Return the class weights in the order of `classes`."""
        if isinstance(self.class_weight, Mapping):
            return tuple(float(self.class_weight.get(label, 1)) for label in classes.tolist())
        weights: ClassWeight = self.class_weight
        return weights


@dataclass(frozen=True)
class _Covered:
    objective: Objective
    strength: str
    #: Values that parameters must have. Those named in `_HOW` may have any.
    values: Mapping[str, tuple[Any, ...]]


_COVERED = {
    "sklearn.linear_model._logistic.LogisticRegression": _Covered(
        "logistic",
        "C",
        {
            "penalty": ("l2", "deprecated"),
            "l1_ratio": (None, 0),
            # liblinear penalises the intercept too
            "solver": ("lbfgs", "newton-cg", "newton-cholesky", "sag", "saga"),
            "multi_class": ("auto", "multinomial", "deprecated"),
            "warm_start": (False,),
        },
    ),
    "sklearn.svm._classes.LinearSVC": _Covered(
        "squared-hinge",
        "C",
        {"penalty": ("l2",), "loss": ("squared_hinge",), "multi_class": ("ovr",), "intercept_scaling": (1,)},
    ),
    "sklearn.linear_model._ridge.RidgeClassifier": _Covered("squared", "alpha", {"positive": (False,)}),
}

#: Parameters that say how the optimum is found, and not which one it is.
_HOW = {
    "copy_X",
    "dual",
    "intercept_scaling",
    "max_iter",
    "n_jobs",
    "random_state",
    "solver",
    "tol",
    "verbose",
}


def linear_head(estimator: Any) -> LinearHead | None:
    """Say what an estimator minimises, or None where this solver does not find its optimum.

    Parameters
    ----------
    estimator : object
        Unfitted. LogisticRegression (not by ``liblinear``), LinearSVC and RidgeClassifier with the
        squared norm as penalty and an intercept are covered; their subclasses are not.
    """
    kind = type(estimator)
    covered = _COVERED.get(f"{kind.__module__}.{kind.__qualname__}")
    if covered is None:
        return None
    params: dict[str, Any] = estimator.get_params(deep=False)
    strength, class_weight = params.pop(covered.strength), params.pop("class_weight")
    values = {"fit_intercept": (True,), **covered.values}
    for name, value in params.items():
        if (name in values and value not in values[name]) or (name not in values and name not in _HOW):
            return None
    if not (isinstance(strength, int | float) and 0 < strength < math.inf):
        return None
    return LinearHead(covered.objective, float(strength), class_weight)


def fit_estimator(estimator: Any, X: npt.NDArray[np.floating[Any]], y: npt.NDArray[Any]) -> Any:
    """Fit an estimator that `linear_head` covers.

    Parameters
    ----------
    estimator : LogisticRegression, LinearSVC or RidgeClassifier
    X : ndarray of float16, float32 or float64, shape (n, D)
        Finite. Its float16 is read as it is, where scikit-learn would make float64 of it.
    y : ndarray, shape (n,)
        Labels of at least two classes.

    Returns
    -------
    object
        The estimator, fitted. Its coefficients agree with scikit-learn's own, converged, to the precision
        of X.

    Raises
    ------
    HeadError
        There are fewer than two classes.
    """
    head = linear_head(estimator)
    if head is None:
        raise ValueError(f"{estimator!r} minimises something else: fit it by its own method")
    classes, codes = np.unique(y, return_inverse=True)
    dtype = np.promote_types(X.dtype, np.float32)
    if head.objective == "squared-hinge" and worth_factoring(*X.shape):
        # For one head liblinear needs no patience where C is large.
        factor = Factor.of(X)
        learned = _liblinear(estimator, factor.matrix, y)
        learned["coef_"] = factor.coefficients(learned["coef_"], X)
    else:
        learned = _learned(head, PlainRows.of(X.astype(dtype, copy=False)), codes, classes)
    learned["coef_"] = learned["coef_"].astype(dtype)
    # Past the properties: in some releases classes_ of a RidgeClassifier is one.
    vars(estimator).update(learned, n_features_in_=X.shape[1])
    return estimator


def _learned(
    head: LinearHead, rows: PlainRows, codes: npt.NDArray[np.integer], classes: npt.NDArray[Any]
) -> dict[str, Any]:
    """Fit one head to all rows, and name what it learned as scikit-learn does."""
    everything = np.arange(len(codes))
    fit = fit_path(
        rows,
        codes,
        [str(label) for label in classes],
        [(everything, everything[:0])],
        [head.strength],
        head.objective,
        class_weight=head.weights(classes),
        tolerance=_TOLERANCE,
    )
    iterations = int(fit.iterations.max())
    learned = {
        "classes_": classes,
        "coef_": fit.coefficients[0, 0],
        "intercept_": fit.intercepts[0, 0],
        "n_iter_": iterations if head.objective == "squared-hinge" else np.array([iterations], np.int32),
    }
    if head.objective == "squared":
        from sklearn.preprocessing import LabelBinarizer

        learned["_label_binarizer"] = LabelBinarizer(pos_label=1, neg_label=-1).fit(classes)
    return learned


def _liblinear(estimator: Any, rows: npt.NDArray[np.float64], y: npt.NDArray[Any]) -> dict[str, Any]:
    """Fit a LinearSVC by its own method, and return what it learned."""
    from sklearn.base import clone

    inner = clone(estimator)
    if inner.dual == "auto":
        inner.set_params(dual=True)  # as "auto" has it on the features, of which there are more than rows
    inner.fit(rows, y)
    return {name: value for name, value in vars(inner).items() if name.endswith("_")}
