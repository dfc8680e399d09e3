from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import HeadError
from pipeline.heads.registry import PRESETS, build


@pytest.mark.parametrize("name", PRESETS)
def test_build__preset_is_its_class_with_its_parameters(name: str) -> None:
    estimator = build(name, {}, seed=3)
    assert f"{type(estimator).__module__}.{type(estimator).__name__}".startswith(("sklearn.", "pipeline."))
    assert type(estimator).__name__ == PRESETS[name].path.rpartition(".")[2]
    found = estimator.get_params()
    assert {key: found[key] for key in PRESETS[name].params} == PRESETS[name].params
    assert PRESETS[name].note


def test_build__every_head_the_issue_names_is_there() -> None:
    expected = "linear logreg linear-svm ridge knn rbf-svm lda forest boosting hist-boosting naive-bayes mlp"
    assert sorted(PRESETS) == sorted(expected.split())


def test_build__dotted_path_has_scikit_learns_own_defaults() -> None:
    from sklearn.linear_model import LogisticRegression

    estimator = build("sklearn.linear_model.LogisticRegression", {"C": 0.5}, seed=3)
    assert estimator.get_params() == LogisticRegression(C=0.5, random_state=3).get_params()


def test_build__the_users_parameters_override_the_presets() -> None:
    assert build("logreg", {"C": 12.5}, seed=0).C == 12.5
    assert build("logreg", {"C": 12.5}, seed=0, norm=10).C == 12.5
    assert build("knn", {"metric": "euclidean"}, seed=0).metric == "euclidean"


def test_build__regularisation_follows_the_norm_and_is_rounded() -> None:
    logreg = build("logreg", {}, seed=0, norm=1919.9)
    assert (logreg.C, logreg.tol) == (1.36e-4, 1.92e-2)
    assert build("linear-svm", {}, seed=0, norm=1919.9).C == 5.43e-7
    assert build("ridge", {}, seed=0, norm=1919.9).alpha == 1.84e6
    assert build("knn", {}, seed=0, norm=7).get_params() == build("knn", {}, seed=0).get_params()


def test_build__seed_becomes_random_state_unless_the_user_sets_one() -> None:
    assert build("forest", {}, seed=5).random_state == 5
    assert build("forest", {"random_state": 11}, seed=5).random_state == 11
    assert "random_state" not in build("knn", {}, seed=5).get_params()


@pytest.mark.parametrize(
    ("estimator", "params", "message"),
    [
        ("logrge", {}, "'logrge': unknown.*Did you mean 'logreg'"),
        ("", {}, "unknown"),
        ("sklearn", {}, "unknown"),
        ("sklearn.linear_model.Logistic Regression", {}, "unknown"),
        ("sklearn.no_such_module.Thing", {}, "No module named 'sklearn.no_such_module'"),
        ("sklearn.linear_model.LogisticRegresion", {}, "has no 'LogisticRegresion'.*'LogisticRegression'"),
        ("sklearn.linear_model.Ridge", {}, "not a classifier"),
        ("sklearn.datasets.load_digits", {}, "not a classifier"),
        ("sklearn.svm._base.BaseSVC", {}, "abstract"),
        ("sklearn.multiclass.OneVsRestClassifier", {}, "needs the parameter 'estimator'"),
        ("logreg", {"c": 1}, "has no parameter 'c'.*Did you mean 'C'|has no parameter 'c'"),
        ("knn", {"n_neighbours": 1}, "no parameter 'n_neighbours'.*Did you mean 'n_neighbors'"),
        ("linear", {"epoch": 1}, "no parameter 'epoch'.*Did you mean 'epochs'"),
        ("logreg", {"C\x1b": 1}, r"'C\\x1b'"),
        ("logreg", {1: 1}, "no parameter '1'"),
    ],
)
def test_build__what_cannot_be_built(estimator: str, params: dict[Any, Any], message: str) -> None:
    with pytest.raises(HeadError, match=message) as caught:
        build(estimator, params, seed=0)
    assert "\n" not in str(caught.value)


FOREIGN = """
import pathlib
pathlib.Path({mark!r}).touch()
from sklearn.dummy import DummyClassifier
class Foreign(DummyClassifier):
    def __init__(self, depth=1, **kwargs):
        super().__init__()
        self.depth = depth
"""


def test_build__foreign_class_is_not_imported_without_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "imported"
    (tmp_path / "foreign_heads.py").write_text(FOREIGN.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign_heads", raising=False)

    with pytest.raises(HeadError, match=re.escape("outside scikit-learn") + ".*--trust"):
        build("foreign_heads.Foreign", {}, seed=0)
    assert not mark.exists()

    assert build("foreign_heads.Foreign", {"depth": 4}, seed=0, trust=True).depth == 4
    assert mark.exists()


@pytest.mark.parametrize("path", ["sklearnish.Foreign", "os.system", "pipeline.heads.torch_head.TorchLinear"])
def test_build__look_alikes_are_foreign(path: str) -> None:
    with pytest.raises(HeadError, match="--trust"):
        build(path, {}, seed=0)
