"""Model folders that are not as they were written, or hold a pickle."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import HeadError, ModelError, ParamsError
from pipeline.heads import model_folder
from pipeline.heads.model import Model
from pipeline.heads.registry import build
from pipeline.workspace import Workspace
from tests.heads.model_files import X, described, flip, rewrite
from tests.heads.test_model import CODES, model_of


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "logreg"
    model_folder.save(folder, model_of("logreg", columns=100))
    return folder


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: flip(folder / "head.skops"), r"head.skops is damaged: its bytes do not hash"),
        (
            lambda folder: (folder / "head.skops").write_bytes(b"PK"),
            r"is damaged: expected \d+ bytes, found 2",
        ),
        (lambda folder: (folder / "head.skops").unlink(), "head.skops: this file of the model is missing"),
        (lambda folder: (folder / "model.json").write_text("{"), "not a model's description"),
        (lambda folder: (folder / "model.json").write_text("[]"), "not a model's description"),
        (lambda folder: (folder / "model.json").write_bytes(b"\xff"), "not a model's description"),
        (lambda folder: rewrite(folder, lambda s: s.pop("classes")), "'classes' is missing"),
        (
            lambda folder: rewrite(folder, lambda s: s.update(format=1)),
            "format 1 is not that of this",
        ),
        (lambda folder: rewrite(folder, lambda s: s.update(rows="36")), "rows: expected int"),
        (lambda folder: rewrite(folder, lambda s: s["identity"].pop("layer")), "identity"),
        (lambda folder: rewrite(folder, lambda s: s["classes"].pop()), "not a head of 2 classes"),
        (lambda folder: rewrite(folder, lambda s: s.update(classes=["a", "a", "b"])), "different labels"),
        (lambda folder: rewrite(folder, lambda s: s.update(features=99)), "and 99 features"),
        (lambda folder: rewrite(folder, lambda s: s["files"].pop("head.skops")), "expected one of head"),
        (
            lambda folder: rewrite(folder, lambda s: s["files"].update({"../x": s["files"]["head.skops"]})),
            "'../x' cannot be the name",
        ),
        (
            lambda folder: rewrite(
                folder, lambda s: s["files"].update({"head.joblib": s["files"]["head.skops"]})
            ),
            "files: expected one of head",
        ),
        (lambda folder: rewrite(folder, lambda s: s.update(pooling="min")), "pooling: expected one of none"),
        (lambda folder: rewrite(folder, lambda s: s.update(pooling="avg")), "expected 512 after pooling"),
        (lambda folder: rewrite(folder, lambda s: s.pop("normalize")), "'normalize' is missing"),
        (
            lambda folder: rewrite(folder, lambda s: s.update(normalize="standardize")),
            "standardization.safetensors and normalize standardize do not fit",
        ),
        (
            lambda folder: rewrite(folder, lambda s: s.update(train_on="train+val")),
            r"out_of_fold.safetensors and train_on train\+val do not fit",
        ),
        (
            lambda folder: rewrite(folder, lambda s: s.update(train_on="test")),
            "train_on: expected one of train",
        ),
        (lambda folder: rewrite(folder, lambda s: s.update(unsure_below=2)), "unsure_below: expected"),
        (
            lambda folder: rewrite(folder, lambda s: s.update(calibration={"temperature": 0, "rows": 3})),
            "calibration.temperature: expected a number above 0",
        ),
        (
            lambda folder: rewrite(folder, lambda s: s.update(calibration={"temperature": 1})),
            "calibration.rows: missing",
        ),
        (lambda folder: shutil.rmtree(folder), "no such model. Run `pipeline train logreg` first"),
    ],
)
def test_load__refuses_what_is_not_as_it_was_written(
    saved: Path, harm: Callable[[Path], Any], message: str
) -> None:
    harm(saved)
    with pytest.raises(ModelError, match=message) as caught:
        model_folder.load(saved)
    assert "pipeline train logreg" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_load__a_name_that_is_nearly_right(saved: Path) -> None:
    shutil.copytree(saved, saved.with_name(f".{saved.name}.12ab.tmp"))
    typo = saved.with_name(f"{saved.name}x")
    with pytest.raises(ModelError) as caught:
        model_folder.load(typo)
    assert str(caught.value) == (
        f"{typo}: no such model. Did you mean {saved.name!r}? Name one of those that are there: "
        f"{saved.name}; or train another head of params.yaml: `pipeline train HEAD`."
    )


@pytest.mark.parametrize("inside", ["", "logreg"])
def test_load__a_file_in_the_place_of_a_model(tmp_path: Path, inside: str) -> None:
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(
        ModelError, match=r"photo\.jpg is a file, and no model's folder\. MODEL comes first: "
    ):
        model_folder.load(tmp_path / "photo.jpg" / inside)


def test_folder_of__a_name_or_a_path(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (workspace.models_folder / "knn").mkdir(parents=True)
    for name in ("knn", "photo.jpg"):
        (tmp_path / name).touch()
    assert model_folder.folder_of(workspace, "knn") == workspace.model_folder("knn")  # beside a file
    assert model_folder.folder_of(workspace, "./knn") == Path("knn")
    with pytest.raises(ModelError, match=r"^photo\.jpg is a file, .* MODEL comes first: "):
        model_folder.folder_of(workspace, "photo.jpg")
    with pytest.raises(ParamsError, match=r"head 'absent\.jpg'"):
        model_folder.folder_of(workspace, "absent.jpg")


def test_load__head_of_another_model(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model_folder.save(other, model_of("logreg", columns=100, C=5.0))
    shutil.copy(other / "head.skops", saved / "head.skops")
    with pytest.raises(ModelError, match="damaged"):
        model_folder.load(saved)


@pytest.mark.parametrize("shape", [(3,), (2, 100)])
def test_load__safetensors_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    from safetensors.numpy import save

    folder = tmp_path / "m"
    model_folder.save(folder, model_of("linear", columns=100))
    data = save({"weight": np.zeros(shape, np.float32), "bias": np.zeros(3, np.float32)})
    (folder / "head.safetensors").write_bytes(data)
    rewrite(folder, lambda s: s["files"].update({"head.safetensors": described(data)}))
    with pytest.raises(ModelError, match="do not fit"):
        model_folder.load(folder)


FOREIGN = """
from sklearn.neighbors import KNeighborsClassifier
class Foreign(KNeighborsClassifier):
    pass
