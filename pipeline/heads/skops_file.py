"""Scikit-learn heads as bytes that hold no code: skops archives with a list of trusted types.

Owns the list, and the bytes: the same head gives the same archive. It never unpickles.
"""

from __future__ import annotations

import io
import itertools
import json
import threading
import zipfile
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.errors import HeadError, ModelError

#: What a head may be made of, beside numbers, text, arrays and containers: every classifier of
#: scikit-learn 1.9 that needs no other estimator as a parameter, with the parts that a fitted one holds.
#: Two are on it because their contents are checked after loading: `Tree` and `TreePredictor` hold node
#: numbers that scikit-learn follows without looking. `KDTree` is not: it does the same, in more ways.
TRUSTED_TYPES: tuple[str, ...] = (
    "sklearn.calibration.CalibratedClassifierCV",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
    "sklearn.discriminant_analysis.QuadraticDiscriminantAnalysis",
    "sklearn.dummy.DummyClassifier",
    "sklearn.ensemble._bagging.BaggingClassifier",
    "sklearn.ensemble._forest.ExtraTreesClassifier",
    "sklearn.ensemble._forest.RandomForestClassifier",
    "sklearn.ensemble._gb.GradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.gradient_boosting.HistGradientBoostingClassifier",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.ensemble._weight_boosting.AdaBoostClassifier",
    "sklearn.gaussian_process._gpc.GaussianProcessClassifier",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.linear_model._logistic.LogisticRegressionCV",
    "sklearn.linear_model._passive_aggressive.PassiveAggressiveClassifier",
    "sklearn.linear_model._perceptron.Perceptron",
    "sklearn.linear_model._ridge.RidgeClassifier",
    "sklearn.linear_model._ridge.RidgeClassifierCV",
    "sklearn.linear_model._stochastic_gradient.SGDClassifier",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.multiclass.OneVsRestClassifier",
    "sklearn.naive_bayes.BernoulliNB",
    "sklearn.naive_bayes.CategoricalNB",
    "sklearn.naive_bayes.ComplementNB",
    "sklearn.naive_bayes.GaussianNB",
    "sklearn.naive_bayes.MultinomialNB",
    "sklearn.neighbors._classification.KNeighborsClassifier",
    "sklearn.neighbors._classification.RadiusNeighborsClassifier",
    "sklearn.neighbors._nearest_centroid.NearestCentroid",
    "sklearn.neural_network._multilayer_perceptron.MLPClassifier",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.preprocessing._label.LabelBinarizer",
    "sklearn.preprocessing._label.LabelEncoder",
    "sklearn.semi_supervised._label_propagation.LabelPropagation",
    "sklearn.semi_supervised._label_propagation.LabelSpreading",
    "sklearn.svm._classes.LinearSVC",
    "sklearn.svm._classes.NuSVC",
    "sklearn.svm._classes.SVC",
    "sklearn.tree._classes.DecisionTreeClassifier",
    "sklearn.tree._classes.DecisionTreeRegressor",
    "sklearn.tree._classes.ExtraTreeClassifier",
    "sklearn.tree._tree.Tree",
)

# What skops, zipfile, numpy and scikit-learn's __setstate__ raise on archives that are not ours.
_UNREADABLE = (
    zipfile.BadZipFile, KeyError, ValueError, TypeError, AttributeError, IndexError, ImportError,
    EOFError, OSError, NotImplementedError, RecursionError, OverflowError,
)  # fmt: skip

_importing = threading.Lock()  # of two threads one would take the other's stand-in for the original


def dump(head: Any) -> bytes:
    """Turn a fitted scikit-learn head into an archive.

    Returns
    -------
    bytes
        The same for the same head: no addresses, no times.

    Raises
    ------
    HeadError
        It holds something that skops cannot write, or a type that is not trusted.
    """
    skops = import_skops()
    try:
        archive = skops.dumps(head)
        untrusted = set(skops.get_untrusted_types(data=archive)) - set(TRUSTED_TYPES)
    except TypeError as error:
        raise HeadError(f"it cannot be written without pickle ({' '.join(str(error).split())})") from None
    if untrusted:
        raise HeadError(
            f"it holds types that are not on the list of trusted ones: {', '.join(sorted(untrusted))}"
        )
    return _canonical(archive)


