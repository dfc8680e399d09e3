from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int64]
Folds = list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]


def rows_like_vgg(n: int, columns: int, k: int, seed: int = 0) -> tuple[npt.NDArray[np.float16], Codes]:
    """Rows of 0 or more, 85 % zeros, up to 812, of classes that overlap and are of unequal size."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % k
    y[: n // 4] = 0
    X = random.exponential(150, (n, columns)) * (random.random((n, columns)) < 0.15)
    for code in range(k):
        X[y == code, 5 * code : 5 * code + 5] += random.exponential(40, ((y == code).sum(), 5))
    return np.minimum(X, 811.5).astype(np.float16), y


def stratified(y: Codes, folds: int = 3) -> Folds:
    from sklearn.model_selection import StratifiedKFold

    return list(StratifiedKFold(folds, shuffle=True, random_state=0).split(y, y))


def logistic(C: float, **parameters: Any) -> Any:
    """scikit-learn's, iterated until nothing moves."""
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, solver="newton-cg", tol=1e-11, max_iter=50_000, **parameters)


def linear_svm(C: float, **parameters: Any) -> Any:
    from sklearn.svm import LinearSVC

    return LinearSVC(C=C, tol=1e-11, max_iter=1_000_000, random_state=0, **parameters)


def ridge(alpha: float, **parameters: Any) -> Any:
    from sklearn.linear_model import RidgeClassifier

    return RidgeClassifier(alpha=alpha, solver="cholesky", **parameters)
