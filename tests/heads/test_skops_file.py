from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.errors import HeadError, ModelError
from pipeline.heads import skops_file
from pipeline.heads.registry import build

RANDOM = np.random.default_rng(0)
X = RANDOM.random((60, 12)).astype(np.float32)
y = np.arange(60) % 3
X[np.arange(60), y] += 2


def fitted(estimator: str, **params: Any) -> Any:
    return build(estimator, params, seed=0).fit(X, y)


CLASSIFIERS: dict[str, dict[str, Any]] = {
    "calibration.CalibratedClassifierCV": {"cv": 2},
    "discriminant_analysis.LinearDiscriminantAnalysis": {},
    "ensemble.AdaBoostClassifier": {"n_estimators": 3},
    "ensemble.BaggingClassifier": {"n_estimators": 3, "max_features": 0.5},
    "ensemble.ExtraTreesClassifier": {"n_estimators": 3},
    "ensemble.GradientBoostingClassifier": {"n_estimators": 3},
    "ensemble.HistGradientBoostingClassifier": {"max_iter": 3},
    "ensemble.RandomForestClassifier": {"n_estimators": 3},
    "gaussian_process.GaussianProcessClassifier": {"optimizer": None},
    "linear_model.LogisticRegression": {},
    "linear_model.LogisticRegressionCV": {"Cs": 2, "cv": 2},
    "linear_model.Perceptron": {},
    "linear_model.RidgeClassifier": {},
    "linear_model.RidgeClassifierCV": {},
    "linear_model.SGDClassifier": {},
    "naive_bayes.BernoulliNB": {},
    "naive_bayes.ComplementNB": {},
    "naive_bayes.GaussianNB": {},
    "naive_bayes.MultinomialNB": {},
    "neighbors.NearestCentroid": {},
    "neural_network.MLPClassifier": {"max_iter": 3},
    "semi_supervised.LabelSpreading": {},
    "svm.LinearSVC": {},
    "svm.NuSVC": {},
    "svm.SVC": {},
    "tree.DecisionTreeClassifier": {},
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("path", CLASSIFIERS)
def test_round_trip__same_predictions_same_bytes(path: str) -> None:
    head = fitted(f"sklearn.{path}", **CLASSIFIERS[path])
    archive = skops_file.dump(head)
    assert skops_file.dump(fitted(f"sklearn.{path}", **CLASSIFIERS[path])) == archive
    loaded = skops_file.load(archive)
    assert type(loaded) is type(head)
    method = "predict_proba" if hasattr(head, "predict_proba") else "predict"
    np.testing.assert_array_equal(getattr(loaded, method)(X), getattr(head, method)(X))


def test_round_trip__neighbours_keep_their_rows_as_they_were() -> None:
    head = fitted("knn")
    loaded = skops_file.load(skops_file.dump(head))
    assert loaded._fit_X.dtype == np.float32
    np.testing.assert_array_equal(loaded.predict_proba(X), head.predict_proba(X))


def test_dump__holds_neither_addresses_nor_times() -> None:
    with zipfile.ZipFile(io.BytesIO(skops_file.dump(fitted("logreg")))) as members:
        assert {member.date_time for member in members.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert all(len(member.filename) < 12 for member in members.infolist()[:-1])
        assert json.loads(members.read("schema.json"))["__id__"] < 100


def test_dump__type_that_is_not_trusted() -> None:
    head = build("sklearn.neighbors.KNeighborsClassifier", {"algorithm": "kd_tree"}, seed=0).fit(X, y)
    with pytest.raises(
        HeadError, match=r"not on the list of trusted ones: sklearn.neighbors._kd_tree.KDTree"
    ):
        skops_file.dump(head)


def test_load__type_that_is_not_trusted() -> None:
    archive = changed(
        skops_file.dump(fitted("logreg")), lambda text: text.replace("LogisticRegression", "Popen")
    )
    with pytest.raises(ModelError, match="Untrusted types"):
        skops_file.load(archive)


def test_load__function_in_the_archive_is_not_called(tmp_path: Any) -> None:
    import skops.io

    archive = skops.io.dumps({"call": np.sum, "os": __import__("os").system})
    with pytest.raises(ModelError, match="Untrusted types"):
        skops_file.load(archive)


def changed(archive: bytes, of: Callable[[str], str], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Rewrite the schema of an archive."""
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(result, "w", compression) as target:
        for member in source.namelist():
            data = source.read(member)
            target.writestr(member, of(data.decode()) if member == "schema.json" else data)
    return result.getvalue()


def test_load__compressed_archive() -> None:
    archive = changed(skops_file.dump(fitted("logreg")), str, zipfile.ZIP_DEFLATED)
    with pytest.raises(ModelError, match="compressed"):
        skops_file.load(archive)


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.999])
def test_load__truncated(keep: float) -> None:
    archive = skops_file.dump(fitted("logreg"))
    with pytest.raises(ModelError):
        skops_file.load(archive[: int(keep if keep >= 1 else keep * len(archive))])


@pytest.mark.parametrize("schema", ["{}", "[]", "not json", '{"protocol": 99, "__loader__": "ObjectNode"}'])
def test_load__schema_that_is_none(schema: str) -> None:
    with pytest.raises(ModelError):
        skops_file.load(changed(skops_file.dump(fitted("logreg")), lambda _: schema))


HISTOGRAMS = "sklearn.ensemble.HistGradientBoostingClassifier"
FEW_TREES = {
    "forest": {"n_estimators": 2},
    HISTOGRAMS: {"max_iter": 2},
}


def with_nodes(estimator: str, field: str, value: int) -> bytes:
    """An archive of trees in which `field` of every first node is `value`."""
    archive = skops_file.dump(fitted(estimator, **FEW_TREES[estimator]))
    result, hit = io.BytesIO(), 0
    with zipfile.ZipFile(io.BytesIO(archive)) as source, zipfile.ZipFile(result, "w") as target:
        for member in source.namelist():
            data = source.read(member)
            if member.endswith(".npy"):
                array = np.load(io.BytesIO(data))
                if array.dtype.names and field in array.dtype.names:
                    array[field][0] = value
                    hit += 1
                    buffer = io.BytesIO()
                    np.save(buffer, array)
                    data = buffer.getvalue()
            target.writestr(member, data)
    assert hit
    return result.getvalue()


@pytest.mark.parametrize(
    ("estimator", "field", "value"),
    [
        ("forest", "left_child", 10**9),
        ("forest", "right_child", -7),
        ("forest", "left_child", 0),
        ("forest", "feature", 12),
        ("forest", "feature", -3),
        (HISTOGRAMS, "left", 10**9),
        (HISTOGRAMS, "right", 0),
        (HISTOGRAMS, "feature_idx", 12),
        (HISTOGRAMS, "is_categorical", 1),
    ],
)
def test_load__tree_that_points_outside_itself(estimator: str, field: str, value: int) -> None:
    with pytest.raises(ModelError, match="a tree"):
        skops_file.load(with_nodes(estimator, field, value))


def test_import__neither_torch_nor_every_module_of_scikit_learn() -> None:
    code = """
import sys
from pipeline.heads import skops_file
from sklearn.linear_model import LogisticRegression
import sklearn.utils
before = sklearn.utils.all_estimators
skops_file.load(skops_file.dump(LogisticRegression().fit([[0.], [1.]], [0, 1])))
assert sklearn.utils.all_estimators is before
print([name for name in ("torch", "pytest", "sklearn.gaussian_process") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_import__by_two_threads_at_once_leaves_scikit_learn_as_it_was() -> None:
    code = """
import threading
import sklearn.utils
from pipeline.heads.skops_file import import_skops
before = sklearn.utils.all_estimators
threads = [threading.Thread(target=import_skops) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sklearn.utils.all_estimators is before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"