def load(archive: bytes) -> Any:
    """Rebuild a head from `dump`'s archive.

    Raises
    ------
    ModelError
        The archive is malformed, holds a type that is not trusted, or a tree that points
        outside itself.
    """
    skops = import_skops()
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as members:
            # dump() compresses nothing, so what unpacks to more than it takes up was made to fill memory.
            if any(member.compress_type != zipfile.ZIP_STORED for member in members.infolist()):
                raise ModelError("compressed members, which this pipeline never writes")
        head = skops.loads(archive, trusted=list(TRUSTED_TYPES))
        for part in _parts(head, set()):
            _check_tree(part, head.n_features_in_)
    except _UNREADABLE as error:
        raise ModelError(" ".join(str(error).split("\n\n")[0].split()) or type(error).__name__) from None
    return head


def import_skops() -> ModuleType:
    """Import ``skops.io`` without all of scikit-learn.

    On import skops lists every estimator to trust them by default, for which scikit-learn imports
    every module it has, and with its array-API layer torch: 3.4 s. The list above takes the place
    of that default, so the listing is skipped: 0.3 s.
    """
    import sklearn.utils

    with _importing:
        all_estimators = sklearn.utils.all_estimators
        sklearn.utils.all_estimators = list
        try:
            import skops.io
        finally:
            sklearn.utils.all_estimators = all_estimators
    module: ModuleType = skops.io
    return module


def _canonical(archive: bytes) -> bytes:
    """Write an archive anew with objects numbered in order; skops uses their memory addresses."""
    numbers: dict[str, str] = {}
    counter = itertools.count(1)

    def number(address: str) -> str:
        if address not in numbers:
            numbers[address] = str(next(counter))
        return numbers[address]

    files: dict[str, str] = {}

    def renumbered(node: Any) -> Any:
        if isinstance(node, list):
            return [renumbered(item) for item in node]
        if not isinstance(node, dict):
            return node
        copy: dict[str, Any] = {}
        for key, value in node.items():
            if key == "__id__" and isinstance(value, int):
                copy[key] = int(number(str(value)))
            elif key == "file" and isinstance(value, str):
                address, dot, suffix = value.partition(".")
                copy[key] = files[value] = number(address) + dot + suffix
            else:
                copy[key] = renumbered(value)
        return copy

    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(result, "w") as target:
        schema = renumbered(json.loads(source.read("schema.json")))
        for old, new in files.items():
            target.writestr(zipfile.ZipInfo(new), source.read(old))  # ZipInfo's time is 1980-01-01
        target.writestr(zipfile.ZipInfo("schema.json"), json.dumps(schema))
    return result.getvalue()


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Yield every object that a head consists of, itself first."""
    if id(value) in seen or isinstance(value, str | bytes | int | float):
        return
    seen.add(id(value))
    yield value
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.values()
    elif isinstance(value, list | tuple | set):
        inner = value
    elif isinstance(value, np.ndarray):
        inner = value.ravel().tolist() if value.dtype == object else ()
    elif hasattr(value, "__dict__"):
        inner = vars(value).values()
    for item in inner:
        yield from _parts(item, seen)


def _check_tree(part: Any, n_features: int) -> None:
    """Refuse a decision tree whose nodes point outside the tree, backwards, or at no feature.

    Scikit-learn follows children and features without a bounds check; a bad number would crash
    the process or never end. Its own trees have every child after its parent.
    """
    kind = type(part).__name__
    if kind == "Tree":
        left, right, feature = part.children_left, part.children_right, part.feature
        inner = left != -1
    elif kind == "TreePredictor":
        nodes = part.nodes
        left, right, feature = (nodes[name].astype(np.int64) for name in ("left", "right", "feature_idx"))
        inner = nodes["is_leaf"] == 0
        if nodes["is_categorical"].any():
            raise ModelError("a tree splits on categories, which features are not")
    else:
        return
    parents = np.flatnonzero(inner)
    for children in (left[inner], right[inner]):
        if (children <= parents).any() or (children >= len(left)).any():
            raise ModelError("a tree's node points outside the tree")
    if (feature[inner] < 0).any() or (feature[inner] >= n_features).any():
        raise ModelError("a tree's node asks for a feature that does not exist")
