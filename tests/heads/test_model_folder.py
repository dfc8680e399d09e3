from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import HeadError, ModelError
from pipeline.heads import model_folder
from pipeline.heads.model import Model
from pipeline.heads.registry import build
from tests.heads.conftest import CLASSES, features_like_vgg
from tests.heads.test_model import CODES, model_of

X = features_like_vgg(CODES, seed=2)[:, :100]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("estimator", "file"),
    [
        ("linear", "head.safetensors"),
        ("logreg", "head.skops"),
        ("ridge", "head.skops"),
        ("knn", "head.skops"),
    ],
)
def test_round_trip(tmp_path: Path, estimator: str, file: str) -> None:
    model = replace(model_of(estimator, columns=100), warnings=("ConvergenceWarning: so so",))
    folder = tmp_path / "models" / "m"
    model_folder.save(folder, model)
    expected = [file, "history.csv"] if estimator == "linear" else [file]
    assert sorted(files_of(folder)) == [*expected, "model.json"]

    loaded = model_folder.load(folder)

    before, after = model.predict(X), loaded.predict(X)
    assert after.labels == before.labels
    if before.probabilities is not None:
        assert after.probabilities is not None
        assert after.probabilities.tobytes() == before.probabilities.tobytes()
    # Through JSON and back, all that describes it is as it was.
    assert replace(loaded, head=None) == replace(model, head=None)


def test_save__linear_is_a_torch_linear_layer(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    model = model_of("linear", columns=100)
    model_folder.save(tmp_path / "m", model)
    layer = torch.nn.Linear(100, 3)
    layer.load_state_dict(load_file(tmp_path / "m" / "head.safetensors"))
    with torch.inference_mode():
        expected = layer(torch.from_numpy(X.astype(np.float32))).softmax(1).numpy()
    probabilities = model.predict(X).probabilities
    assert probabilities is not None
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("estimator", ["linear", "logreg", "forest"])
def test_save__same_bytes_for_the_same_training(tmp_path: Path, estimator: str) -> None:
    for name in ("a", "b"):
        model_folder.save(tmp_path / name, model_of(estimator, columns=100))
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")


def test_save__description_says_what_it_is(tmp_path: Path) -> None:
    model = model_of("sklearn.linear_model.LogisticRegression", columns=100, C=float("inf"))
    model_folder.save(tmp_path / "m", model)
    stored = json.loads((tmp_path / "m" / "model.json").read_bytes())
    assert stored["format"] == 1
    assert stored["classes"] == list(CLASSES)
    assert stored["features"] == 100
    assert stored["params"]["C"] == "inf"
    assert stored["params"]["random_state"] == 0
    assert sorted(stored["versions"]) == ["numpy", "python", "scikit-learn", "skops"]
    assert stored["file"]["bytes"] == (tmp_path / "m" / "head.skops").stat().st_size


def test_save__replaces_the_old_one_whole(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    model_folder.save(folder, model_of("linear", columns=100))
    model_folder.save(folder, model_of("logreg", columns=100))
    assert sorted(files_of(folder)) == ["head.skops", "model.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def disk_full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("step", ["pipeline.heads.model_folder.write_json", "os.sync"])
def test_save__disk_full_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    folder = tmp_path / "m"
    model_folder.save(folder, model_of("logreg", columns=100))
    before = files_of(folder)
    monkeypatch.setattr(step, disk_full)
    with pytest.raises(OSError, match="No space left"):
        model_folder.save(folder, model_of("linear", columns=100))
    assert files_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_save__failed_swap_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "m"
    model_folder.save(folder, model_of("logreg", columns=100))
    before = files_of(folder)
    rename = Path.rename

    def fail_on_new(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp") and target == folder and not path.name.endswith(".old.tmp"):
            disk_full()
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_on_new)
    with pytest.raises(OSError, match="No space left"):
        model_folder.save(folder, model_of("linear", columns=100))
    assert files_of(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "logreg"
    model_folder.save(folder, model_of("logreg", columns=100))
    return folder


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "model.json"
    stored = json.loads(path.read_bytes())
    change(stored)
    path.write_text(json.dumps(stored))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: flip(folder / "head.skops"), r"head.skops is damaged: its bytes do not hash"),
        (
            lambda folder: (folder / "head.skops").write_bytes(b"PK"),
            r"is damaged: expected \d+ bytes, found 2",
        ),
        (lambda folder: (folder / "head.skops").unlink(), "weights are missing"),
        (lambda folder: (folder / "model.json").write_text("{"), "not a model's description"),
        (lambda folder: (folder / "model.json").write_text("[]"), "not a model's description"),
        (lambda folder: (folder / "model.json").write_bytes(b"\xff"), "not a model's description"),
        (lambda folder: rewrite(folder, lambda s: s.pop("classes")), "'classes' is missing"),
        (lambda folder: rewrite(folder, lambda s: s.update(format=2)), "format 2 is not known"),
        (lambda folder: rewrite(folder, lambda s: s.update(rows="36")), "rows: expected int"),
        (lambda folder: rewrite(folder, lambda s: s["identity"].pop("layer")), "identity"),
        (lambda folder: rewrite(folder, lambda s: s["classes"].pop()), "not a head of 2 classes"),
        (lambda folder: rewrite(folder, lambda s: s.update(classes=["a", "a", "b"])), "different labels"),
        (lambda folder: rewrite(folder, lambda s: s.update(features=99)), "and 99 features"),
        (lambda folder: rewrite(folder, lambda s: s["file"].update(name="../x")), "expected one of head"),
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


def test_load__head_of_another_model(saved: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    model_folder.save(other, model_of("logreg", columns=100, C=5.0))
    shutil.copy(other / "head.skops", saved / "head.skops")
    with pytest.raises(ModelError, match="damaged"):
        model_folder.load(saved)


@pytest.mark.parametrize("shape", [(3,), (2, 100)])
def test_load__safetensors_that_do_not_fit(tmp_path: Path, shape: tuple[int, ...]) -> None:
    import hashlib

    from safetensors.numpy import save

    folder = tmp_path / "m"
    model_folder.save(folder, model_of("linear", columns=100))
    data = save({"weight": np.zeros(shape, np.float32), "bias": np.zeros(3, np.float32)})
    (folder / "head.safetensors").write_bytes(data)
    rewrite(folder, lambda s: s["file"].update(bytes=len(data), sha256=hashlib.sha256(data).hexdigest()))
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