"""


def test_pickle__only_with_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "foreign_neighbours.py").write_text(FOREIGN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign_neighbours", raising=False)
    head = build("foreign_neighbours.Foreign", {"algorithm": "brute"}, seed=0, trust=True)
    head.fit(X.astype(np.float32), CODES)
    model: Model = replace(model_of("knn", columns=100), estimator="foreign_neighbours.Foreign", head=head)
    folder = tmp_path / "m"

    with pytest.raises(HeadError, match=r"foreign_neighbours.Foreign.*--trust"):
        model_folder.save(folder, model)
    assert not folder.exists()

    model_folder.save(folder, model, trust=True)
    assert (folder / "head.joblib").is_file()
    with pytest.raises(ModelError, match=r"a pickle, which can run any code: give `--trust`"):
        model_folder.load(folder)
    assert model_folder.load(folder, trust=True).predict(X).labels == model.predict(X).labels


def test_trust__needs_no_pickle_where_skops_will_do(tmp_path: Path) -> None:
    model_folder.save(tmp_path / "m", model_of("logreg", columns=100), trust=True)
    assert (tmp_path / "m" / "head.skops").is_file()


def test_load__says_that_another_scikit_learn_wrote_it(
    saved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sklearn.base

    monkeypatch.setattr(sklearn.base, "__version__", "99.0")
    model_folder.load(saved)
    said = capsys.readouterr().err
    assert said.startswith("warning: ")
    assert "99.0" in said
    assert said.count("\n") == 1
